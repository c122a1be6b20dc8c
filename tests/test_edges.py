"""Edges: what passes from place to place adds up at every unit, and is what gates find one by one."""

from __future__ import annotations

import copy
import io
import json
import pickle
import xml.etree.ElementTree as ET
from pathlib import Path

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx import Between, InputError, Relevance, targets
from lrp_fx.report.edges import Edges
from lrp_fx.report.prune import influences, pruned
from testing.converted import converted

IDS = torch.tensor([[1, 5, 2, 7, 4], [3, 3, 8, 6, 9]])


class Block(nn.Module):
    """Attention by the fused kernel, four queries' heads for two of keys and values, and a gated map."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.gate, self.down = nn.Linear(width, 24), nn.Linear(width, 24), nn.Linear(24, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, d = x.shape
        h = self.norm(x)
        q = self.q(h).view(B, T, 4, d // 4).transpose(1, 2)
        k, v = self.kv(h).view(B, T, 2, 2, d // 4).permute(2, 0, 3, 1, 4).repeat_interleave(2, 2)
        weighed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(weighed.transpose(1, 2).reshape(B, T, d))
        h = self.norm_2(x)
        return x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.rows = nn.Embedding(10, 16), nn.Embedding(8, 16)
        self.blocks, self.head = nn.ModuleList([Block(), Block()]), nn.Linear(16, 10)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids) + self.rows(torch.arange(input_ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.fixture(scope="module")
def explainer() -> lrp_fx.Explainer:
    torch.manual_seed(0)
    model = Decoder().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2 if p.dim() > 1 else 1)
    return lrp_fx.convert(model, progress=False)


@pytest.fixture(scope="module")
def relevance(explainer: lrp_fx.Explainer) -> Relevance:
    return explainer(input_ids=IDS, edges=Between(["heads", "mlp"], total=True))


@pytest.fixture(scope="module")
def edges(relevance: Relevance) -> Edges:
    assert relevance.edges is not None
    return relevance.edges


def test_every_unit_hands_on_what_it_gets(edges: Edges, relevance: Relevance) -> None:
    """in = relevance = out, of the score, each head and each block; nothing is left but rounding."""
    assert len(edges.units) == 2 * (4 + 1) and not relevance.at
    own = torch.cat([relevance.score.unsqueeze(1), edges.relevance], 1)
    torch.testing.assert_close(edges.outgoing, own, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(edges.direct.sum(1), edges.relevance, atol=1e-5, rtol=1e-4)
    assert float(edges.error.max()) < 1e-6
    assert float(edges.relevance.abs().min(0).values.max()) > 1e-3


def test_ends_are_those_of_the_ledger(edges: Edges, relevance: Relevance) -> None:
    """What leaves and sinks got is what all units, and the score, handed to them."""
    for name, total in relevance.ledger.sinks.items():
        torch.testing.assert_close(edges.sinks[name].sum(1), total, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        edges.leaves["input_ids"].sum(1), relevance.ledger.leaves["content"], atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(edges.tokens["input_ids"].sum(1), relevance.content["input_ids"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(edges.tokens["input_ids"].sum(2), edges.leaves["input_ids"])


def test_relevance_is_that_of_the_places(explainer: lrp_fx.Explainer, edges: Edges) -> None:
    at = explainer(input_ids=IDS, at=["heads", "mlp"]).at
    heads = torch.cat([edges.between("score", f"heads.{n}", "total")[:, 0] for n in (0, 1)], 1)
    torch.testing.assert_close(heads, torch.cat([at["heads.0"].by("heads"), at["heads.1"].by("heads")], 1))
    torch.testing.assert_close(edges.between("score", "mlp.1")[:, 0, 0], at["mlp.1"].total)  # nothing lies above it


def gated(explainer: lrp_fx.Explainer, edges: Edges, inputs: dict[str, Tensor], place: str, head: int) -> None:
    """On any way: what of the lower places passes a head, by a gate at it."""
    places = list(dict.fromkeys(u.place for u in edges.units))
    behind = explainer(**inputs, through={place: [head]}, at=places[: places.index(place)]).at
    for name, activation in behind.items():
        found = edges.between(f"{place}[{head}]", name, "total")[:, 0]
        expected = activation.by("heads") if "heads" in activation.axes else activation.total.unsqueeze(1)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_totals_are_what_passes_a_gate(explainer: lrp_fx.Explainer, edges: Edges) -> None:
    gated(explainer, edges, {"input_ids": IDS}, "heads.1", 2)
    assert edges.between("heads.1[2]", "heads.0", "total").abs().max() > 1e-4
    assert not edges.between("heads.0", "heads.1", "total").any()  # relevance flows downwards


def test_direct_edges_pass_nothing_else(explainer: lrp_fx.Explainer, edges: Edges) -> None:
    """Totals are direct edges and those by way of what lies between: here one block's map."""
    alone = explainer(input_ids=IDS, edges=["heads.0", "heads.1"]).edges
    assert alone is not None
    both, direct = edges.between("heads.1", "heads.0", "total"), edges.between("heads.1", "heads.0")
    torch.testing.assert_close(alone.between("heads.1", "heads.0"), both, atol=1e-6, rtol=1e-4)
    assert (both - direct).abs().max() > 1e-4


def test_one_graph_serves_all_places(explainer: lrp_fx.Explainer) -> None:
    explainer(input_ids=IDS, edges=["attention", "mlp"])
    before = explainer.statistics.transposes
    longer = torch.arange(7).view(1, 7)
    found = explainer(input_ids=IDS.flip(1), edges=["attention", "mlp"]).edges
    assert explainer.statistics.transposes == before and found is not None
    assert [u.name for u in found.units] == ["attention.0", "mlp.0", "attention.1", "mlp.1"]
    again = explainer(input_ids=longer, edges=Between(["attention", "mlp"], at_once=1)).edges
    together = explainer(input_ids=longer, edges=["attention", "mlp"]).edges
    torch.testing.assert_close(again.direct, together.direct, atol=1e-6, rtol=1e-4)


def test_units_along_other_axes(explainer: lrp_fx.Explainer, edges: Edges) -> None:
    """Heads at tokens: their sums are the heads', and a causal model hands nothing to what comes later."""
    by = {"heads.0": ("tokens", "heads"), "residual.1": "tokens"}
    found = explainer(input_ids=IDS, edges=Between(["heads.0", "residual.1"], by=by, total=True)).edges
    assert found is not None and found.units[7].name == "heads.0[1,2]" and found.units[7].axes == ("heads", "tokens")
    by_head = found.between("score", "heads.0", "total")[:, 0].view(2, 4, 5).sum(2)
    torch.testing.assert_close(by_head, edges.between("score", "heads.0", "total")[:, 0], atol=1e-6, rtol=1e-4)
    rows = found.between("residual.1", "heads.0").view(2, 5, 4, 5)
    assert all(not rows[:, t, :, u].any() for t in range(5) for u in range(5) if u != t)  # the stream mixes no tokens


def test_targets_of_one_kind_and_places_as_targets(explainer: lrp_fx.Explainer) -> None:
    results = explainer(input_ids=IDS, edges="mlp", targets=[targets.Class(3), targets.Class(5)])
    inside = explainer(input_ids=IDS, edges="mlp", target=targets.At("mlp.1", 4), at="mlp.1")
    assert all(float(r.edges.error.max()) < 1e-6 for r in [*results, inside])
    assert list(inside.at) == ["mlp.1"]
    torch.testing.assert_close(inside.edges.between("score", "mlp.1")[:, 0, 0], inside.score)  # it is its own place
    assert (results[0].edges.direct - results[1].edges.direct).abs().max() > 1e-3


@pytest.mark.slow
def test_other_settings() -> None:
    torch.manual_seed(1)
    made = lrp_fx.convert(Decoder().eval().double(), progress=False, rules="attnlrp", checkpoint=True)
    found = made(input_ids=IDS, edges="heads").edges
    assert found is not None and found.direct.dtype == torch.float64 and float(found.error.max()) < 1e-13


def test_parts_of_each_other_are_refused(explainer: lrp_fx.Explainer) -> None:
    with pytest.raises(InputError, match=r"attention\.0 is made of heads\.0 alone: .*parts of each other[\s\S]*leave"):
        explainer(input_ids=IDS, edges=["heads.0", "attention.0"])
    with pytest.raises(InputError, match=r"are one value[\s\S]*leave one"):
        explainer(input_ids=IDS, edges=["mlp.0", "blocks.0.down"])
    with pytest.raises(InputError, match="through= at once"):
        explainer(input_ids=IDS, edges="heads", through={"mlp.0": True})
    with pytest.raises(InputError, match=r"heads\.0 has heads, tokens, features"):
        explainer(input_ids=IDS, edges=Between("heads.0", by={"heads.0": "neurons"}))
    for wrong in (
        {"places": []},
        {"places": 3},
        {"places": "mlp", "at_once": 0},
        {"places": "mlp", "by": {"heads": "a"}},
    ):
        with pytest.raises(InputError):
            Between(**wrong)


def test_names_that_are_none(explainer: lrp_fx.Explainer, edges: Edges) -> None:
    with pytest.raises(InputError, match=r"no unit or place 'heads\.7'.*heads\.0"):
        edges.between("score", "heads.7")
    with pytest.raises(InputError, match="paths is one of"):
        edges.matrix("all")
    plain = explainer(input_ids=IDS)
    with pytest.raises(InputError, match=r"no edges[\s\S]*next: explainer\(\.\.\., edges="):
        plain.graph()
    with pytest.raises(InputError, match=r"not asked for[\s\S]*total=True"):
        explainer(input_ids=IDS, edges="mlp").edges.matrix("total")


def test_edges_are_part_of_the_result(relevance: Relevance, edges: Edges, tmp_path: Path) -> None:
    relevance.save(tmp_path / "kept")
    for other in (Relevance.load(tmp_path / "kept"), copy.deepcopy(relevance), pickle.loads(pickle.dumps(relevance))):
        assert torch.equal(other.edges.direct, edges.direct) and other.edges.units == edges.units
    one = relevance[1].edges
    assert one is not None and torch.equal(one.direct, edges.direct[1:]) and torch.equal(one.total, edges.total[1:])
    assert relevance.to(torch.float64).edges.direct.dtype == torch.float64


def test_edges_as_a_table(relevance: Relevance, edges: Edges) -> None:
    pytest.importorskip("pandas")
    frame = edges.to_frame()
    first = frame[frame.example == 0]
    assert abs(float(first[first.upper == "score"].relevance.sum()) - float(relevance.score[0])) < 1e-4
    assert set(edges.to_frame("total").lower) <= set(edges.names)


# ------------------------------------------------------------------------------------------------ graphs
def test_graph_keeps_edges_with_a_share(relevance: Relevance) -> None:
    whole, part = relevance.graph(0), relevance.graph(0.05)
    assert whole.kept == pytest.approx(1) and part.kept < 1 and 0 < len(part) < len(whole)
    least = 0.05 * abs(float(relevance.score[0]))
    assert all(abs(w) >= least for _, _, w in part.graph.edges(data="weight"))
    for node in whole.graph.nodes:  # books of the drawn graph, which leads upwards
        got = sum(w for _, _, w in whole.graph.out_edges(node, data="weight"))
        gave = sum(w for _, _, w in whole.graph.in_edges(node, data="weight"))
        own = whole.graph.nodes[node]["relevance"]
        assert node == "score" or got == pytest.approx(own, abs=1e-4)
        assert not whole.graph.in_degree(node) or gave == pytest.approx(own, abs=1e-4)
    assert all(nx.has_path(part.graph, node, "score") for node in part.graph.nodes)
    assert part.top(1)[0][2] == max((w for *_, w in part.top(99)), key=abs)


def test_shares_of_influence(relevance: Relevance) -> None:
    found = [relevance.graph(share=share, example=1) for share in (0.5, 0.9, 1.0)]
    assert len(found[0]) < len(found[1]) < len(found[2]) and found[2].kept == pytest.approx(1)
    for wrong in ({"threshold": -1}, {"threshold": "a"}, {"share": 0}, {"share": 2}, {"example": 2}, {"example": -1}):
        with pytest.raises(InputError):
            relevance.graph(**wrong)


def test_influence_by_hand() -> None:
    graph = nx.DiGraph()
    graph.add_node("score", relevance=2.0)
    graph.add_weighted_edges_from([("a", "score", 3.0), ("x", "score", -1.0), ("x", "a", 2.5), ("y", "a", 0.5)])
    nodes, edges = influences(graph, "score")
    assert nodes == {"score": 1, "a": 0.75, "x": 0.25 + 0.625, "y": 0.125} and edges["y", "a"] == 0.125
    left, kept = pruned(graph, "score", 0.3, None)
    assert set(left.edges) == {("a", "score"), ("x", "score"), ("x", "a")} and kept == 0.875
    assert set(pruned(graph, "score", 0, 0.7)[0].edges) == {("a", "score"), ("x", "a")}
    hidden, none = pruned(graph, "score", 2.0, None)  # nothing is that large: the score alone
    assert list(hidden.nodes) == ["score"] and none == 0


def test_graphs_are_written_for_others(relevance: Relevance, tmp_path: Path) -> None:
    circuit = relevance.graph(0.02, tokenizer=[f" w{n}" for n in range(10)])
    circuit.to_graphml(tmp_path / "a.graphml")
    read = nx.read_graphml(tmp_path / "a.graphml")
    assert set(read.edges) == set(circuit.graph.edges) and read.nodes["score"]["kind"] == "score"
    linked = nx.node_link_graph(json.loads(circuit.to_json(tmp_path / "a.json")), edges="edges")
    assert nx.utils.graphs_equal(linked, circuit.graph)
    with pytest.raises(InputError, match="could not be written"):
        circuit.to_graphml(tmp_path / "none" / "a.graphml")


def test_circuit_tracer_schema(relevance: Relevance, tmp_path: Path) -> None:
    """The fields of circuit-tracer 0.4.1 (frontend/graph_models.py), and the list of its server."""
    circuit = relevance.graph(0.02, tokenizer=[f" w{n}" for n in range(10)])
    for name in ("first", "second", "first"):
        circuit.to_circuit_tracer(tmp_path / f"{name}.json", scan="tiny")
    data = json.loads((tmp_path / "first.json").read_text())
    fields = {"slug": str, "scan": str, "transcoder_list": list, "prompt_tokens": list, "prompt": str}
    assert {n: type(data["metadata"][n]) for n in fields} == fields and data["metadata"]["schema_version"] == 1
    assert data["metadata"]["prompt_tokens"] == [" w1", " w5", " w2", " w7", " w4"]
    assert set(data["qParams"]) == {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
    node = {"node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "token_prob": float}
    node |= {"is_target_logit": bool, "run_idx": int, "reverse_ctx_idx": int, "jsNodeId": str, "clerp": str}
    ids = [n["node_id"] for n in data["nodes"]]
    assert len(set(ids)) == len(ids) == circuit.graph.number_of_nodes()
    assert all({k: type(n[k]) for k in node} == node and 0 <= n["ctx_idx"] < 5 for n in data["nodes"])
    known = {"cross layer transcoder", "mlp reconstruction error", "embedding", "logit"}
    assert {n["feature_type"] for n in data["nodes"]} <= known and sum(n["is_target_logit"] for n in data["nodes"]) == 1
    assert len(data["links"]) == len(circuit) and all({k["source"], k["target"]} <= set(ids) for k in data["links"])
    listed = json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]
    assert [entry["slug"] for entry in listed] == ["second", "first"]
    (tmp_path / "graph-metadata.json").write_text("[]")
    with pytest.raises(InputError, match="no list of graphs"):
        circuit.to_circuit_tracer(tmp_path / "first.json")


def test_drawings(relevance: Relevance, tmp_path: Path) -> None:
    circuit = relevance.graph(0.02, tokenizer=["<b>&" for _ in range(10)])
    page = circuit.to_html(tmp_path / "a.html")
    assert page == (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<script" not in page and "http" not in page and "prefers-color-scheme: dark" in page and "<b>&" not in page
    drawing = ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    assert len(drawing.findall("path")) == len(circuit) == page.count("<tr><td>")
    assert len(drawing.findall("g")) == circuit.graph.number_of_nodes()
    left = [float(r.get("x")) for r in drawing.iter("rect")]
    assert min(left) >= 0 and max(left) < float(drawing.get("width"))
    assert "Circuit" in repr(circuit) and circuit._repr_html_().startswith("<style>")


def test_shown_in_the_terminal(relevance: Relevance) -> None:
    from rich.console import Console

    console = Console(record=True, width=90, file=io.StringIO())
    circuit = relevance.graph(0.02)
    circuit.show(console)
    text = console.export_text()
    upper, lower, weight = circuit.top(1)[0]
    assert f"{weight:+.4g}" in text and lower in text and upper in text and "of the flow" in text


# ------------------------------------------------------------------------------------------------ whole models
@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "vit", "t5"])
def test_whole_models(name: str) -> None:
    """Grouped queries, biases, norms behind sums, patches, and an encoder under a decoder."""
    made = converted(name)
    found = made.explainer(**made.inputs, edges=Between(["heads", "mlp"], total=True)).edges
    assert found is not None and float(found.error.max()) < 1e-5
    uppers = [u.place for u in found.units if u.kind == "heads"]
    gated(made.explainer, found, made.inputs, uppers[-1], 1)
    assert found.between(f"{uppers[-1]}[1]", uppers[0], "total").abs().max() > 0
