"""Values that are moved, cut, joined, seen through views."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from testing.fuzz.weights import D, Weights


def rolled(w: Weights, x: Tensor) -> Tensor:
    return x.roll(1, 1)


def flipped(w: Weights, x: Tensor) -> Tensor:
    return x.flip(-1)


def halves_swapped(w: Weights, x: Tensor) -> Tensor:
    return torch.cat(x.chunk(2, -1)[::-1], -1)


def unbound_and_stacked(w: Weights, x: Tensor) -> Tensor:
    return torch.stack(x.unbind(1)[::-1], 1)


def gathered(w: Weights, x: Tensor) -> Tensor:
    return x.gather(1, torch.arange(x.shape[1]).flip(0)[None, :, None].expand_as(x))


def taken_along(w: Weights, x: Tensor) -> Tensor:
    return torch.take_along_dim(x, torch.arange(D).roll(3)[None, None], -1)


def indexed(w: Weights, x: Tensor) -> Tensor:
    return x[:, torch.tensor([1, 1, 0, 4, 2])]


def index_selected(w: Weights, x: Tensor) -> Tensor:
    return x.index_select(-1, torch.tensor([7, 0, 0, 1, 2, 3, 5, 4]))


def shifted_by_pad(w: Weights, x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 1, 0))[:, :-1]


def padded_around(w: Weights, x: Tensor) -> Tensor:
    return F.pad(x.mT, (1, 1), mode="replicate").mT[:, :-2]


def reflected(w: Weights, x: Tensor) -> Tensor:
    return F.pad(x.mT, (2, 0), mode="reflect").mT[:, 2:] + F.pad(x.mT, (2, 0), mode="reflect").mT[:, :-2]


def sliced_and_joined(w: Weights, x: Tensor) -> Tensor:
    return torch.cat([x[:, 1:], x[:, :1]], 1)


def strided(w: Weights, x: Tensor) -> Tensor:
    return torch.cat([x[..., ::2], x[..., 1::2]], -1)


def interleaved(w: Weights, x: Tensor) -> Tensor:
    return torch.stack([x[..., : D // 2], x[..., D // 2 :]], -1).flatten(-2)


def transposed_and_back(w: Weights, x: Tensor) -> Tensor:
    return x.transpose(1, 2).contiguous().flip(1).transpose(1, 2)


def permuted(w: Weights, x: Tensor) -> Tensor:
    return x.permute(2, 0, 1).roll(1, 0).permute(1, 2, 0)


def through_flat_rows(w: Weights, x: Tensor) -> Tensor:
    return w.first(x.reshape(-1, D)).view(x.shape)


def narrowed(w: Weights, x: Tensor) -> Tensor:
    return torch.cat([x.narrow(1, 2, 2), x.narrow(1, 0, x.shape[1] - 2)], 1)


def expanded(w: Weights, x: Tensor) -> Tensor:
    return x[:, :1].expand_as(x) + x


def repeated(w: Weights, x: Tensor) -> Tensor:
    return x[:, :1].repeat(1, x.shape[1], 1) - x


def repeat_interleaved(w: Weights, x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 1)[:, : x.shape[1]]


def tiled(w: Weights, x: Tensor) -> Tensor:
    return x.tile(1, 2, 1)[:, 2 : x.shape[1] + 2]


def rotated(w: Weights, x: Tensor) -> Tensor:
    return torch.rot90(x, 2, (1, 2))


def split_unevenly(w: Weights, x: Tensor) -> Tensor:
    a, b = x.split([3, 5], -1)
    return torch.cat([b, a], -1)


def scattered_slice(w: Weights, x: Tensor) -> Tensor:
    return x.slice_scatter(2 * x[:, :2], 1, 1, 3)


def selected_and_scattered(w: Weights, x: Tensor) -> Tensor:
    return x.select_scatter(x[:, -1], 1, 0)


def windows_averaged(w: Weights, x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 1, 1)).unfold(1, 3, 1).mean(-1)


def upper_part(w: Weights, x: Tensor) -> Tensor:
    return x.triu() + w.second(x).tril(-1)


def diagonal(w: Weights, x: Tensor) -> Tensor:
    return x + (x @ w.second(x).mT).diagonal(dim1=1, dim2=2)[..., None] / 5


def difference_of_neighbours(w: Weights, x: Tensor) -> Tensor:
    return torch.diff(x, dim=1, prepend=x[:, :1])


def masked(w: Weights, x: Tensor) -> Tensor:
    return x.masked_fill(torch.arange(x.shape[1])[:, None] == 2, 0.0)


def chosen_by_place(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(torch.arange(x.shape[1])[:, None] < 2, x, y)


def concatenated_tokens(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return w.first(torch.cat([x, y], 1))[:, 1 : x.shape[1] + 1]


def concatenated_features(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return w.down(torch.cat([x, y], -1))
