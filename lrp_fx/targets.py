"""Targets: which number of the model's output is explained.

A target turns the explained output into one score per example, shape (B,). It is compiled into the relevance graph:
its kind (``signature``) selects a graph, its numbers (``arguments``) are inputs of that graph, so explaining another
class or position does not trace again. Positions count tokens; ``-1`` is the last token that the mask keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lrp_fx.errors import TargetError
from lrp_fx.ir.devices import callers_device
from lrp_fx.ir.seen import seen

LAST = -1
Index = int | Sequence[int] | Tensor


class Target(Protocol):
    """What a target must offer; any object with these members can be passed as ``target=``."""

    linear: bool

    @property
    def signature(self) -> tuple[Any, ...]: ...

    def example_arguments(self) -> dict[str, Tensor]: ...

    def arguments(self, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]: ...

    @property
    def score(self) -> Callable[..., Tensor]:
        """``score(output, mask, **arguments) -> (B,)`` in plain torch; ``mask`` is (B, T) or None."""
        ...


def rows_at(output: Tensor, mask: Tensor | None, position: Tensor) -> Tensor:
    """``output[b, position[b]]`` for outputs (B, T, classes); outputs (B, classes) pass. Shape (B, classes)."""
    if output.dim() == 2:
        return output
    if output.dim() != 3:
        raise TargetError(
            f"targets by class and position need an output (B, classes) or (B, T, classes), got {output.dim()} axes; "
            "pass a callable"
        )
    steps = torch.arange(output.shape[1], device=output.device)
    last = steps[-1] if mask is None else (steps * (mask != 0)).amax(1)
    chosen = torch.where(position < 0, last + 1 + position, position)
    place = chosen.clamp(min=0).reshape(-1, 1, 1)  # counted back beyond the first token: no row, a score of zero
    row: Tensor = output.gather(1, place.expand(-1, 1, output.shape[2])).squeeze(1)
    return torch.where((chosen >= 0).unsqueeze(1), row, torch.zeros((), dtype=output.dtype, device=output.device))


def _column(index: Index, batch: int, device: torch.device, name: str) -> Tensor:
    values = torch.as_tensor(index, device=device, dtype=torch.int64).reshape(-1)
    if values.numel() not in (1, batch):
        raise TargetError(f"{name}: {values.numel()} values for a batch of {batch}; give one, or one per example")
    return values.expand(batch).contiguous()


def _check(values: Tensor, size: int, what: str) -> None:
    bad = values[(values >= size) | (values < -size)] if what == "position" else values[(values >= size) | (values < 0)]
    if bad.numel():
        limits = f"-{size}..{size - 1}" if what == "position" else f"0..{size - 1}"
        raise TargetError(f"no such {what}: {int(bad[0])} (the output has {size}, valid are {limits})")


class _AtPosition:
    """Shared by targets that read class scores at a token position."""

    linear = True

    def __init__(self, position: Index | None, **classes: Index) -> None:
        self.position: Index = LAST if position is None else position
        self.classes = classes

    @property
    def signature(self) -> tuple[Any, ...]:
        return (type(self).__name__, tuple(self.classes))

    def example_arguments(self) -> dict[str, Tensor]:
        return {name: torch.zeros(2, dtype=torch.int64) for name in (*self.classes, "position")}

    def arguments(self, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
        """Validated index tensors, shape (B,) each, for an output of the given shape."""
        if len(shape) == 1 and not self.classes:  # one number per example: a regression
            return {"position": _column(LAST, shape[0], device, "position")}
        if len(shape) not in (2, 3):
            raise TargetError(
                f"{self!r} needs an output (B, classes) or (B, T, classes); this one has shape {shape}: pass a "
                "callable target"
            )
        columns = {name: _column(index, shape[0], device, name) for name, index in self.classes.items()}
        for values in columns.values():
            _check(values, shape[-1], "class")
        position = _column(self.position, shape[0], device, "position")
        if len(shape) == 3:
            _check(position, shape[1], "position")
        return {**columns, "position": position}

    @property
    def counts_back(self) -> bool:
        """Is a position counted from the last row that the mask keeps?"""
        return bool((torch.as_tensor(self.position) < 0).any())

    def __repr__(self) -> str:
        inner = ", ".join(f"{k}={v}" for k, v in {**self.classes, "position": self.position}.items())
        return f"{type(self).__name__}({inner})"

    def _row(self, output: Tensor, mask: Tensor | None, position: Tensor) -> Tensor:
        return rows_at(output, mask, position)


class Predicted(_AtPosition):
    """The logit of the predicted class, or of the predicted next token at ``position`` (default: the last token)."""

    def __init__(self, position: Index | None = None) -> None:
        super().__init__(position)

    def score(self, output: Tensor, mask: Tensor | None, *, position: Tensor) -> Tensor:
        """Largest entry of the row: its argmax is frozen, so the target is linear in the output."""
        if output.dim() == 1:
            return output
        row = self._row(output, mask, position)
        return row.gather(-1, row.detach().argmax(-1, keepdim=True)).squeeze(-1)


class Class(_AtPosition):
    """The logit of class (or vocabulary token) ``index``, one or one per example."""

    def __init__(self, index: Index, position: Index | None = None) -> None:
        super().__init__(position, index=index)

    def score(self, output: Tensor, mask: Tensor | None, *, index: Tensor, position: Tensor) -> Tensor:
        return self._row(output, mask, position).gather(1, index.unsqueeze(1)).squeeze(1)


class Contrast(_AtPosition):
    """``logit[a] - logit[b]``: what speaks for ``a`` rather than for ``b``."""

    def __init__(self, a: Index, b: Index, position: Index | None = None) -> None:
        super().__init__(position, a=a, b=b)

    def score(self, output: Tensor, mask: Tensor | None, *, a: Tensor, b: Tensor, position: Tensor) -> Tensor:
        row = self._row(output, mask, position)
        return (row.gather(1, a.unsqueeze(1)) - row.gather(1, b.unsqueeze(1))).squeeze(1)


class Span:
    """Sum of logits over a span: ``sum_t output[b, t, tokens[b, t - start]]`` for t in ``start .. start + n - 1``.

    ``tokens``: (n,) or (B, n) class indices, one for each position of the span.
    """

    linear = True

    def __init__(self, tokens: Sequence[int] | Sequence[Sequence[int]] | Tensor, start: int) -> None:
        self.tokens = torch.as_tensor(tokens, dtype=torch.int64)
        self.start = start
        if self.tokens.dim() not in (1, 2) or self.tokens.shape[-1] == 0:
            raise TargetError(f"a span needs tokens of shape (n,) or (B, n), got {tuple(self.tokens.shape)}")

    @property
    def signature(self) -> tuple[Any, ...]:
        return ("Span", self.tokens.shape[-1])

    def example_arguments(self) -> dict[str, Tensor]:
        return {
            "tokens": torch.zeros(2, self.tokens.shape[-1], dtype=torch.int64),
            "start": torch.zeros(2, dtype=torch.int64),
        }

    def arguments(self, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
        n = self.tokens.shape[-1]
        if len(shape) != 3:
            raise TargetError(f"a span needs an output (B, T, classes), this one has shape {shape}")
        if self.start < 0 or self.start + n > shape[1]:
            raise TargetError(
                f"no such position: the span {self.start}..{self.start + n - 1} leaves the output's {shape[1]} "
                "positions"
            )
        _check(self.tokens.flatten(), shape[2], "class")
        tokens = self.tokens.to(device).reshape(-1, n)
        if tokens.shape[0] not in (1, shape[0]):
            raise TargetError(f"{tokens.shape[0]} spans for a batch of {shape[0]}")
        return {
            "tokens": tokens.expand(shape[0], n).contiguous(),
            "start": torch.full((shape[0],), self.start, device=device),
        }

    def score(self, output: Tensor, mask: Tensor | None, *, tokens: Tensor, start: Tensor) -> Tensor:
        total = torch.zeros_like(output[:, 0, 0])
        for k in range(tokens.shape[1]):
            total = total + rows_at(output, mask, start + k).gather(1, tokens[:, k : k + 1]).squeeze(1)
        return total

    def __repr__(self) -> str:
        return f"Span({self.tokens.tolist()}, start={self.start})"


class Custom:
    """Any function of the output that returns one number per example, shape (B,), and differentiates.

    It is traced once, and again where what it reads beside the output has changed: attributes of its object, variables
    around it, global values. What it is not linear in is booked in the sink ``target``.
    """

    linear = False

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    @property
    def signature(self) -> tuple[Any, ...]:
        return ("Custom", seen(self.function))

    def example_arguments(self) -> dict[str, Tensor]:
        return {}

    def arguments(self, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
        return {}

    def score(self, output: Tensor, mask: Tensor | None) -> Tensor:
        with callers_device():
            return self.function(output)

    def __repr__(self) -> str:
        return f"Custom({getattr(self.function, '__name__', self.function)})"


def as_target(target: Any) -> Target:
    """None -> the prediction, an integer (or one per example) -> that class, a callable -> itself."""
    if target is None:
        return Predicted()
    if isinstance(target, bool):
        raise TargetError(f"not a target: {target!r}")
    if isinstance(target, (int, list, tuple, Tensor)) and not callable(target):
        return Class(target)
    if hasattr(target, "__array__"):  # numpy's numbers and arrays
        return Class(torch.as_tensor(target))
    if hasattr(target, "score") and hasattr(target, "signature"):
        return target  # type: ignore[no-any-return]
    if callable(target):
        return Custom(target)
    raise TargetError(
        f"not a target: {target!r}; give a class index, a target from lrp_fx.targets, or a function of the output"
    )
