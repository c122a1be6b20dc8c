"""Spellings of a mixture of experts: two of three for each token, weighted by the softmax of their two scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from testing.spellings.common import Routed as host  # noqa: F401


def _expert(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def _loop(x: Tensor, share: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """share: (B, T, experts), zero where an expert was not chosen."""
    result = torch.zeros_like(x)
    for e in range(gate.shape[0]):
        result = result + share[..., e, None] * _expert(x, gate[e], up[e], down[e])
    return result


def loop(x: Tensor, scores: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    top, chosen = scores.topk(2, -1)
    share = torch.zeros_like(scores).scatter(-1, chosen, top.softmax(-1))
    return _loop(x, share, gate, up, down)


def renormalised(x: Tensor, scores: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    weights, chosen = torch.topk(F.softmax(scores, dim=-1), 2, dim=-1)
    weights = weights / weights.sum(-1, keepdim=True)
    result = torch.zeros_like(x)
    for e in range(gate.shape[0]):
        result += torch.where(chosen == e, weights, 0.0).sum(-1, keepdim=True) * _expert(x, gate[e], up[e], down[e])
    return result


def one_hot(x: Tensor, scores: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    top, chosen = scores.topk(2, -1)
    share = torch.einsum("btk,btke->bte", top.softmax(-1), F.one_hot(chosen, gate.shape[0]).to(x.dtype))
    inner = F.silu(torch.einsum("btd,ehd->bteh", x, gate)) * torch.einsum("btd,ehd->bteh", x, up)
    return torch.einsum("bteh,edh,bte->btd", inner, down, share)


def weighted_inside(x: Tensor, scores: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    top, chosen = scores.topk(2, -1)
    share = torch.zeros_like(scores).scatter(-1, chosen, top.softmax(-1))
    inner = F.silu(torch.einsum("btd,ehd->bteh", x, gate)) * torch.einsum("btd,ehd->bteh", x, up)
    return torch.einsum("bteh,edh->btd", inner * share.unsqueeze(-1), down)


def masked(x: Tensor, scores: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    kept = scores >= scores.topk(2, -1).values[..., -1:]
    return _loop(x, scores.masked_fill(~kept, float("-inf")).softmax(-1), gate, up, down)


def masked_weights(x: Tensor, scores: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    weights = scores.softmax(-1)
    kept = weights >= weights.topk(2, -1).values[..., -1:]
    few = weights * kept.to(weights.dtype)
    return _loop(x, few / few.sum(-1, keepdim=True), gate, up, down)


def filled_weights(x: Tensor, scores: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    weights = scores.softmax(-1)
    few = weights.masked_fill(weights < weights.topk(2, -1).values[..., -1:], 0.0)
    return _loop(x, F.normalize(few, p=1.0, dim=-1), gate, up, down)


def gathered_weights(x: Tensor, scores: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    weights = torch.softmax(scores, -1)
    chosen = scores.argsort(-1, descending=True)[..., :2]
    few = weights.gather(-1, chosen)
    few = few / (few.sum(-1, keepdim=True) + 1e-20)
    return _loop(x, torch.zeros_like(weights).scatter(-1, chosen, few), gate, up, down)


def gathered_experts(x: Tensor, scores: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    top, chosen = scores.topk(2, -1)
    inner = F.silu(torch.einsum("btd,btkhd->btkh", x, gate[chosen])) * torch.einsum("btd,btkhd->btkh", x, up[chosen])
    return (torch.einsum("btkh,btkdh->btkd", inner, down[chosen]) * top.softmax(-1).unsqueeze(-1)).sum(-2)


def each_choice(x: Tensor, scores: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    weights, chosen = scores.softmax(-1).topk(2, -1)
    weights = weights * weights.sum(-1, keepdim=True).reciprocal()
    result = torch.zeros_like(x)
    for k in range(2):
        for e in range(gate.shape[0]):
            here = (chosen[..., k] == e).to(x.dtype)
            result = result + (here * weights[..., k]).unsqueeze(-1) * _expert(x, gate[e], up[e], down[e])
    return result


SPELLINGS = [
    loop,
    renormalised,
    one_hot,
    weighted_inside,
    masked,
    masked_weights,
    filled_weights,
    gathered_weights,
    gathered_experts,
    each_choice,
]
SLOW = {"one_hot", "masked", "filled_weights", "gathered_weights", "gathered_experts", "each_choice"}
