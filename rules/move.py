"""Moves: operations that place, copy or retype values without mixing them. Relevance moves along."""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, covers, register, sample

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


register(
    Rule(
        name="move.plain",
        kind="move",
        law="y = M x with M a matrix of zeros and ones; c(x) = M^T c(y)",
        cites=("bach2015",),
        ops=covers(
            "aten",
            "reshape permute transpose t expand expand_as unsqueeze squeeze slice select split split_with_sizes chunk unbind tensor_split "
            "_to_copy to roll flip repeat repeat_interleave tile unfold im2col pixel_shuffle pixel_unshuffle movedim swapaxes narrow diagonal "
            "tril triu view_as_real view_as_complex real imag flatten unflatten reflection_pad1d reflection_pad2d replication_pad1d "
            "replication_pad2d as_strided channel_shuffle ravel diag_embed unsafe_split unsafe_chunk index_select gather index embedding "
            "take_along_dim view_as squeeze_copy slice_copy _reshape_alias unfold_copy rot90 swapdims",
        )
        + ("getitem",),
        surrogate=_surrogate,
        reference=_reference,
        samples=_samples,
    )
)
