"""Traces that programs share: they are what tracing again gives, and no program gets another's conditions."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

import lrp_fx
from lrp_fx.ir import traces
from lrp_fx.ir.traces import Traced, Traces, known_of
from lrp_fx.ir.tracing import abstract_key, trace
from lrp_fx.rule import Call, Rule, covers, freeze, registered, registry
from testing.handmade import F, T, V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(autouse=True)
def _none() -> None:
    traces.forget()


class Cut(nn.Module):
    """A decoder's block that reads a table by length: it holds for so many tokens only."""

    def __init__(self, rows: int = 0) -> None:
        super().__init__()
        self.words, self.norm, self.inner, self.head = (
            nn.Embedding(V, F),
            nn.LayerNorm(F),
            nn.Linear(F, F),
            nn.Linear(F, 4),
        )
        self.table = nn.Parameter(torch.randn(rows, F)) if rows else None

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        if self.table is not None:
            x = x + self.table[: x.shape[1]]
        weights = (x @ x.mT).softmax(-1)
        x = x + torch.relu(self.inner(self.norm(weights @ x)))
        return self.head(x.mean(1))  # type: ignore[no-any-return]


def explained(model: nn.Module, **options: Any) -> tuple[str, lrp_fx.Relevance]:
    """The relevance graph as text, and what it gives."""
    explainer = lrp_fx.convert(model, **options)
    relevance = explainer(ids(), target=1)
    return explainer.relevance_graph.print_readable(print_output=False), relevance


def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many functions are traced for relevance graphs."""
    from lrp_fx.transpose import builder

    made, before = [0], builder.trace

    def counting(*arguments: Any) -> fx.GraphModule:
        made[0] += 1
        return before(*arguments)

    monkeypatch.setattr(builder, "trace", counting)
    return made


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("options", [{}, {"conserve": "site", "rules": "attnlrp"}], ids=["total", "site"])
def test_it_is_the_graph_that_tracing_again_gives(
    dynamic: bool, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count(monkeypatch)
    first, second = ready(Cut()), ready(Cut())
    explained(first, dynamic=dynamic, **options)
    alone, made[0] = made[0], 0
    shared, found = explained(second, dynamic=dynamic, **options)
    assert made[0] <= alone / 3  # the target's seed and the like
    traces.forget()
    again, expected = explained(second, dynamic=dynamic, **options)
    assert shared == again
    assert torch.equal(found.tokens, expected.tokens) and torch.equal(found.score, expected.score)
    assert all(torch.equal(a.relevance, b.relevance) for a, b in zip(found.position, expected.position, strict=True))


def test_other_lengths_are_served_by_a_shared_trace_too() -> None:
    explained(ready(Cut()), dynamic=True)
    model = ready(Cut())
    explainer = lrp_fx.convert(model, dynamic=True)
    explainer(input_ids=ids(), target=1)
    longer = ids(length=9)
    found = explainer(input_ids=longer, target=1)
    assert explainer.statistics.captures == 1
    traces.forget()
    expected = lrp_fx.convert(model, dynamic=True)(input_ids=longer, target=1)
    assert torch.allclose(found.tokens, expected.tokens, rtol=1e-12, atol=1e-14)


def test_a_program_with_another_condition_traces_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    explained(ready(Cut()), dynamic=True)
    made = count(monkeypatch)
    explained(ready(Cut(rows=16)), dynamic=True)
    with_condition = made[0]
    explained(ready(Cut(rows=16)), dynamic=True)
    assert made[0] - with_condition < with_condition / 2  # the second with the condition finds the first's


class CutBeside(Cut):
    """The same of an input with another name, beside one that is read by itself."""

    def forward(self, others: Tensor, words: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(words) + self.words(others).mean((1, 2), keepdim=True)[:, 0]


def test_sizes_of_other_names_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> tuple[str, lrp_fx.Relevance]:
        explainer = lrp_fx.convert(ready(CutBeside()), dynamic=True)
        relevance = explainer(others=ids(length=3), words=ids(), target=1)
        return explainer.relevance_graph.print_readable(print_output=False), relevance

    made = count(monkeypatch)
    run()
    alone = made[0]
    traces.forget()
    explained(ready(Cut()), dynamic=True)
    made[0] = 0
    graph, found = run()
    assert made[0] < alone / 2
    traces.forget()
    expected_graph, expected = run()
    assert graph == expected_graph
    assert all(torch.equal(R, expected.content[name]) for name, R in found.content.items())


# ------------------------------------------------------------------------------------------------ by hand
def added(mode: Any, name: str, *sizes: int) -> Tensor:
    """A tensor of a mode whose sizes are symbols with names that come of its own."""
    from torch._dynamo.source import ConstantSource

    free = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * len(sizes))
    made: Tensor = mode.from_tensor(torch.ones(sizes), source=ConstantSource(name), symbolic_context=free)
    return made


def symbolic(rows: int, length: int, name: str = "x") -> tuple[Any, Tensor]:
    """A mode of its own, and a (rows, length) tensor in it whose sizes are symbols."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    return mode, added(mode, name, rows, length)


def kept(
    mode: Any, x: Tensor, function: Callable[..., list[Any]], key: Any = "key", holds: Any = None
) -> fx.GraphModule:
    before = known_of(mode)
    module = trace(function, [x], mode)
    Traces().keep((key, abstract_key([x])), Traced(module), mode, before, holds)
    return module


def asked(mode: Any, x: Tensor, key: Any = "key") -> Traced | None:
    return Traces().get((key, abstract_key([x])), mode)


def test_values_are_made_anew_in_the_program_that_asks() -> None:
    kept(*symbolic(3, 5), lambda x: [(x * 2).sum(1), x.shape[1] * 3])
    mode, x = symbolic(3, 5)
    found = asked(mode, x)
    assert found is not None
    for node in found.module.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            assert value.fake_mode is mode  # type: ignore[attr-defined]
        elif isinstance(value, torch.SymInt):
            assert value.node.shape_env is mode.shape_env and value.node.hint in (3, 5, 15)
    assert mode.shape_env.guards == []


def beside(*sizes: int) -> tuple[Any, Tensor, Tensor]:
    """(mode, tensor, tensor of other symbols) in one mode."""
    mode, other = symbolic(*sizes, name="other")
    return mode, added(mode, "y", 3, 5), other


def test_a_symbol_is_what_is_known_of_it_whatever_its_name() -> None:
    kept(*symbolic(3, 5), lambda x: [x * 2, x.shape[0] + x.shape[1]])
    mode, x, _ = beside(2, 7)
    assert str(x.shape) != str(symbolic(3, 5)[1].shape)
    found = asked(mode, x)
    assert found is not None
    ours = set(x.shape[0].node.expr.free_symbols | x.shape[1].node.expr.free_symbols)  # type: ignore[attr-defined]
    for node in found.module.graph.nodes:
        value = node.meta.get("val")
        sizes = value.shape if isinstance(value, Tensor) else [value] if isinstance(value, torch.SymInt) else []
        assert all(s.node.expr.free_symbols <= ours for s in sizes)
    assert asked(*symbolic(5, 3)) is None  # the same symbols the other way round


def test_conditions_count_where_they_bind_what_is_traced() -> None:
    kept(*symbolic(3, 5), lambda x: [x * 2])
    mode, x, other = beside(2, 7)
    assert other.shape[0] + 3 < other.shape[1]
    assert asked(mode, x) is not None
    assert other.shape[1] > x.shape[0]
    assert asked(mode, x) is None
    mode, x, other = beside(3, 7)
    assert other.shape[0] == x.shape[0]  # one symbol stands for both, and nothing else is known
    assert asked(mode, x) is not None


def test_a_symbol_that_is_another_in_a_second_place_is_another_key() -> None:
    mode, x, other = beside(3, 5)
    before = known_of(mode)
    traced = Traced(trace(lambda x, y: [x + 1, y + 1], [x, x], mode))
    Traces().keep(abstract_key([x, x]), traced, mode, before)
    assert Traces().get(abstract_key([other, other]), mode) is not None
    assert Traces().get(abstract_key([x, other]), mode) is None


def test_a_size_of_the_program_in_a_call_is_not_shared() -> None:
    mode, x = symbolic(3, 5)
    length = x.shape[1]
    graph = fx.Graph()
    given = graph.placeholder("x")
    given.meta["val"] = x
    graph.output((graph.call_function(torch.ops.aten.expand.default, (given, [-1, length])),))
    Traces().keep("closed over", Traced(fx.GraphModule(nn.Module(), graph)), mode, known_of(mode))
    assert asked(mode, x, "closed over") is None
    assert Traces().get("closed over", mode) is None


def test_what_was_decided_by_a_size_is_not_shared() -> None:
    mode, x = symbolic(3, 5)
    kept(mode, x, lambda x: [x * 2] if x.shape[0] > 2 else [x])
    assert len(mode.shape_env.guards) == 1
    assert asked(*symbolic(3, 5)) is None


def test_sizes_conditions_and_ranges_are_part_of_what_is_known() -> None:
    kept(*symbolic(3, 5), lambda x: [x * 2])
    assert asked(*symbolic(3, 5)) is not None
    assert asked(*symbolic(4, 5)) is None
    mode, x = symbolic(3, 5)
    assert x.shape[0] < x.shape[1]
    assert asked(mode, x) is None
    with_range, x = symbolic(3, 5)
    torch._check(x.shape[0] <= 100)
    assert asked(with_range, x) is None


def test_kernels_that_may_be_taken_are_part_of_what_is_known() -> None:
    kept(*symbolic(3, 5), lambda x: [x * 2])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert asked(*symbolic(3, 5)) is None
    finally:
        torch.set_default_dtype(before)


def test_sizes_that_depend_on_values_are_not_shared() -> None:
    mode, x = symbolic(3, 5)
    with mode:
        x.nonzero()
    assert known_of(mode) is None


def test_a_tensor_that_a_function_closes_over_is_not_shared() -> None:
    mode, x = symbolic(3, 5)
    weights = torch.arange(3.0)
    kept(mode, x, lambda x: [x.sum() + weights])
    assert asked(*symbolic(3, 5)) is None


def test_a_number_of_them_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "KEPT", 2)
    mode, x = symbolic(3, 5)
    for key in ("a", "b"):
        kept(mode, x, lambda x: [x * 2], key)
    assert asked(mode, x, "a") is not None
    kept(mode, x, lambda x: [x * 2], "c")
    assert [asked(mode, x, key) is not None for key in "abc"] == [True, False, True]


def test_what_a_key_names_by_identity_lives_as_long() -> None:
    class Named:
        pass

    named = Named()
    seen = weakref.ref(named)
    kept(*symbolic(3, 5), lambda x: [x * 2], ("rule", id(named)), named)
    del named
    gc.collect()
    assert seen() is not None
    traces.forget()
    gc.collect()
    assert seen() is None


def test_rules_of_the_user_are_traced_for_each_program() -> None:
    """Their code may be changed while they stay the same objects."""
    traced: list[Call] = []

    def surrogate(call: Call) -> Tensor:
        traced.append(call)
        return call.args[0] * freeze(torch.sigmoid(call.args[0]))

    rule = Rule("own", "elementwise", "x sigmoid(x)", ("bach2015",), covers("aten", "silu"), surrogate)
    model = nn.Sequential(nn.Embedding(V, F), nn.Flatten(), nn.SiLU(), nn.Linear(T * F, 2))
    counts = []
    with registered(rule):
        for _ in range(2):
            explained(ready(copy.deepcopy(model)))
            counts.append(len(traced))
    assert counts[1] > counts[0] > 0
    assert not rule.is_shipped and all(r.is_shipped for r in registry.rules.values())


class Class(lrp_fx.targets.Class):
    """A user's target that is called as one of this package's."""

    @property
    def score(self) -> Callable[..., Tensor]:
        own = super().score
        return lambda *args, **kwargs: 2 * own(*args, **kwargs)


@pytest.mark.parametrize("first", [lrp_fx.targets.Class, Class])
def test_a_targets_kind_is_its_class_and_not_its_name(first: type[lrp_fx.targets.Class]) -> None:
    """In one model, in another, and inside it."""
    second = Class if first is lrp_fx.targets.Class else lrp_fx.targets.Class
    explainer = lrp_fx.convert(ready(Cut()))
    other = lrp_fx.convert(ready(Cut()))
    for place in (None, "inner"):

        def given(kind: type[lrp_fx.targets.Class], place: str | None = place) -> Any:
            return kind(1) if place is None else lrp_fx.targets.At(place, kind(1))

        scores = [explainer(ids(), target=given(first)).score, explainer(ids(), target=given(second)).score]
        scores = scores if first is lrp_fx.targets.Class else scores[::-1]
        assert torch.allclose(scores[1], 2 * scores[0], rtol=1e-12)
        assert torch.equal(other(ids(), target=given(Class)).score, scores[1])


def test_a_size_that_is_a_node_is_none_that_is_a_number() -> None:
    class Sized(nn.Module):
        def __init__(self, literal: bool) -> None:
            super().__init__()
            self.words, self.literal = nn.Embedding(V, F), literal

        def forward(self, input_ids: Tensor, others: Tensor) -> Tensor:
            x = self.words(input_ids)
            size = F if self.literal else self.words(others).mT.shape[1]
            return nn.functional.layer_norm(x, (size,)).mean(1) + self.words(others).mean(1)

    for literal in (False, True, False):
        explainer = lrp_fx.convert(ready(Sized(literal)), dynamic=True)
        explainer(input_ids=ids(), others=ids(length=3), target=1)
        explainer(input_ids=ids(length=4), others=ids(length=3), target=1)
        assert explainer.statistics.captures == 1


def test_the_methods_of_modules_stay_as_they_are_while_operations_are_traced() -> None:
    """Each change of them takes as long as there are graphs in the process."""
    before, mode = (nn.Module.__call__, nn.Module.__getattr__), FakeTensorMode()
    seen = []

    def function(x: Tensor) -> list[Tensor]:
        seen.append((nn.Module.__call__, nn.Module.__getattr__) == before)
        with ThreadPoolExecutor(1) as elsewhere:  # where somebody else traces a model
            seen.append(elsewhere.submit(operations).result() == ["placeholder", "call_module", "output"])
        return [nn.Identity()(x) * 2]

    trace(function, [mode.from_tensor(torch.ones(2))], mode)
    with pytest.raises(ValueError, match="three"):
        trace(lambda x: raised("three"), [mode.from_tensor(torch.ones(2))], mode)
    assert seen == [True, True]
    assert operations() == ["placeholder", "call_module", "output"]


def operations() -> list[str]:
    """Of a traced model, for which torch.fx does replace the methods."""
    return [n.op for n in fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2))).graph.nodes]


def raised(what: str) -> list[Tensor]:
    raise ValueError(what)
