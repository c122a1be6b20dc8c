"""Cautions: what to know before a picture is believed, with the examples that it is about, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from lrp_fx.report.ledger import CANCELLATION_LIMIT, UNEXPLAINED_LIMIT, Ledger

_NAMED = 6


class Kind(Protocol):
    """What of a target decides the advice."""

    @property
    def kind(self) -> str: ...


def cautions(ledger: Ledger, target: Kind) -> Iterator[str]:
    """One sentence for each thing that is doubtful of the scores."""
    zero = ledger.score == 0
    if bool(zero.any()):
        yield (
            f"the score is 0{where(zero)}: shares of it say nothing\n    next: explain what the model decides by, "
            f"{instead(target)}"
        )
    cancel = (ledger.cancellation > CANCELLATION_LIMIT) & ~zero
    if bool(cancel.any()):
        ratio = torch.where(cancel, ledger.cancellation, 0.0)
        worst = int(ratio.argmax())
        of = f"of example {worst}," if len(ratio) > 1 else "of"
        yield (
            f"the parts of the score cancel{where(cancel)} ({float(ratio[worst]):.1f} times the score {of} "
            f"{float(ledger.score[worst]):+.4g}, which is small beside what speaks for and against it): read the "
            f"picture with care\n    next: explain what the model decides by, {instead(target)}"
        )
    lost = ledger.unexplained
    much = lost > UNEXPLAINED_LIMIT
    if bool(much.any()):
        yield (
            f"{float(lost.max()):.1%} of the score is unexplained{where(much)}: it went through operations that no "
            "rule knows; explainer.coverage counts them, convert(strict=True) names them"
        )


def where(doubtful: Tensor) -> str:
    """The examples that it holds for; nothing where there is one only."""
    numbers = doubtful.nonzero().flatten().tolist()
    if len(doubtful) == 1 or not numbers:
        return ""
    if len(numbers) == 1:
        return f" in example {numbers[0]}"
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f" in examples {', '.join(map(str, numbers[:_NAMED]))}{more}"


def instead(target: Kind) -> str:
    """What may be a better question than the one asked."""
    if target.kind == "contrast":
        return "a pair of outputs that it tells apart: this margin is small, the model is undecided"
    if target.kind in ("predicted", "class"):
        return "the margin to the next best output, target=Contrast(this, other)"
    return "a difference of two outputs, target=Contrast(this, other)"
