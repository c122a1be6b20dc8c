"""Conservation is checked, not claimed: broken rules and tampered coefficients are caught and named by the right
site.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import lrp_fx
from lrp_fx.report.ledger import OUTPUT_ROUNDING, TOTAL_TOLERANCE, rounding_floor
from lrp_fx.rule import Call, Rule, registered, registry, share, sink
from testing.architectures import BY_NAME


class Tiny(nn.Module):
    """One of every kind of site, float64."""

    def __init__(self, fused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fused = fused
        self.embed, self.place = nn.Embedding(20, 8), nn.Embedding(16, 8)
        self.norm, self.qkv, self.up, self.gate, self.head = (
            nn.LayerNorm(8),
            nn.Linear(8, 24),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 3),
        )
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape) * 0.6)
        self.double().eval()

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids) + self.place(torch.arange(input_ids.shape[1], device=input_ids.device))
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        if self.fused:
            x = x + nn.functional.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)).squeeze(
                1
            )
        else:
            x = x + torch.softmax(q @ k.transpose(1, 2) / 8**0.5, -1) @ v
        x = x + self.up(x) * nn.functional.silu(self.gate(x))
        return self.head(torch.relu(x).amax(1))


IDS = torch.tensor([[3, 7, 1, 9, 4], [2, 2, 8, 5, 6]])


def tampered(explainer: lrp_fx.Explainer, node: fx.Node) -> str:
    """The error raised when one coefficient of the relevance graph is scaled by 1.01."""
    module = explainer.relevance_graph
    with module.graph.inserting_after(node):
        wrong = module.graph.call_function(torch.ops.aten.mul.Tensor, (node, 1.01))
    node.replace_all_uses_with(wrong, delete_user_cb=lambda user: user is not wrong)
    module.recompile()
    try:
        with pytest.raises(lrp_fx.ConservationError) as caught:
            explainer(input_ids=IDS)
        return str(caught.value)
    finally:
        wrong.replace_all_uses_with(node)
        module.graph.erase_node(wrong)
        module.recompile()


@pytest.mark.parametrize("fused", [False, True])
def test_every_tampered_coefficient_is_named(fused: bool) -> None:
    explainer = lrp_fx.convert(Tiny(fused), conserve="site")
    explainer(input_ids=IDS)
    applications = {a.node.name: a for a in explainer.rewritten.applications.values()}
    caught: dict[str, set[Any]] = {}
    for node in list(explainer.relevance_graph.graph.nodes):
        site, role, operand = node.meta.get("lrp") or ("", "", 0)
        if role != "coefficient" or site not in applications:
            continue
        message = tampered(explainer, node)
        assert f"%{site} " in message, message
        caught.setdefault(applications[site].kind, set()).add((applications[site].rule.name, operand))
    assert {"linear", "move", "normalise", "elementwise", "gate", "route"} <= set(caught)
    if fused:
        assert {operand for _, operand in caught["attention"]} == {0, 1, 2}, "q, k and v"
    else:
        assert {"softmax", "product"} <= set(caught)
    explainer(input_ids=IDS)  # untouched again: closes


def test_tampering_is_caught_in_a_real_architecture() -> None:
    architecture = BY_NAME["llama"]
    explainer = lrp_fx.convert(architecture.build("sdpa", torch.float64), conserve="site")
    inputs = architecture.inputs()
    explainer(**inputs)
    kernels = [
        n
        for n in explainer.relevance_graph.graph.nodes
        if (n.meta.get("lrp") or ("", "", 0))[1] == "coefficient" and n.meta["lrp"][0].startswith("scaled_dot")
    ]
    assert len(kernels) == 6, "q, k, v of two layers"
    for node in kernels:
        module = explainer.relevance_graph
        with module.graph.inserting_after(node):
            wrong = module.graph.call_function(torch.ops.aten.mul.Tensor, (node, 1.01))
        node.replace_all_uses_with(wrong, delete_user_cb=lambda user, w=wrong: user is not w)
        module.recompile()
        with pytest.raises(lrp_fx.ConservationError, match=node.meta["lrp"][0]):
            explainer(**inputs)
        wrong.replace_all_uses_with(node)
        module.graph.erase_node(wrong)
        module.recompile()


def broken(name: str, kind: str, ops: tuple[str, ...], surrogate: Any) -> Rule:
    return Rule(name, kind, "wrong on purpose", ("bach2015",), ops, surrogate)


def _loses(call: Call) -> Tensor:
    return call.map(lambda i, a: share(a, 0.9) if i in call.carriers else a).run()  # type: ignore[no-any-return]


def _doubles(call: Call) -> Tensor:
    return call.map(lambda i, a: share(a, 2.0) if i in call.carriers else a).run()  # type: ignore[no-any-return]


def _wrong_value(call: Call) -> Tensor:
    (x,) = call.operands()
    return x * torch.sigmoid(x.detach()) * 1.05


def _wrong_sink(call: Call) -> Tensor:
    x, w, b = call.args
    y = nn.functional.linear(x, w)
    return y + sink("bias", b * 0.5, y)


BROKEN = {
    "loses": (broken("test.loses", "product", ("aten.matmul", "aten.bmm"), _loses), "product", "%matmul"),
    "doubles": (broken("test.doubles", "move", ("aten.transpose",), _doubles), "move", "%transpose"),
    "another value": (broken("test.value", "elementwise", ("aten.silu",), _wrong_value), "elementwise", "%silu"),
    "half the bias": (broken("test.sink", "linear", ("aten.linear",), _wrong_sink), "linear", "%linear"),
    "scaled sum": (broken("test.sum", "sum", ("aten.add",), _loses), "sum", "%add"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_is_caught_and_named(case: str) -> None:
    rule, kind, node = BROKEN[case]
    preset = dataclasses.replace(registry.rulesets["pa-lrp"], name="broken", kinds={kind: rule.name})
    with registered(rule):
        explainer = lrp_fx.convert(Tiny(), rules=preset, conserve="site")
        with pytest.raises(lrp_fx.ConservationError) as caught:
            explainer(input_ids=IDS)
    message = str(caught.value)
    assert rule.name in message
    assert node in message
    assert "test_conservation.py" in message, "names the source line"
    assert all(rule.name in line for line in message.splitlines() if line.startswith("  %")), (
        "no innocent site is accused"
    )


def test_total_mode_catches_a_broken_rule_too() -> None:
    rule, kind, _ = BROKEN["loses"]
    preset = dataclasses.replace(registry.rulesets["pa-lrp"], name="broken", kinds={kind: rule.name})
    with registered(rule), pytest.raises(lrp_fx.ConservationError, match="does not close"):
        lrp_fx.convert(Tiny(), rules=preset)(input_ids=IDS)


def test_the_ledger_closes_for_each_example() -> None:
    ledger = lrp_fx.convert(Tiny())(input_ids=IDS).ledger
    assert ledger.error.shape == (2,)
    assert bool((ledger.error <= 1e-10).all())
    assert torch.allclose(ledger.total, ledger.score)
    assert set(ledger.leaves) == {"content", "position"}
    assert torch.allclose(sum(ledger.shares().values()), torch.ones(2, dtype=torch.float64))


def test_target_that_is_not_linear_books_its_remainder() -> None:
    relevance = lrp_fx.convert(Tiny())(input_ids=IDS, target=lambda logits: logits.softmax(-1)[:, 0])
    assert "target" in relevance.ledger.sinks
    assert relevance.ledger.error.max() <= 1e-10


def test_biases_keep_their_place_in_the_ledger() -> None:
    ledger = lrp_fx.convert(Tiny())(input_ids=IDS).ledger
    modules = {module for name, _, module, _ in ledger.sink_sites if name == "bias"}
    assert {"qkv", "up", "gate", "head", "norm"} <= modules


class TopOne(nn.Module):
    """A router of one expert: its weight is divided by itself, so that what passes the choice is rounding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.router, self.head = nn.Embedding(10, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        weight, _ = self.router(x).softmax(-1).topk(1, -1)
        return self.head((x * (weight / torch.linalg.vector_norm(weight, 1, -1, keepdim=True))).mean(1))


def test_what_is_rounding_of_the_whole_is_no_loss_at_a_site() -> None:
    relevance = lrp_fx.convert(TopOne().double().eval(), conserve="site")(
        input_ids=torch.tensor([[1, 2, 3], [4, 5, 6]])
    )
    assert relevance.ledger.error.max() <= 1e-10
    floor = rounding_floor(torch.float64) * float(relevance.ledger.magnitude.sum())
    assert all(s.scale >= floor for s in relevance.ledger.sites)
    assert floor <= 1e-4 * float(relevance.ledger.magnitude.sum()), (
        "a loss at a site that a ten-thousandth of all relevance passes is measured against that"
    )


class Alike(nn.Module):
    """Two large logits that are almost the same."""

    def __init__(self, apart: float = 1e-5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix, self.head = nn.Embedding(10, 64), nn.Linear(64, 64), nn.Linear(64, 3, bias=False)
        with torch.no_grad():
            self.head.weight[1] = self.head.weight[0] + apart * torch.randn(64)
            self.head.weight *= 1e4

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.mix(self.embed(input_ids))).mean(1))


def test_a_small_difference_of_large_outputs_is_as_rounded_as_they_are() -> None:
    model, ids = Alike().eval(), torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    relevance = lrp_fx.convert(model)(input_ids=ids, target=lrp_fx.targets.Contrast(0, 1))
    size = relevance.output.abs()
    ledger, read = relevance.ledger, torch.maximum(size[:, :2], size.median()).sum(1)
    gap = (ledger.score - ledger.total).abs()
    assert float((gap / ledger.magnitude).max()) > TOTAL_TOLERANCE[torch.float32], "of its parts it is much"
    assert bool((gap <= OUTPUT_ROUNDING[torch.float32] * torch.finfo(torch.float32).eps * read).all())
    with pytest.raises(lrp_fx.ConservationError, match="does not close|not for each example"):  # as roundings add up
        ledger.check()
    with pytest.raises(lrp_fx.ConservationError, match="does not close"):
        dataclasses.replace(ledger, score=ledger.score + 1e-4 * read).check(lambda: read)


@pytest.mark.parametrize("keep_output", [True, False])
def test_a_score_that_is_rounding_is_told(keep_output: bool) -> None:
    contrast, ids = lrp_fx.targets.Contrast(0, 1), torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    with pytest.warns(UserWarning, match=r"of the score of example \d is rounding: .* small difference") as caught:
        lrp_fx.convert(Alike(1e-7).eval(), keep_output=keep_output)(input_ids=ids, target=contrast)
    assert {w.filename for w in caught} == {__file__}


class Beside(nn.Module):
    """Small scores by token, and one that is huge, or masked."""

    def __init__(self, huge: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head, self.huge = nn.Embedding(10, 8), nn.Linear(8, 3), huge

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        scores = self.head(torch.relu(self.embed(input_ids)) * attention_mask.unsqueeze(-1))
        return scores.masked_fill(torch.tensor([False, False, True]), self.huge)


@pytest.mark.parametrize("huge", [1e6, torch.finfo(torch.float32).min, -torch.inf])
@pytest.mark.parametrize("target", [lrp_fx.targets.Contrast(0, 1), lambda y: y[:, 1, 0] - y[:, 1, 1]])
def test_a_huge_output_that_no_score_reads_hides_no_loss(huge: float, target: Any) -> None:
    inputs = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    loses = dataclasses.replace(BROKEN["loses"][0], name="test.linear", kind="linear", ops=("aten.linear",))
    preset = dataclasses.replace(registry.rulesets["pa-lrp"], name="broken", kinds={"linear": loses.name})
    with registered(loses), pytest.raises(lrp_fx.ConservationError, match="does not close"):
        lrp_fx.convert(Beside(huge).eval(), rules=preset)(**inputs, target=target)
