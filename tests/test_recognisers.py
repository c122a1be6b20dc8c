"""Recognisers: each gives its meaning on a minimal program, says why on a near miss, and has its place in the order."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import lrp_fx
from lrp_fx.analysis.provenance import find_provenance
from lrp_fx.canonicalize.passes import canonicalize
from lrp_fx.capture.ladder import capture
from lrp_fx.ir.graph import op_name
from lrp_fx.recognize.context import Context, Recogniser
from lrp_fx.recognize.meaning import Meaning, Nearness, Refusal
from lrp_fx.recognize.recognisers import RECOGNISERS, ordered, recognise
from lrp_fx.rewrite.application import Rewritten
from lrp_fx.rewrite.assign import rewrite
from lrp_fx.rule import KINDS, registry

B, T, D = 2, 5, 4
X = torch.randn(B, T, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
OPERATION, OPERANDS, PATTERN, CONDITION = Nearness
BY_NAME = {r.name: r for r in RECOGNISERS}
Function = Callable[..., Tensor]


class Host(nn.Module):
    """x -> W x -> the function, given learned maps w and u."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.project, self.w, self.u = nn.Linear(D, D), nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.project(x), self.w, self.u)


@cache
def rewritten(function: Function) -> Rewritten:
    program = canonicalize(capture(Host(function), {"x": X}, {"x": "content"}, methods=("static",)))
    return rewrite(program, find_provenance(program), registry.rulesets["pa-lrp"], registry)


def last(found: Rewritten, op: str) -> fx.Node:
    """The last call of an operation that carries relevance."""
    return [n for n in found.program.graph.nodes if op_name(n).split(".")[-1] == op and found.context.operands(n)][-1]


def position(w: nn.Linear) -> Tensor:
    """A vector for each position."""
    return F.embedding(torch.arange(T), w.weight.new_ones(9, 1) * w.weight[:1])


def mean_square(h: Tensor) -> Tensor:
    return torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-3)


def largest(h: Tensor) -> Tensor:
    return h.abs().amax(-1, keepdim=True) + 0.1


def of_chosen(h: Tensor) -> Tensor:
    """Two of the weights of a softmax over their sum."""
    few, index = h.softmax(-1).topk(2, -1)
    return few / few.sum(-1, keepdim=True) + h.gather(-1, index)  # the scores that canonicalisation writes, but later


def loop(h: Tensor, w: nn.Linear, u: nn.Linear) -> Tensor:
    """A state of one number for each feature that decays by content."""
    decay, state, states = torch.sigmoid(w(h)), torch.zeros_like(h[:, 0]), []
    for t in range(T):
        state = decay[:, t] * state + u(h[:, t])
        states.append(state)
    return torch.stack(states, 1)


def table_rows(h: Tensor, w: nn.Linear, u: nn.Linear) -> Tensor:
    """Examples in the rows of one matrix for each token, times rows of a table that all examples share."""
    return h.transpose(0, 1) @ position(w).unsqueeze(-1).expand(T, D, T)


#: recogniser -> the program, the operation asked about, and the kind it is given.
GIVEN: dict[str, tuple[Function, str, str]] = {
    "named function": (lambda h, w, u: 1 / (1 + torch.exp(-h)), "reciprocal", "elementwise"),
    "renormalised softmax": (lambda h, w, u: of_chosen(h), "div", "softmax"),
    "multiple of zero": (lambda h, w, u: h * torch.zeros_like(h) + h, "mul", "stop"),
    "scan": (loop, "mul", "scan"),
    "chain": (lambda h, w, u: (w(h) * u(h)) * torch.sigmoid(u(h)), "mul", "elementwise"),
    "position factor": (lambda h, w, u: (h * position(w)) * position(u), "mul", "linear"),
    "softmax written out": (lambda h, w, u: h.exp() / h.exp().sum(-1, keepdim=True), "div", "softmax"),
    "scale put back": (lambda h, w, u: w(h / largest(h)) * largest(h), "mul", "normalise"),
    "pointwise coefficient": (lambda h, w, u: h * torch.sigmoid(h), "mul", "elementwise"),
    "normalisation": (lambda h, w, u: h * mean_square(h), "mul", "normalise"),
    "functions of one value": (lambda h, w, u: torch.tanh(h) * torch.sigmoid(h), "mul", "elementwise"),
    "rows of a table": (table_rows, "matmul", "product"),
    "gate": (lambda h, w, u: w(h) * torch.sigmoid(u(h)), "mul", "gate"),
    "independent factors": (lambda h, w, u: w(h) * u(h), "mul", "product"),
    "weights of a softmax": (lambda h, w, u: h.softmax(1) * h, "mul", "product"),
    "form of one value": (lambda h, w, u: h @ h.mT, "matmul", "product"),
    "row product": (
        lambda h, w, u: torch.einsum("btd,btd->bt", h, torch.sigmoid(h)), "bmm", "linear",
    ),
    "dependent factors": (lambda h, w, u: h * torch.sigmoid(h.roll(1, 1)), "mul", "tangent"),
    "denominator": (lambda h, w, u: w.weight[0] / (1 + h.square()), "div", "product"),
    "coefficient": (lambda h, w, u: h * w.weight[0], "mul", "linear"),
    "computed weights": (lambda h, w, u: F.conv1d(u(h).mT, w(h)[0, :4, :, None]), "conv1d", "homogeneous"),
    "residual sum": (lambda h, w, u: h + w(torch.tanh(h)), "add", "residual"),
    "log-sum-exp written out": (lambda h, w, u: h.exp().mean(1).log(), "log", "softmax"),
    "log-softmax written out": (lambda h, w, u: h - h.logsumexp(-1, True), "sub", "softmax"),
    "softmax from its logarithm": (lambda h, w, u: h.log_softmax(-1).exp(), "exp", "softmax"),
    "reconstruction": (lambda h, w, u: torch.ops.lrp_fx.reconstructed(h, w(h)), "reconstructed", "sum"),
    "listed operation": (lambda h, w, u: w(h), "linear", "linear"),
    "choice": (lambda h, w, u: torch.clamp(w(h), min=u(h)), "clamp", "route"),
    "probing": (lambda h, w, u: h.roll(1, 1), "roll", "move"),
}  # fmt: skip

#: (recogniser, what is nearly its program, the operation, how near, why not).
REFUSED: list[tuple[str, Function, str, Nearness, str]] = [
    ("named function", lambda h, w, u: 1 / (2 + torch.exp(-h)), "reciprocal", CONDITION, "none of sigmoid, tanh"),
    ("named function", lambda h, w, u: 1 / (2 + h.square()), "reciprocal", PATTERN, "sums, products and powers"),
    ("named function", GIVEN["coefficient"][0], "mul", OPERANDS, "no function of one value"),
    ("renormalised softmax", lambda h, w, u: h.softmax(-1) / h.sum(-1, True), "div", OPERANDS, "chosen weights"),
    ("multiple of zero", lambda h, w, u: h * torch.ones_like(h), "mul", OPERANDS, "no factor is a constant zero"),
    ("scan", GIVEN["gate"][0], "mul", OPERANDS, "no recurrence was found"),
    ("chain", lambda h, w, u: (w(h) * u(h)) * torch.sigmoid(h), "mul", PATTERN, "another factor of its chain"),
    ("position factor", lambda h, w, u: h * position(w), "mul", PATTERN, "no operand is a product of content and"),
    ("position factor", lambda h, w, u: (h * position(w)) * u(h), "mul", CONDITION, "but the other operand is none"),
    ("softmax written out", lambda h, w, u: h.exp() / h.sum(-1, True), "div", PATTERN, "is not the sum of the exp"),
    ("softmax written out", lambda h, w, u: h.exp() / h.exp().sum((1, 2), True), "div", CONDITION, "one axis"),
    ("softmax written out", lambda h, w, u: h.exp() * h.exp().sum(-1, True), "mul", OPERANDS, "nothing divides it"),
    ("pointwise coefficient", GIVEN["dependent factors"][0], "mul", CONDITION, r"mixes elements \(%roll\)"),
    ("pointwise coefficient", GIVEN["gate"][0], "mul", OPERANDS, "is no function of %linear_1 alone"),
    ("pointwise coefficient", lambda h, w, u: h * torch.sigmoid(w(h)), "mul", PATTERN, "through a learned map"),
    ("normalisation", lambda h, w, u: h * torch.tanh(h.cumsum(1)), "mul", CONDITION, "is not broadcast against %"),
    ("normalisation", GIVEN["dependent factors"][0], "mul", CONDITION, "nothing in it reduces an axis"),
    ("normalisation", GIVEN["weights of a softmax"][0], "mul", CONDITION, "a softmax is on the way"),
    ("functions of one value", lambda h, w, u: torch.tanh(h) * h.roll(1, 1), "mul", PATTERN, "not both pointwise"),
    ("rows of a table", lambda h, w, u: h @ w(h).mT, "matmul", OPERANDS, "neither operand is a table"),
    ("rows of a table", lambda h, w, u: h @ position(w).mT, "matmul", CONDITION, "not merged with other axes"),
    ("scale put back", lambda h, w, u: w(h) * largest(h), "mul", PATTERN, "no operand is a statistic that was taken"),
    ("gate", GIVEN["independent factors"][0], "mul", CONDITION, "0 of its factors are activated"),
    ("gate", lambda h, w, u: w(h).tanh() * u(h).sigmoid(), "mul", CONDITION, "2 of its factors are activated"),
    ("independent factors", GIVEN["form of one value"][0], "matmul", PATTERN, "without a learned map"),
    ("weights of a softmax", lambda h, w, u: torch.sigmoid(h) @ h.mT, "matmul", PATTERN, "no softmax is on the way"),
    ("weights of a softmax", lambda h, w, u: h @ w(h).mT, "matmul", OPERANDS, "a learned map stands between"),
    ("form of one value", lambda h, w, u: torch.sigmoid(h) @ h.mT, "matmul", CONDITION, "not homogeneous of any"),
    ("row product", lambda h, w, u: torch.einsum("btd,btd->bt", h, h.roll(1, 1).sigmoid()), "bmm", CONDITION,
     "not both pointwise functions"),
    ("denominator", lambda h, w, u: w(h) / (1 + u(h).square()), "div", OPERANDS, "not all that carries relevance"),
    ("coefficient", GIVEN["dependent factors"][0], "mul", OPERANDS, "both of its factors carry relevance"),
    ("computed weights", lambda h, w, u: w(h), "linear", OPERANDS, "values and weights are not two values"),
    ("computed weights", lambda h, w, u: F.scaled_dot_product_attention(w(h), u(h), h), "scaled_dot_product_attention",
     CONDITION, "two factors: an attention"),
    ("residual sum", lambda h, w, u: w(h) + u(h), "add", CONDITION, "no term is computed from another"),
    ("residual sum", lambda h, w, u: h + h.sum(-1, True), "add", PATTERN, "another shape than the sum"),
    ("softmax from its logarithm", lambda h, w, u: (h - h.logsumexp((1, 2), True)).exp(), "exp", CONDITION, "one axis"),
    ("softmax from its logarithm", lambda h, w, u: (h - h.amax(-1, True)).exp(), "exp", PATTERN, "no logarithm of"),
    ("log-sum-exp written out", lambda h, w, u: w(h).exp().log(), "log", PATTERN, "is no sum of exponentials"),
    ("log-sum-exp written out", lambda h, w, u: h.sigmoid().sum(1).log(), "log", PATTERN, "is no exponential"),
    ("log-softmax written out", lambda h, w, u: h - h.amax(-1, True), "sub", PATTERN, "no logarithm of a sum of"),
    ("reconstruction", lambda h, w, u: h + w(h), "add", OPERATION, "aten.add reconstructs nothing"),
    ("listed operation", GIVEN["choice"][0], "clamp", OPERANDS, "of 2 values that carry relevance"),
    ("choice", GIVEN["probing"][0], "roll", OPERATION, "no rule lists aten.roll"),
    ("choice", lambda h, w, u: (1 + w(h).square()) ** u(h), "pow", CONDITION, "none of the values it is given"),
]  # fmt: skip


def test_each_recogniser_is_in_both_tables() -> None:
    assert GIVEN.keys() == BY_NAME.keys()
    assert {name for name, *_ in REFUSED} == BY_NAME.keys() - {"dependent factors", "probing"}  # these never refuse


@pytest.mark.parametrize("name", GIVEN)
def test_it_gives_its_meaning(name: str) -> None:
    function, op, kind = GIVEN[name]
    found = rewritten(function)
    node = last(found, op)
    explanation = found.why(node)
    assert (explanation.recogniser, explanation.kind) == (name, kind), str(explanation)
    assert kind in BY_NAME[name].kinds
    asked = [r.name for r in RECOGNISERS[: RECOGNISERS.index(BY_NAME[name])]]
    assert sorted(r.recogniser for r in explanation.refusals) == sorted(asked)
    if node in found.applications:
        assert found.applications[node].why == explanation.why


@pytest.mark.parametrize(("name", "function", "op", "nearness", "why"), REFUSED)
def test_it_says_why_not(name: str, function: Function, op: str, nearness: Nearness, why: str) -> None:
    found = rewritten(function)
    answer = BY_NAME[name].recognise(found.context, last(found, op))
    assert isinstance(answer, Refusal)
    assert answer.nearness is nearness
    with pytest.raises(ValueError, match=why):
        raise ValueError(answer.why)


# ------------------------------------------------------------------------------------------------ the list
def test_the_order() -> None:
    """What is more special is asked first."""
    names = [r.name for r in RECOGNISERS if r.name in GIVEN]
    assert names == list(GIVEN)
    assert all(set(r.kinds) <= set(KINDS) and r.purpose for r in RECOGNISERS)


def squared(context: Context, node: fx.Node) -> Meaning | Refusal:
    if op_name(node) != "aten.square":
        return Refusal("no square", Nearness.OPERATION)
    return Meaning("homogeneous", tuple(context.operands(node)), "a square", facts={"degrees": ((2.0,),)})


SQUARED = Recogniser("squared", "x ** 2", ("homogeneous",), squared, before=("listed operation",))


def test_one_more_is_asked_where_it_says() -> None:
    more = ordered([*RECOGNISERS, SQUARED])
    assert [r for r in more if r is not SQUARED] == list(RECOGNISERS)
    assert more.index(SQUARED) < more.index(BY_NAME["listed operation"])
    found = rewritten(GIVEN["denominator"][0])
    node = last(found, "square")
    assert recognise(found.context, node, more).meaning.why == "a square"
    assert recognise(found.context, node).recogniser is BY_NAME["probing"]
    after = ordered([*RECOGNISERS, replace(SQUARED, after=("listed operation",), before=("choice",))])
    assert [r.name for r in after][-4:] == ["listed operation", "squared", "choice", "probing"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (replace(SQUARED, name="gate"), "two recognisers are named 'gate'"),
        (replace(SQUARED, before=("square",)), "'squared' names unknown ones: square"),
        (replace(SQUARED, before=("scan",), after=("chain",)), "asked in a circle: .*'squared' before 'scan'"),
    ],
)
def test_an_order_that_is_none_is_refused(wrong: Recogniser, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ordered([*RECOGNISERS, wrong])


def test_one_that_is_asked_last_must_answer() -> None:
    found = rewritten(GIVEN["probing"][0])
    with pytest.raises(LookupError, match="no recogniser gave %roll a meaning"):
        recognise(found.context, last(found, "roll"), RECOGNISERS[:-1])


def test_every_recogniser_of_the_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with a recogniser needs no entry elsewhere."""
    from lrp_fx.recognize import listed, recognisers

    monkeypatch.setattr(listed, "SQUARED", SQUARED, raising=False)
    assert SQUARED in recognisers.find()
    assert set(recognisers.find()) == {*RECOGNISERS, SQUARED}


# ------------------------------------------------------------------------------------------------ what is shown
@pytest.fixture(scope="module")
def reported() -> lrp_fx.Explainer:
    """A product that no rule serves exactly, behind a normalisation."""

    def function(h: Tensor, w: nn.Linear, u: nn.Linear) -> Tensor:
        g = h * mean_square(h)
        return (g * torch.sigmoid(g.roll(1, 1))).sum((1, 2))[:, None] * torch.ones(2, dtype=h.dtype)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lrp_fx.convert(Host(function), {"x": X}, dynamic=False)


def test_why_of_a_node(reported: lrp_fx.Explainer) -> None:
    (name,) = (n.name for n, a in reported.rewritten.applications.items() if a.rule.name == "tangent.unexplained")
    why = reported.why(name)
    assert why.kind == "tangent" and why.recogniser == "dependent factors"
    assert [r.recogniser for r in why.nearest()] == ["pointwise coefficient", "normalisation", "form of one value"]
    assert all(r.nearness is CONDITION for r in why.nearest())
    assert why.refusals == tuple(sorted(why.refusals, key=lambda r: -r.nearness))
    text = str(why)
    for part in (f"%{name} = aten.mul", "test_recognisers.py", "not normalisation: ", "nothing in it reduces an axis"):
        assert part in text, part
    assert "about other operations: rows of a table" in text
    assert reported.why(f"%{name}") == why


def test_why_of_nodes_without_a_rule(reported: lrp_fx.Explainer) -> None:
    """What is a leaf, frozen, no carrier, or no node at all."""
    nodes = {n.name: n for n in reported.rewritten.program.graph.nodes}
    assert reported.why("x").kind == "leaf"
    weight = next(n for n in nodes if "weight" in n)
    assert reported.why(weight).kind == "frozen" and "depends on parameter" in reported.why(weight).why
    square = next(name for name, n in nodes.items() if op_name(n) == "aten.square")
    assert "relevance of the output does not reach it" in reported.why(square).rule
    with pytest.raises(lrp_fx.InputError, match=r"no node 'rsqr'.* close ones are .*rsqrt"):
        reported.why("rsqr")


def test_strict_errors_show_what_came_nearest() -> None:
    with pytest.raises(lrp_fx.UnsupportedOperatorError) as caught:
        lrp_fx.convert(Host(lambda h, w, u: h * torch.sigmoid(h.roll(1, 1))), {"x": X}, strict=True, dynamic=False)
    message = str(caught.value)
    assert message.count("near:  not ") == 3
    for part in ("not normalisation: ", "mixes elements (%roll)", "next:", "put a Recogniser", "lrp-fx recognisers"):
        assert part in message, part
