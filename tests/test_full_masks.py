"""Masks that say nothing are dropped from fused attention, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import lrp_fx
from lrp_fx.guards.masks import kinds
from lrp_fx.ir.graph import op_name, value_of
from testing.converted import converted

pytestmark = pytest.mark.usefixtures("quiet")


class Attention(nn.Module):
    """One block whose mask of queries by keys is made from the mask of tokens, their places, a window, blocks or a
    buffer.
    """

    def __init__(
        self,
        causal: bool = True,
        window: int | None = None,
        blocks: int | None = None,
        table: int | None = None,
        additive: bool = False,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.qkv, self.head = nn.Embedding(20, 8), nn.Linear(8, 24), nn.Linear(8, 3)
        self.causal, self.window, self.blocks, self.additive = causal, window, blocks, additive
        place = torch.arange(64)
        self.register_buffer("table", None if table is None else place[:, None] - place < table)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids)
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        behind = place[:, None] - place[None, :]
        keep = attention_mask[:, None, None, :] != 0
        if self.causal:
            keep = keep & (behind >= 0)
        if self.window is not None:
            keep = keep & (behind < self.window)
        if self.blocks is not None:
            keep = keep & (place[:, None] // 8 - place[None, :] // 8 < self.blocks)
        if self.table is not None:
            keep = keep & self.table[: place.shape[0], : place.shape[0]]
        mask = (
            torch.zeros_like(keep, dtype=x.dtype).masked_fill(~keep, torch.finfo(x.dtype).min)
            if self.additive
            else keep
        )
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return self.head(
            x + torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        ).mean(1)


def fused(graph: fx.GraphModule) -> list[tuple[bool, bool]]:
    """(has a mask, is causal) of each fused attention."""
    nodes = [n for n in graph.graph.nodes if op_name(n) == "aten.scaled_dot_product_attention"]
    return [(len(n.args) > 3 and n.args[3] is not None, len(n.args) > 5 and bool(n.args[5])) for n in nodes]


def words(tokens: int, padded: int = 0) -> dict[str, Tensor]:
    ids = torch.arange(2 * tokens).reshape(2, tokens) % 19
    mask = torch.ones_like(ids)
    mask[0, :padded] = 0
    return {"input_ids": ids, "attention_mask": mask}


WINDOWS = {
    "short window": {"window": 3},
    "window": {"window": 20},
    "blocks": {"blocks": 4},
    "buffer": {"table": 20},
    "additive": {"window": 20, "additive": True},
}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (False, True)),
        ({"causal": False}, (False, False)),
        ({"additive": True}, (False, True)),
        ({"causal": False, "additive": True}, (False, False)),
        ({"window": 3}, (True, False)),
        ({"window": 50}, (False, True)),
        ({"window": 50, "causal": False}, (False, False)),
    ],
)
def test_what_a_mask_is(settings: dict[str, Any], expected: tuple[bool, bool]) -> None:
    """A window that a text does not fill is no mask but the causal one."""
    model = Attention(**settings).eval()
    explain = lrp_fx.convert(model)
    relevance = explain(**words(6))
    assert fused(explain.graph) == [expected]
    assert torch.allclose(relevance.output, model(**words(6)), rtol=1e-6)


@pytest.mark.parametrize("settings", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("lengths", [(6, 60, 7), (60, 6)], ids=str)
def test_a_window_is_a_window_for_longer_texts(settings: dict[str, Any], lengths: tuple[int, ...]) -> None:
    """However short the text that was explained first: what a mask is taken for holds for sizes for which it was
    computed.
    """
    model = Attention(**settings).double().eval()
    explain = lrp_fx.convert(model, conserve="site")
    for tokens in lengths:
        relevance = explain(**words(tokens))
        masked = tokens > (3 if settings.get("window") == 3 else 20)
        assert fused(explain.graph) == [(masked, not masked)]
        assert torch.allclose(relevance.output, model(**words(tokens)), rtol=1e-12)
    assert explain.statistics.captures == 1


def test_a_buffer_that_changes() -> None:
    """What was computed of a mask is computed again after the model's tensors have changed."""
    model = Attention(table=20).double().eval()
    explain = lrp_fx.convert(model)
    explain(**words(6))
    for change in (model.table, model.table.data):  # changes of the latter leave no trace in its version
        change.fill_(False).fill_diagonal_(True)
        assert torch.allclose(explain(**words(6)).output, model(**words(6)), rtol=1e-12)
        assert fused(explain.graph) == [(True, False)]
        model.table.fill_(True)
        explain(**words(6))
        assert fused(explain.graph) == [(False, True)]


class Shorter(Attention):
    """Its mask is as long as what a convolution leaves of the text: of one token, nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 8, 3, stride=2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.conv(self.words(input_ids).transpose(1, 2)).transpose(1, 2)
        place = torch.arange(x.shape[1])
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=place[:, None] >= place)
        return self.head(x + mixed.transpose(1, 2).flatten(2)).mean(1)


def test_a_mask_of_a_derived_length() -> None:
    model = Shorter().eval()
    explain = lrp_fx.convert(model)
    for tokens in (9, 30):
        assert torch.allclose(explain(**words(tokens)).output, model(**words(tokens)), rtol=1e-6)
        assert fused(explain.graph) == [(False, True)]


@pytest.mark.parametrize(
    "settings", [{}, {"causal": False}, {"window": 20}, {"table": 20}, {"additive": True}], ids=str
)
def test_masks_in_parts(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some queries at a time, a mask is the same as whole."""
    model = Attention(**settings).eval()
    explain = lrp_fx.convert(model)
    explain(**words(6))
    assumed = explain._compiler.entries[-1].entry.assumed
    assert assumed is not None
    found = []
    for entries in (2**20, 64, 1):
        monkeypatch.setattr("lrp_fx.guards.masks._ENTRIES", entries)
        found.append(
            [
                kinds(assumed.made, mask, assumed.constants, dict.fromkeys(words(6), (2, t)))
                for mask in assumed.made.masks
                for t in (1, 6, 20, 21, 40)
            ]
        )
    assert found[0] == found[1] == found[2]
    assert any(found[0])


def test_padded_and_unpadded_calls_share_a_capture() -> None:
    """Each takes the graph that is right for it; alone and beside a padded text an example is explained the same."""
    model = Attention().double().eval()
    explain = lrp_fx.convert(model, conserve="site")
    padded = explain(**words(6, padded=2))
    assert fused(explain.graph) == [(True, False)]
    full = explain(**words(6))
    assert fused(explain.graph) == [(False, True)]
    again = explain(**words(9, padded=1))
    assert fused(explain.graph) == [(True, False)] and again.tokens.shape == (2, 9)
    assert explain.statistics.captures == 1 and explain.statistics.transposes == 2
    assert torch.allclose(full.tokens[1], padded.tokens[1], rtol=1e-9)


def test_a_mask_that_hides_everything_is_no_full_mask() -> None:
    explain = lrp_fx.convert(Attention(causal=False, additive=True).eval(), conserve="off")
    inputs = words(5)
    explain(**{**inputs, "attention_mask": torch.zeros_like(inputs["input_ids"])})
    assert fused(explain.graph) == [(True, False)]


def alike(ours: lrp_fx.Relevance, theirs: lrp_fx.Relevance) -> bool:
    """To the bit, with what every sink took (those of softmax are computed otherwise where a mask is written out)."""
    sinks = ours.ledger.sinks.keys() == theirs.ledger.sinks.keys() and all(
        torch.equal(ours.ledger.sinks[k], theirs.ledger.sinks[k]) for k in ours.ledger.sinks
    )
    return sinks and torch.equal(ours.tokens, theirs.tokens)  # type: ignore[arg-type]


def test_a_saved_file_is_good_for_any_mask(tmp_path: Path) -> None:
    """It holds the graphs that were used and the one that takes nothing for granted; the numbers are the same to the
    bit.
    """
    explain = lrp_fx.convert(Attention().eval())
    full = explain(**words(6))
    graphs = explain.graph, explain.relevance_graph
    explain.save(tmp_path / "graph.lrp")
    assert (explain.graph, explain.relevance_graph) == graphs, "saving changes nothing of what was explained last"
    padded = explain(**words(6, padded=2))
    loaded = lrp_fx.load(tmp_path / "graph.lrp")
    assert alike(loaded(**words(6)), full)
    assert alike(loaded(**words(6, padded=2)), padded)
    assert alike(loaded(**words(15)), explain(**words(15)))


def test_a_file_of_padded_calls_knows_full_masks(tmp_path: Path) -> None:
    explain = lrp_fx.convert(Attention().eval())
    explain(**words(6, padded=2))
    explain.save(tmp_path / "graph.lrp")
    assert explain.statistics.captures == 1 and fused(explain.graph) == [(True, False)]
    loaded = lrp_fx.load(tmp_path / "graph.lrp")
    assert alike(loaded(**words(6)), explain(**words(6)))
    assert alike(loaded(**words(7, padded=1)), explain(**words(7, padded=1)))


@pytest.mark.parametrize(
    "settings", [{}, {"causal": False}, {"window": 20}, {"table": 20}, {"additive": True}], ids=str
)
def test_a_loaded_graph_takes_masks_for_what_they_are(settings: dict[str, Any], tmp_path: Path) -> None:
    """A window of 20 tokens is a causal mask for 20 tokens and none for 21, from a file as well."""
    explain = lrp_fx.convert(Attention(**settings).eval())
    calls = [words(20), words(21), words(6, padded=1), words(30), words(9)]
    theirs = [explain(**call) for call in calls]
    explain.save(tmp_path / "graph.lrp")
    loaded = lrp_fx.load(tmp_path / "graph.lrp")
    assert len(loaded._graphs) == 2
    for call, relevance in zip(calls, theirs, strict=True):
        assert alike(loaded(**call), relevance)


@pytest.mark.parametrize("mask", [True, False])
def test_no_value_has_the_length_squared(mask: bool) -> None:
    """Neither the forward pass nor the transpose of a decoder writes out anything of queries by keys."""
    found = converted("llama", "sdpa")
    inputs, explain = {"input_ids": found.inputs["input_ids"]}, found.explainer
    explain(**inputs, **({"attention_mask": torch.ones_like(inputs["input_ids"])} if mask else {}))
    graph = explain.relevance_graph.graph
    tokens = str(value_of(graph.find_nodes(op="placeholder")[0]).shape[1])
    for node in graph.nodes:
        values = value_of(node) if isinstance(value_of(node), (tuple, list)) else [value_of(node)]
        assert not any(isinstance(v, Tensor) and sum(str(s) == tokens for s in v.shape) > 1 for v in values), node.name
