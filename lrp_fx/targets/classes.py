"""Targets that read the scores of classes (or of vocabulary tokens) in one row of the output."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from lrp_fx.errors import TargetError
from lrp_fx.targets.indices import Index, Names, check_range, column, has_names, listed, whole_numbers, without_names

LAST = -1


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


class _AtPosition:
    """Shared by targets that read class scores at a token position. ``names``: the index of a label or token, where
    that is known.
    """

    linear = True

    def __init__(self, position: Index | None, **classes: Index) -> None:
        self.position: Index = LAST if position is None else listed(position)
        self.classes = classes = {name: listed(index) for name, index in classes.items()}
        self.names: Names | None = None
        whole_numbers(self.position, "position")
        for name, index in classes.items():
            if not has_names(index):
                whole_numbers(index, name)

    @classmethod
    def for_each(cls, targets: Sequence[Any]) -> Self:
        """One target of this kind for each example, as one."""
        asked = [{**target.classes, "position": target.position} for target in targets]
        return cls(**{name: [_one(one[name], name) for one in asked] for name in asked[0]})

    def named(self, names: Names) -> Self:
        """The same, which knows what names stand for."""
        if not any(map(has_names, self.classes.values())):
            return self
        found = copy.copy(self)
        found.names = names
        return found

    @property
    def signature(self) -> tuple[Any, ...]:
        """Its class and what it asks for; which classes and positions are arguments."""
        return (type(self).__name__, tuple(self.classes))

    def example_arguments(self) -> dict[str, Tensor]:
        """Whole numbers, (B,) each, as the graph is traced with."""
        return {name: torch.zeros(2, dtype=torch.int64) for name in (*self.classes, "position")}

    def arguments(self, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
        """Validated index tensors, shape (B,) each, for an output of the given shape."""
        if len(shape) == 1 and not self.classes:  # one number per example: a regression
            return {"position": column(LAST, shape[0], device, "position")}
        if len(shape) not in (2, 3):
            raise TargetError(
                f"{self!r} needs an output (B, classes) or (B, T, classes); this one has shape {shape}: pass a "
                "callable target"
            )
        numbers = {name: without_names(index, shape[-1], self.names) for name, index in self.classes.items()}
        columns = {name: column(index, shape[0], device, name) for name, index in numbers.items()}
        for values in columns.values():
            check_range(values, shape[-1], "class")
        position = column(self.position, shape[0], device, "position")
        if len(shape) == 3:
            check_range(position, shape[1], "position")
        return {**columns, "position": position}

    @property
    def counts_back(self) -> bool:
        """Is a position counted from the last row that the mask keeps?"""
        return bool((whole_numbers(self.position, "position") < 0).any())

    def __repr__(self) -> str:
        inner = ", ".join(
            f"{k}={v!r}" if has_names(v) else f"{k}={v}" for k, v in {**self.classes, "position": self.position}.items()
        )
        return f"{type(self).__name__}({inner})"

    def _row(self, output: Tensor, mask: Tensor | None, position: Tensor) -> Tensor:
        return rows_at(output, mask, position)


def _one(index: Any, name: str) -> int | str:
    """The number or name that stands for one example."""
    alone = index[0] if isinstance(index, (list, tuple)) and len(index) == 1 else index
    if isinstance(alone, str):
        return alone
    numbers = whole_numbers(alone, name)
    if numbers.numel() != 1:
        raise TargetError(f"{name}={index} in the target of one example: give one there")
    return int(numbers)


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
    """The logit of class (or vocabulary token) ``index``, one or one per example: a number, or the name of a label or
    token (``"positive"``, ``" Lily"``) where the explainer knows them.
    """

    def __init__(self, index: Index, position: Index | None = None) -> None:
        super().__init__(position, index=index)

    def score(self, output: Tensor, mask: Tensor | None, *, index: Tensor, position: Tensor) -> Tensor:
        """(B,): the logit of ``index`` (B,) in the row at ``position`` (B,)."""
        return self._row(output, mask, position).gather(1, index.unsqueeze(1)).squeeze(1)


class Contrast(_AtPosition):
    """``logit[a] - logit[b]``: what speaks for ``a`` rather than for ``b``; each as in `Class`."""

    def __init__(self, a: Index, b: Index, position: Index | None = None) -> None:
        super().__init__(position, a=a, b=b)

    def arguments(self, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
        """As in `Class`; raises `TargetError` where both sides are one and the same output."""
        found = super().arguments(shape, device)
        same = (found["a"] == found["b"]).nonzero().flatten().tolist()
        if same:
            raise TargetError(
                f"{self!r}: in example {same[0]} both sides are output {int(found['a'][same[0]])}, and their "
                "difference is 0 whatever the input\n    next: give two different outputs; words that begin with the "
                "same token differ in a later one"
            )
        return found

    def score(self, output: Tensor, mask: Tensor | None, *, a: Tensor, b: Tensor, position: Tensor) -> Tensor:
        """(B,): the logit of ``a`` (B,) less that of ``b`` (B,), in the row at ``position`` (B,)."""
        row = self._row(output, mask, position)
        return (row.gather(1, a.unsqueeze(1)) - row.gather(1, b.unsqueeze(1))).squeeze(1)
