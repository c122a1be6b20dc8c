"""Verify: can the explanation of this model on these inputs be trusted?

requires  a model and inputs it runs on
ensures   a report that says what was compared with what; nothing is raised for books that do not close
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.capture.compare import inference_configuration
from lrp_fx.errors import ConservationError, InputError
from lrp_fx.report.ledger import CANCELLATION_LIMIT, Ledger, SiteBalance
from lrp_fx.report.tokens import TOKEN_CANCELLATION_LIMIT
from lrp_fx.rule import Ruleset
from lrp_fx.runtime.agreement import output_difference
from lrp_fx.runtime.convert import convert


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    ``forward_difference``: largest difference between the model's floating outputs and those of the relevance graph, in
    units in the last place of the largest value; ``forward_allowed``: how large it may be, by the narrowest type on the
    way (as in `Agreement`). ``bitwise``: are all outputs equal to the last bit? ``coverage``:
    nodes by rule, under ``rule``, ``inferred`` and ``unexplained``. ``ledger_error``, ``cancellation``: the largest of
    the batch (`Ledger.error`, `Ledger.cancellation`). ``token_cancellation``: the same of tokens among themselves,
    None where nothing has tokens. ``worst_sites``: the sites that balance worst. ``failure``: the conservation error's
    text, empty if the books close.
    """

    forward_difference: float
    bitwise: bool
    coverage: Mapping[str, Mapping[str, int]]
    ledger: Ledger
    ledger_error: float
    cancellation: float
    token_cancellation: float | None
    worst_sites: tuple[SiteBalance, ...]
    failure: str
    forward_allowed: float

    @property
    def ok(self) -> bool:
        """Does the graph compute the model's output, and do the books close at every site?"""
        return not self.failure and self.forward_difference <= self.forward_allowed

    def __str__(self) -> str:
        counts = {how: sum(rules.values()) for how, rules in self.coverage.items()}
        care = " (parts cancel: read pictures with care)" if self.cancellation > CANCELLATION_LIMIT else ""
        lines = [
            f"{'ok' if self.ok else 'FAILED'}",
            "  forward        "
            f"{'bitwise equal' if self.bitwise else f'{self.forward_difference:.3g} units in the last place'} "
            f"(allowed {self.forward_allowed:.4g})",
            f"  coverage       {counts['rule']} nodes by a rule that lists them, {counts['inferred']} by inference, "
            f"{counts['unexplained']} only approximated",
            f"  ledger error   {self.ledger_error:.2e} relative to the absolute parts of the score",
            f"  cancellation   {self.cancellation:.2f}{care}",
        ]
        if self.token_cancellation is not None:
            care = " (read pictures with care)" if self.token_cancellation > TOKEN_CANCELLATION_LIMIT else ""
            lines.append(f"  tokens cancel  {self.token_cancellation:.2f}{care}")
        lines += [f"    approximated: {count} x {rule}" for rule, count in self.coverage["unexplained"].items()]
        lines += ["  sites that balance worst", *(f"    {s}" for s in self.worst_sites)] if self.worst_sites else []
        lines += ["  books", *(f"    {line}" for line in self.failure.splitlines())] if self.failure else []
        return "\n".join(lines)


def verify(
    model: nn.Module,
    inputs: Mapping[str, Any] | Sequence[Any] | Tensor,
    *,
    rules: str | Ruleset = "pa-lrp",
    target: Any = None,
) -> Report:
    """Convert with every site balanced, explain ``inputs`` once, and compare the forward pass with the model's own.

    inputs: keyword arguments of the model's forward, or a tuple of those by position. target: as in the explainer's
        call.
    Raises what converting and explaining raise (`CaptureError`, `InputError`, `TargetError`), but books that do not
    close are reported, not raised.
    """
    args, named = _arguments(inputs)
    explainer = convert(model, rules=rules, conserve="site")
    explainer.conserve = "off"  # its graphs balance every site; whether they do is asked below
    relevance = explainer(*args, **named, target=target)
    with torch.no_grad(), inference_configuration(model):
        result = model(*args, **named)
    worst = output_difference(relevance.output, result, relevance.ledger.dtype)
    try:
        relevance.ledger.check()
        failure = ""
    except ConservationError as error:
        failure = str(error)
    return Report(
        forward_difference=worst.ulps,
        forward_allowed=worst.allowed,
        bitwise=worst.ulps == 0,
        coverage=explainer.coverage,
        ledger=relevance.ledger,
        ledger_error=float(relevance.ledger.error.max()),
        cancellation=float(relevance.ledger.cancellation.max()),
        token_cancellation=float(relevance.ledger.token_cancellation.max())
        if relevance.ledger.token_books.rows
        else None,
        worst_sites=tuple(relevance.ledger.worst_sites()),
        failure=failure,
    )


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """By position, and by name."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)) and any(isinstance(value, Tensor) for value in inputs):
        return tuple(inputs), {}
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    raise InputError(
        f"verify takes what the model's forward takes, got {inputs!r}\n    next: give a dictionary of its arguments by "
        "name, or a tuple of tensors"
    )
