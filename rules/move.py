"""Moves: operations that place, copy or retype values without mixing them. Relevance moves along."""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, covers, draw, register, sample

aten = torch.ops.aten


def _surrogate(call: Call) -> object:
    return call.run()


def _reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """Follow each element by its index: the relevance of an element is that of all places it went to."""
    results = []
    flat = call.flat()
    for position in sorted(call.carriers):
        x = flat[position]
        R_x = torch.zeros_like(x).flatten()
        for k in range(x.numel()):
            marker = torch.zeros_like(x)
            marker.view(-1)[k] = 1
            places = call.put({i: torch.zeros_like(flat[i]) for i in call.carriers} | {position: marker}).run()
            R_x[k] = (R_y * (places != 0)).sum()
        results.append(R_x.view_as(x))
    return results


def _samples() -> list[Call]:
    x = torch.tensor([[1.0, -2.0, 0.0, 4.0], [0.5, 3.0, -1.0, 2.0]], dtype=torch.float64)
    return [
        sample(aten.reshape.default, x, [4, 2]),
        sample(aten.transpose.int, x, 0, 1),
        sample(aten.expand.default, x.unsqueeze(0), [3, 2, 4]),
        sample(aten.slice.Tensor, x, 1, 1, 3),
        sample(aten.roll.default, x, [1], [1]),
        sample(aten.repeat.default, x, [2, 1]),
        sample(aten.index_select.default, x, 1, torch.tensor([3, 0, 3])),
    ]


def _listed_samples() -> list[Call]:
    x, e, columns = draw(3, 4), draw(5, 3), torch.tensor([2, 0])
    return [
        sample(aten._to_copy.default, x, dtype=torch.float32),
        sample(aten.to.dtype, x, torch.float32),
        sample(aten.index.Tensor, x, [None, columns]),
        sample(aten.gather.default, x, 1, torch.tensor([[3], [0], [2]])),
        sample(aten.index_select.default, x, 1, torch.tensor([3, 0, 3])),
        sample(aten.embedding.default, e, torch.tensor([[0, 2], [2, 4]])),
        sample(aten.take_along_dim.default, x, torch.tensor([[2, 0, 1, 1]]), 0),
    ]


register(
    Rule(
        name="move.plain",
        kind="move",
        law="y = M x with M a matrix of zeros and ones (and a rounding, where the type changes); c(x) = M^T c(y)",
        cites=("bach2015",),
        ops=covers("aten", "_to_copy to index gather index_select embedding take_along_dim") + ("getitem",),
        surrogate=_surrogate,
        reference=_reference,
        samples=_listed_samples,
        unsampled={"getitem": "picks one of several results: no operation of PyTorch"},
    ),
    Rule(
        name="move.inferred",
        kind="move",
        law="y = M x with M a matrix of zeros and ones, for a view (by its schema) or an operation found to place "
        "values unchanged",
        cites=("bach2015",),
        ops=("*",),
        surrogate=_surrogate,
        reference=_reference,
        samples=_samples,
    ),
)
