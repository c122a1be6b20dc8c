"""checkpoint=True: the same numbers, with the insides of blocks computed twice instead of kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

import lrp_fx
from lrp_fx.ir.graph import value_of
from testing.converted import converted, parts

pytestmark = pytest.mark.usefixtures("quiet")
T = 7


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(24, 8)
        self.attention_norm, self.qkv = nn.LayerNorm(8), nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.attention_norm(x)).chunk(3, -1)
        x = x + torch.nn.functional.scaled_dot_product_attention(
            q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
        ).squeeze(1)
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


class Deep(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.blocks, self.head = (
            nn.Embedding(20, 8),
            nn.ModuleList(Block() for _ in range(depth)),
            nn.Linear(8, 5),
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def kept(module: fx.GraphModule) -> int:
    """Elements of the most that is alive at once, views counted as values."""
    nodes = list(module.graph.nodes)
    last = {a: node for node in nodes for a in node.all_input_nodes}
    ends: dict[fx.Node, list[fx.Node]] = {}
    for value, node in last.items():
        ends.setdefault(node, []).append(value)

    def size(node: fx.Node) -> int:
        value = value_of(node)
        sizes = (
            [int(s) if isinstance(s, int) else s.node.hint for s in value.shape]
            if node.op == "call_function" and isinstance(value, Tensor)
            else [0]
        )
        return int(torch.tensor(sizes).prod())

    alive = most = 0
    for node in nodes:
        alive += size(node)
        most = max(most, alive)
        alive -= sum(size(a) for a in ends.get(node, []))
    return most


def test_it_keeps_less_and_says_the_same() -> None:
    ids = torch.randint(0, 20, (2, T))
    model = Deep(8).eval()
    plain, thrifty = lrp_fx.convert(model), lrp_fx.convert(model, checkpoint=True)
    a, b = parts(plain(input_ids=ids)), parts(thrifty(input_ids=ids))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert kept(thrifty.relevance_graph) < 0.5 * kept(plain.relevance_graph)


def test_a_block_more_costs_its_sums_only() -> None:
    """Of each further block the values of the stream are kept (two of 8 for each token), not its insides."""
    ids = torch.randint(0, 20, (2, T))
    most = []
    for depth in (6, 10):
        explain = lrp_fx.convert(Deep(depth).eval(), checkpoint=True)
        explain(input_ids=ids)
        most.append(kept(explain.relevance_graph))
    assert (most[1] - most[0]) / 4 <= 1.5 * 2 * 8 * ids.numel()


@pytest.mark.slow
@pytest.mark.parametrize("keep_output", [True, False])
@pytest.mark.parametrize("name", ["llama", "bert", "gpt2", "t5", "vit"])
def test_models_of_transformers(name: str, keep_output: bool) -> None:
    options = {} if keep_output else {"keep_output": False}
    a, b = (parts(converted(name, **options, **also).relevance) for also in ({}, {"checkpoint": True}))
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_what_it_cannot_do_it_says() -> None:
    with pytest.raises(lrp_fx.InputError, match="do not go together"):
        lrp_fx.convert(Deep(1).eval(), checkpoint=True, compile=True)
    flat = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with pytest.raises(lrp_fx.InputError, match="residual sums"):
        lrp_fx.convert(flat, checkpoint=True)(torch.randn(2, 4))
