"""Choices made by values: routers, experts, the best of a row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from testing.fuzz.weights import D, Weights

#: Functions that are written in several ways: the same value, the same relevance.
SAME = (
    ("best_kept", "best_kept_by_threshold"),
    ("maximum", "maximum_by_stack"),
    ("all_experts", "all_experts_by_one_product", "all_experts_by_loop"),
    ("two_experts", "two_experts_by_mask"),
)


def best_kept(w: Weights, x: Tensor) -> Tensor:
    return torch.zeros_like(x).scatter(-1, x.topk(3, -1).indices, x.topk(3, -1).values)


def best_kept_by_threshold(w: Weights, x: Tensor) -> Tensor:
    return torch.where(x >= x.topk(3, -1).values[..., -1:], x, 0.0)


def chosen_by_sign(w: Weights, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, w.first(x))


def chosen_by_other(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(x > y, w.first(x), y)


def maximum(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x, y)


def minimum(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(x, w.first(y))


def maximum_by_stack(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([x, y]).amax(0)


def best_expert(w: Weights, x: Tensor) -> Tensor:
    chosen = w.router(x).softmax(-1).max(-1)
    return torch.einsum("btd,btde->bte", x, w.experts[chosen.indices]) * chosen.values[..., None]


def all_experts(w: Weights, x: Tensor) -> Tensor:
    y = torch.einsum("btd,nde->btne", x, w.experts)
    return (w.router(x).softmax(-1)[..., None] * y).sum(2)


def all_experts_by_one_product(w: Weights, x: Tensor) -> Tensor:
    return torch.einsum("btn,btd,nde->bte", w.router(x).softmax(-1), x, w.experts)


def all_experts_by_loop(w: Weights, x: Tensor) -> Tensor:
    p = w.router(x).softmax(-1)
    return sum((p[..., n, None] * (x @ w.experts[n]) for n in range(1, 4)), p[..., 0, None] * (x @ w.experts[0]))


def two_experts(w: Weights, x: Tensor) -> Tensor:
    best = w.router(x).topk(2, -1)
    y = torch.einsum("btd,btnde->btne", x, w.experts[best.indices])
    return (best.values.softmax(-1)[..., None] * y).sum(2)


def two_experts_by_mask(w: Weights, x: Tensor) -> Tensor:
    p = w.router(x)
    p = p.masked_fill(p < p.topk(2, -1).values[..., -1:], -torch.inf).softmax(-1)
    return torch.einsum("btn,btne->bte", p, torch.einsum("btd,nde->btne", x, w.experts))


def experts_by_index(w: Weights, x: Tensor) -> Tensor:
    rows, out = x.flatten(0, 1), torch.zeros_like(x.flatten(0, 1))
    best = w.router(rows).softmax(-1).max(-1)
    for n in range(4):
        own = torch.where(best.indices == n)[0]
        out = out.index_add(0, own, rows[own] @ w.experts[n] * best.values[own, None])
    return out.view_as(x)


def experts_by_sorting(w: Weights, x: Tensor) -> Tensor:
    rows = x.flatten(0, 1)
    best = w.router(rows).max(-1)
    order = best.indices.argsort(stable=True)
    y = torch.bmm(rows[order, None], w.experts[best.indices[order]])[:, 0] * best.values.sigmoid()[order, None]
    return torch.zeros_like(rows).index_copy(0, order, y).view_as(x)


def slots(w: Weights, x: Tensor) -> Tensor:
    p = w.router(x)
    taken = p.softmax(1).mT @ x
    return p.softmax(-1) @ torch.einsum("bnd,nde->bne", taken, w.experts)


def tokens_chosen(w: Weights, x: Tensor) -> Tensor:
    best = w.router(x)[..., 0].topk(3, 1).indices
    return x.scatter_add(1, best[..., None].expand(-1, -1, D), w.first(x.gather(1, best[..., None].expand(-1, -1, D))))


def nearest_code(w: Weights, x: Tensor) -> Tensor:
    return x + F.embedding(torch.cdist(x, w.places).argmin(-1), w.places)


def scattered_by_place(w: Weights, x: Tensor) -> Tensor:
    return torch.zeros_like(x).index_add(1, torch.tensor([0, 1, 1, 2, 4]), x)


def reduced_by_place(w: Weights, x: Tensor) -> Tensor:
    return x.scatter_reduce(1, torch.tensor([0, 1, 1, 2, 4])[None, :, None].expand_as(x), w.first(x), "amax")


def placed(w: Weights, x: Tensor) -> Tensor:
    return x.index_put((torch.arange(x.shape[0])[:, None], torch.tensor([1, 4])), 2 * x[:, :2])


def one_hot_mixed(w: Weights, x: Tensor) -> Tensor:
    return x * F.one_hot(x.argmax(-1), D) + x
