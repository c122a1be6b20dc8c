"""Others: which examples the score of an example reads beside its own, told by derivatives.

requires  a function that gives one score per example, and values that it may be given
ensures   of the first and the last score, the derivative by every example is looked at
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lrp_fx.errors import TargetError
from lrp_fx.ir.layout import BatchAxis


def made_values(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values for a function, all of them different, where nobody has the model's own; no random number is drawn."""
    count = torch.Size(shape).numel()
    return torch.arange(1, count + 1, dtype=torch.float32, device=device).sin_().reshape(tuple(shape)).to(dtype)


def possible_axes(shape: Sequence[int], batch: int) -> list[BatchAxis]:
    """Where the examples of a batch may be in values of a shape, the first axis first."""
    axes = [(axis, size // batch) for axis, size in enumerate(shape) if size % batch == 0]
    return list(dict.fromkeys(BatchAxis(axis, *sides) for axis, n in axes for sides in ((1, n), (n, 1))))


def refuse_others(target: object, scores: Tensor, values: Tensor, axes: Callable[[int], Sequence[BatchAxis]]) -> None:
    """Raise `TargetError` for a score that reads other examples, wherever among ``axes`` (of so many examples) these
    are: its derivative is handed to its own example alone.
    """
    batch = len(scores)
    found: list[tuple[int, list[int]] | None] = [None]
    if batch > 1 and scores.requires_grad:
        found = _others(scores, values, axes(batch))
    if not found or None in found:
        return
    assert found[0] is not None
    example, others = found[0]
    named = ", ".join(map(str, others[:5])) + (", ..." if len(others) > 5 else "")
    raise TargetError(
        f"the target {target!r} reads other examples: the score of example {example} depends on the output of "
        f"{'example' if len(others) == 1 else 'examples'} {named}\n    next: explain one example at a time, or write "
        "the target row by row, each score of its own example's output"
    )


def _others(scores: Tensor, values: Tensor, axes: Sequence[BatchAxis]) -> list[tuple[int, list[int]] | None]:
    """For each axis: a score, and the other examples that it reads if they lie there; None where it reads none."""
    found: list[tuple[int, list[int]] | None] = [None] * len(axes)
    for example in (0, len(scores) - 1):
        (derivative,) = torch.autograd.grad(scores[example], values, retain_graph=True, allow_unused=True)
        if derivative is None:
            continue
        read = (derivative != 0) & derivative.isfinite()  # what is infinite or NaN is often 0 times infinity
        for number, axis in enumerate(axes):
            parts = axis.split(read, len(scores)).movedim(axis.axis + 1, 0).flatten(1).any(1)
            others = [other for other in parts.nonzero().flatten().tolist() if other != example]
            if others and found[number] is None:
                found[number] = (example, others)
    return found
