"""Answers: what the model says to perturbed units, as logits of one row for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrp_fx.capture.checks import run_model
from lrp_fx.errors import InputError
from lrp_fx.evaluation.fills import GONE
from lrp_fx.evaluation.units import Units
from lrp_fx.runtime.refuse import explained_output
from lrp_fx.targets.classes import LAST, rows_at


@dataclass(frozen=True)
class Answers:
    """Units (M, T, ...) -> logits (M, C) of the model.

    ``inputs``: the example's arguments, tensors with a first axis of one example. ``name``: the one that is perturbed.
    ``output``: name of the output explained, None for the usual one. ``position``: its row, counted from the end where
    negative. ``pair``: two classes of a contrast; logits are then (M, 2), their difference and zero. ``drops``: units
    of `GONE` are left out, so that the text is shorter. ``rows``: perturbations that are asked together.
    """

    model: Any
    inputs: dict[str, Any]
    name: str
    units: Units
    output: str | None
    drops: bool
    rows: int
    position: int = LAST
    pair: tuple[int, int] | None = None

    def __call__(self, units: Tensor) -> Tensor:
        if not self.drops:
            return torch.cat([self._ask(part, None) for part in torch.split(units, self.rows)])
        stays = units != GONE
        found: dict[int, Tensor] = {}
        for places in _alike(stays.sum(1), self.rows):
            kept = units[places][stays[places]].reshape(len(places), -1)
            found.update(zip(places.tolist(), self._ask(kept, stays[places]), strict=True))
        return torch.stack([found[i] for i in range(len(units))])

    def _ask(self, units: Tensor, stays: Tensor | None) -> Tensor:
        given = {n: self._repeated(n, v, len(units), stays) for n, v in self.inputs.items()}
        original = self.inputs[self.name]
        given[self.name] = self.units.whole(units).to(original.device, original.dtype)
        return self._logits(self.outputs(given)).cpu()

    def outputs(self, inputs: dict[str, Any]) -> Tensor:
        """What the model gives that is explained."""
        output = explained_output(run_model(self.model, inputs), self.output)
        if output is None:
            raise InputError("the model gives nothing that could be explained")
        if not bool(output.isfinite().all()):
            raise InputError("what the model answers is not finite")
        return output

    def _repeated(self, name: str, value: Any, count: int, stays: Tensor | None) -> Any:
        """An argument for several examples; where units are dropped, what goes with each is dropped, too."""
        if not isinstance(value, Tensor) or not value.dim():
            return value
        whole = torch.cat([value] * count)
        if stays is None or name == self.name or value.shape != self.inputs[self.name].shape:
            return whole
        if bool((value[0].diff() == 1).all()) and value.shape[1] > 1:  # places are counted anew
            return whole[:, : int(stays[0].sum())]
        return whole[stays.to(value.device)].reshape(count, -1)

    def _logits(self, output: Tensor) -> Tensor:
        """(M, C) of an output (M,), (M, C) or (M, T, C)."""
        if output.dim() == 1:
            return output.unsqueeze(1)
        position = torch.full((len(output),), self.position, device=output.device)
        row = rows_at(output, None, position)
        if self.pair is None:
            return row
        a, b = self.pair
        return torch.stack([row[:, a] - row[:, b], torch.zeros_like(row[:, a])], 1)


def _alike(lengths: Tensor, most: int) -> Iterator[Tensor]:
    """Places (n,) of rows of equal length, at most so many at once."""
    for length in sorted(set(lengths.tolist())):
        yield from torch.split((lengths == length).nonzero().squeeze(1), most)
