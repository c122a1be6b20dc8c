"""The relevance graph through `torch.compile`: the same numbers but for rounding, at every length."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import lrp_fx
from testing.handmade import F, V, ids, ready

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.skipif(
        not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="torch.compile needs a C++ compiler"
    ),
]


class Block(nn.Module):
    """Attention, added to what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.q, self.k, self.v = nn.LayerNorm(F), nn.Linear(F, F), nn.Linear(F, F), nn.Linear(F, F)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm(x)
        return x + (self.q(n) @ self.k(n).mT / F**0.5).softmax(-1) @ self.v(n)  # type: ignore[no-any-return]


class Two(nn.Module):
    """Words with their places, two blocks, the mean of all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place, self.blocks, self.head = (
            nn.Embedding(V, F),
            nn.Embedding(32, F),
            nn.Sequential(Block(), Block()),
            nn.Linear(F, 3),
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids) + self.place(torch.arange(input_ids.shape[1]))
        return self.head(self.blocks(x).mean(1))  # type: ignore[no-any-return]


def parts(relevance: lrp_fx.Relevance) -> dict[str, Tensor]:
    found = {f"content {n}": r for n, r in relevance.content.items()} | {
        f"position {p.name}": p.relevance for p in relevance.position
    }
    found |= {"score": relevance.score} | {f"sink {n}": s for n, s in relevance.ledger.sinks.items()}
    return found if relevance.output is None else found | {"output": relevance.output}


@pytest.mark.parametrize("keep_output", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_compiled_graphs_give_the_same(keep_output: bool) -> None:
    """A merged kernel may add up in another order: some hundred terms, each wrong by 1e-16 of the magnitude."""
    torch._dynamo.reset()
    counters.clear()
    model = ready(Two())
    compiled, eager = (lrp_fx.convert(model, compile=compile, keep_output=keep_output) for compile in (True, False))
    for batch, length in ((2, 6), (3, 9)):
        ours, theirs = (explain(input_ids=ids(batch, length)) for explain in (compiled, eager))
        a, b = parts(ours), parts(theirs)
        assert a.keys() == b.keys() and ("output" in a) is keep_output
        for name in a:
            assert torch.allclose(a[name], b[name], rtol=0, atol=1e-14 * float(theirs.ledger.magnitude.max())), name
        assert float(theirs.tokens.abs().max()) > 0.01
    assert compiled.statistics.captures == 1
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"], (
        "compiled whole, and once for all lengths"
    )
