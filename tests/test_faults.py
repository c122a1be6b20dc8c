"""Faults stay faults: an exception of our own code is never read as a property of the model."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.errors import FaultWarning, PassError, TransposeError
from lrp_fx.ir.passes import Pass, checked, run
from lrp_fx.rule import Call, Rule, Ruleset, freeze, registered
from lrp_fx.runtime.explainer import Explainer
from testing.handmade import F, V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(V, F), nn.Linear(F, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(input_ids)).mean(1))


@pytest.fixture
def slip(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts the slip into a function of ours, in a file of ours."""

    def put(place: str) -> None:
        module, name = place.rsplit(".", 1)
        import importlib

        owner = importlib.import_module(module)
        source = f"def {name}(*given, **named):\n    node = given[-1] if given else None\n    return {{}}['slip']\n"
        made: dict[str, Any] = {}
        exec(compile(source, owner.__file__ or "", "exec"), made)
        monkeypatch.setattr(owner, name, made[name])

    return put


def explained(**options: Any) -> lrp_fx.Relevance:
    return lrp_fx.convert(ready(Small()), **options)(input_ids=ids(), target=1)


def test_a_fault_while_capturing_is_raised_in_tests(slip: Any) -> None:
    slip("lrp_fx.capture.export._outputs")
    with pytest.raises(PassError, match=r"the pass capture \(dynamic\) failed with KeyError: 'slip'"):
        explained()


def test_a_fault_while_capturing_is_reported_to_users_who_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrp_fx.capture import export

    own = export._outputs

    def fails_once(*given: Any) -> Any:
        monkeypatch.setattr(export, "_outputs", own)
        return {}["slip"]

    fails_once.__code__ = fails_once.__code__.replace(co_filename=export.__file__)
    monkeypatch.setattr(export, "_outputs", fails_once)
    with checked(verify=False, faults=False), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        relevance = explained()
    assert float(relevance.ledger.error.max()) < 1e-9
    (warning,) = [w for w in seen if w.category is FaultWarning]
    assert "this is a fault of lrp_fx, not of the model" in str(warning.message)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("lrp_fx.analysis.provenance.is_float", "find_provenance"),
        ("lrp_fx.structure.streams._chains", "find_structure"),
        ("lrp_fx.optimize.pipeline.schedule_late", "schedule_late"),
    ],
)
def test_a_fault_of_a_pass_names_the_pass(slip: Any, place: str, name: str) -> None:
    slip(place)
    with pytest.raises(PassError, match=f"the pass {name} failed with KeyError: 'slip'") as caught:
        explained()
    assert "please report it" in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


def test_the_node_is_named() -> None:
    explainer = lrp_fx.convert(ready(Small()), example_inputs={"input_ids": ids()})

    def fails(program: Any) -> Any:
        for node in program.graph.nodes:
            if node.op == "call_function":
                return node.meta["what nobody records"]
        return program

    fails.__code__ = fails.__code__.replace(co_filename=lrp_fx.runtime.pipeline.__file__)
    with pytest.raises(
        PassError, match=r"node: +%embedding = aten.embedding.default\(%embed_weight, %input_ids\)"
    ) as e:
        run(explainer.rewritten.program, (Pass("fails", "fails on purpose", fails),))
    assert "test_faults.py" in str(e.value) and "self.embed(input_ids)" in str(e.value)


def test_an_optimisation_that_fails_can_be_left_out(slip: Any) -> None:
    slip("lrp_fx.optimize.pipeline.pick_classes")
    with pytest.raises(PassError, match=r"can be left out with convert\(model, without=\('pick_classes',\)\)"):
        explained()
    assert float(explained(without=["pick_classes"]).ledger.error.max()) < 1e-9


def test_the_models_own_errors_refuse_a_method_only() -> None:
    """A forward that decides by values is no fault: the record of one call explains it."""

    class Decides(Small):
        def forward(self, input_ids: Tensor) -> Tensor:
            x = super().forward(input_ids)
            return x * 2 if float(x.sum()) > 1e9 else x

    explainer = lrp_fx.convert(ready(Decides()))
    explainer(input_ids=ids(), target=1)
    program = explainer.rewritten.program
    assert program.method == "concrete" and len(program.refusals) == 2


def needs_numbers(call: Call) -> Tensor:
    """A surrogate that wants to know a size as a number."""
    (x,) = call.args[:1]
    weights = torch.ones([int(str(n)) for n in x.shape], dtype=x.dtype)
    return call.run() if weights is None else freeze(torch.tanh(x) / x) * x


def test_a_rule_that_needs_numbers_is_traced_for_the_sizes_given() -> None:
    """It is no fault of ours, nor is it silent."""
    rule = Rule("test.numbers", "elementwise", "y", ("achtibat2024",), ("aten.tanh",), needs_numbers)
    mine = Ruleset("mine", frozenset({"content", "position"}), kinds={"elementwise": "test.numbers"})
    with registered(rule):
        explainer: Explainer = lrp_fx.convert(ready(Small()), rules=mine)
        with pytest.warns(UserWarning, match="is captured again for every size"):
            relevance = explainer(input_ids=ids(), target=1)
    assert float(relevance.ledger.error.max()) < 1e-9
    assert explainer.rewritten.program.method == "static"


def always_fails(call: Call) -> Tensor:
    raise ValueError("not today")


def test_a_rule_that_fails_is_named() -> None:
    rule = Rule("test.fails", "elementwise", "y", ("achtibat2024",), ("aten.tanh",), always_fails)
    mine = Ruleset("mine", frozenset({"content", "position"}), kinds={"elementwise": "test.fails"})
    with registered(rule), pytest.raises(TransposeError, match=r"the rule test.fails at .*tanh.*not today"):
        lrp_fx.convert(ready(Small()), rules=mine)(input_ids=ids(), target=1)


def test_a_target_that_fails_is_a_target_error() -> None:
    def goal(output: Tensor) -> Tensor:
        raise KeyError("no such probe")

    with pytest.raises(lrp_fx.TargetError, match="the target Custom.goal. fails on .*: KeyError"):
        lrp_fx.convert(ready(Small()))(input_ids=ids(), target=goal)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_failed_allocation_is_no_refusal(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised as it is, and the next call goes on as if nothing had been."""
    explain = lrp_fx.convert(ready(Small()), dynamic=True)
    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "export", lambda *args, **kwargs: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)) as raised:
            explain(input_ids=ids())
    assert raised.value is error
    explain(input_ids=ids())
    assert explain.rewritten.program.method == "dynamic" and explain.statistics.runs == 1
