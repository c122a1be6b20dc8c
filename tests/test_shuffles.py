"""What is only rearranged is not kept: it is made again beside what it is made of, if that is there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import lrp_fx
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.tracing import trace
from lrp_fx.optimize.rematerialize import rematerialize_moves
from testing.handmade import F, V, ids, ready

X = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))


def made(function: Any) -> list[str]:
    """Operations of a function of a leaf that returns its score first, once its shuffles are made again."""
    mode = FakeTensorMode()
    module = trace(lambda x: list(function(x)), [mode.from_tensor(X)], mode)
    before = module(X)
    rematerialize_moves(module.graph, 1)
    module.graph.lint()
    module.recompile()
    assert all(torch.equal(a, b) for a, b in zip(module(X), before, strict=True))
    return [op_name(n) for n in module.graph.nodes if n.op == "call_function"]


def turned(x: Tensor) -> Tensor:
    return torch.cat((-x[:, 2:], x[:, :2]), 1)


def test_it_is_made_again_beside_what_it_is_made_of() -> None:
    def function(x: Tensor) -> list[Tensor]:
        q = x.sin()
        half = turned(q)
        score = (q + half).sum()
        return [score, half * score.exp(), q * score]

    assert made(function).count("aten.cat") == 2


@pytest.mark.parametrize("order", ["nobody keeps it", "it goes first"])
def test_nothing_is_kept_for_it(order: str) -> None:
    def function(x: Tensor) -> list[Tensor]:
        q = x.sin()
        half = turned(q)
        score = (q + half).sum()
        return [score, half * score.exp()] if order == "nobody keeps it" else [score, q * score, half * score.exp()]

    assert made(function).count("aten.cat") == 1


def test_a_value_that_the_transpose_alone_reads_is_made_once() -> None:
    def function(x: Tensor) -> list[Tensor]:
        q = x.sin()
        score = q.sum()
        return [score, turned(q) * score.exp(), q * score]

    assert made(function).count("aten.cat") == 1


class Rotary(nn.Module):
    """One attention with rotary positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.head = nn.Embedding(V, F), nn.Linear(F, 3 * F), nn.Linear(F, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        q, k, v = self.qkv(x).chunk(3, -1)
        angles = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * 0.3 ** torch.arange(F // 2, dtype=x.dtype)
        angles = torch.cat((angles, angles), -1)
        q, k = (t * angles.cos() + torch.cat((-t[..., F // 2 :], t[..., : F // 2]), -1) * angles.sin() for t in (q, k))
        return self.head(((q @ k.mT).softmax(-1) @ v).mean(1))


@pytest.mark.parametrize("conserve", ["total", "site"])
def test_halves_of_queries_and_keys_turned_round_are_not_kept(conserve: str) -> None:
    explain = lrp_fx.convert(ready(Rotary()), conserve=conserve)
    explain(input_ids=ids(2, 7), target=1)
    graph = explain.relevance_graph.graph
    forward = next(n for n in graph.nodes if op_name(n) == "aten._softmax_backward_data" or "backward" in op_name(n))
    halves = [n for n in graph.nodes if op_name(n) == "aten.cat" and op_name(n.args[0][0]) == "aten.neg"]  # type: ignore[index, arg-type]
    kept = [n for n in halves if n < forward and any(user > forward for user in n.users)]
    assert len(halves) >= 4 and not kept
