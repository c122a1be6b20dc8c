"""One law over passes and architectures: every pass keeps of the numbers what it declares, and its specs hold.

The pipeline is run step by step; after every pass the program, or the relevance graph, is run on the same inputs and
compared with what it gave before. Specs are checked in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.capture.call import as_call, bind
from lrp_fx.ir.graph import is_tensor, value_of
from lrp_fx.ir.passes import Keeps, Pass, checked, run
from lrp_fx.rule import registry
from lrp_fx.runtime.pipeline import PIPELINE, Options, State
from lrp_fx.targets import as_target
from testing.architectures import BY_NAME
from testing.converted import converted

pytestmark = pytest.mark.usefixtures("quiet")
#: One of each kind of attention, position and normalisation; the others run with the slow tests.
QUICK = frozenset("bert gpt2 llama bloom deberta_v2 t5 mixtral swin".split())
OPTIONAL = [p.name for p in PIPELINE if p.optional]


def start(model: nn.Module, inputs: dict[str, Any], goal: Any = None, **options: Any) -> State:
    call = as_call(model, bind(model, (), inputs), {})
    given = Options(registry.rulesets[options.pop("rules", "pa-lrp")], **options)
    return State(given, call, constants=call.constants, target=as_target(goal))


@dataclass
class Watch:
    """Runs what there is after every pass; ``broken``: passes that did not keep what they declare."""

    inputs: dict[str, Tensor]
    before: list[Tensor] | None = None
    arguments: list[Tensor] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    narrow: bool = False

    def __call__(self, step: Pass[State], state: State) -> None:
        self.seen.append(step.name)
        if step.name == "reverse":
            self.before = None
            shape = state.program.module(*self._given(state))[state.program.outputs.explained].shape  # type: ignore[union-attr]
            goal = state.target
            assert goal is not None
            found = goal.arguments(tuple(shape), torch.device("cpu")) if goal.example_arguments() else {}
            self.arguments = list(found.values())
        after = self._run(state)
        if self.before is not None and not self._kept(step.keeps, self.before, after, state):
            self.broken.append(step.name)
        self.before, self.narrow = after, narrow(state)

    def _given(self, state: State) -> list[Tensor]:
        assert state.program is not None
        return [self.inputs[i.name] for i in state.program.inputs]

    def _run(self, state: State) -> list[Tensor]:
        assert state.program is not None
        given = self._given(state)
        with torch.no_grad():
            if state.relevance is None:
                flat = state.program.module(*given)
            elif state.runner is not None:
                flat = state.runner(*given, *self.arguments)
            else:
                flat = state.relevance.module()(*given, *self.arguments)
        return [t for t in flat if isinstance(t, Tensor)]

    def _kept(self, keeps: Keeps, before: list[Tensor], after: list[Tensor], state: State) -> bool:
        own = len(before) if keeps is Keeps.BITS else 0
        if keeps is Keeps.OUTPUT_BITS and state.relevance is not None:
            own = state.relevance.own_outputs
        bits = all(torch.equal(a, b) for a, b in zip(before[:own], after[:own], strict=True))
        scale = max(float(t.abs().max()) for t in before if t.is_floating_point() and t.numel())
        tolerance = 1e-5 if self.narrow else 1e-12  # islands of float32 round more before they are promoted
        pairs = zip(before, after, strict=True)
        close = all(torch.allclose(a, b, rtol=1e3 * tolerance, atol=tolerance * scale) for a, b in pairs)
        return bits and close


def narrow(state: State) -> bool:
    """Does a float64 model compute anything in float32?"""
    graph = state.relevance.graph if state.relevance is not None else state.program.graph  # type: ignore[union-attr]
    return any(is_tensor(n) and value_of(n).dtype in (torch.float32, torch.complex64) for n in graph.nodes)


def watched(name: str, attention: str, **options: Any) -> Watch:
    architecture = BY_NAME[name]
    model = architecture.build(attention, torch.float64)
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in architecture.inputs().items()}
    goal = (lambda scores: scores.diagonal()) if name == "clip" else None
    watch = Watch(inputs)
    with checked():
        run(start(model, inputs, goal, **options), PIPELINE, observe=watch)
    return watch


def cases() -> list[Any]:
    found = [
        pytest.param(n, "sdpa" if a.fused else "eager", {}, marks=[] if n in QUICK else [pytest.mark.slow], id=n)
        for n, a in BY_NAME.items()
    ]
    more: list[tuple[str, str, dict[str, Any]]] = [
        ("llama", "sdpa", {"whole": False}),
        ("llama", "sdpa", {"checkpoint": True}),
        ("llama", "sdpa", {"written_out": True, "differentiable": True}),
        ("t5", "sdpa", {"written_out": True, "differentiable": True, "rules": "gradient"}),
        ("gpt2", "eager", {"audits": True, "rules": "attnlrp"}),
        ("t5", "eager", {"whole": False, "audits": True}),
        ("bert", "sdpa", {"whole": False, "rules": "pa-lrp-gamma"}),
        ("vit", "eager", {"checkpoint": True, "audits": True}),
    ]
    slow = {"t5", "vit"}
    return found + [
        pytest.param(n, a, o, marks=[pytest.mark.slow] if n in slow else [], id=f"{n}-{a}-{'-'.join(o)}")
        for n, a, o in more
    ]


@pytest.mark.parametrize(("name", "attention", "options"), cases())
def test_every_pass_keeps_what_it_declares(name: str, attention: str, options: dict[str, Any]) -> None:
    watch = watched(name, attention, **options)
    assert not watch.broken
    expected = {"capture", "assign_rules", "reverse", "push_rows", "schedule_late", "reuse_buffers"}
    if options.get("differentiable"):
        expected = (expected - {"reuse_buffers"}) | {"write_out_attention", "write_out_derivatives"}
    expected |= {"pull_rows"} if not options.get("whole", True) else set()
    expected |= {"rematerialize_blocks"} if options.get("checkpoint") else set()
    assert expected <= set(watch.seen)


@pytest.mark.parametrize("left_out", OPTIONAL)
def test_any_optimisation_can_be_left_out(left_out: str) -> None:
    """Alone: the others must not need it."""
    found = converted("llama", "sdpa", torch.float64, conserve="site")
    explainer = lrp_fx.convert(found.model, conserve="site", without=(left_out,))
    with checked():
        ours, theirs = found.relevance, explainer(**found.inputs)
    assert left_out not in [step.name for step in explainer.history]
    assert torch.equal(ours.output.logits, theirs.output.logits) or left_out == "drop_masks"
    assert torch.allclose(ours.tokens, theirs.tokens, rtol=1e-9, atol=1e-12)  # type: ignore[arg-type]
    assert max(s.error for s in theirs.ledger.sites) <= 1e-10


def test_all_of_them_left_out() -> None:
    found = converted("bert", "sdpa", torch.float64)
    explainer = lrp_fx.convert(found.model, without=OPTIONAL)
    ours, theirs = found.relevance, explainer(**found.inputs)
    assert not {step.name for step in explainer.history} & set(OPTIONAL)
    assert torch.allclose(ours.tokens, theirs.tokens, rtol=1e-9, atol=1e-12)  # type: ignore[arg-type]


def test_a_pass_that_changes_numbers_is_found() -> None:
    """The law can fail: a pass that scales a result, and one whose spec is broken."""
    architecture = BY_NAME["llama"]
    model, inputs = architecture.build("sdpa"), architecture.inputs()

    def scales(state: State) -> State:
        assert state.relevance is not None
        node = next(n for n in state.relevance.graph.nodes if n.target is torch.ops.aten.neg.default)
        node.target = torch.ops.aten.abs.default
        return state

    def writes(state: State) -> State:
        assert state.relevance is not None
        node = next(n for n in state.relevance.graph.nodes if n.target is torch.ops.aten.neg.default)
        node.target = torch.ops.aten.neg_.default
        return state

    last = next(p for p in PIPELINE if p.name == "schedule_late")
    for name, apply in (("scales", scales), ("writes", writes)):
        wrong = Pass(name, "wrong on purpose", apply, requires=last.requires, ensures=last.ensures, size=last.size)
        index = PIPELINE.index(last)
        watch = Watch(inputs)
        with checked():
            if name == "writes":
                with pytest.raises(lrp_fx.LrpError, match="writes to its argument"):
                    run(start(model, inputs), (*PIPELINE[:index], wrong))
            else:
                run(start(model, inputs), (*PIPELINE[:index], wrong), observe=watch)
                assert watch.broken == ["scales"]


def test_names_and_purposes() -> None:
    names = [p.name for p in PIPELINE]
    assert len(names) == len(set(names))
    assert all(p.purpose and len(p.purpose) <= 110 and "\n" not in p.purpose for p in PIPELINE)


@pytest.mark.parametrize(
    ("without", "message"),
    [
        (("push_row",), "there is no pass 'push_row'; those that can be left out are drop_masks, simplify"),
        (("reverse",), "the pass 'reverse' cannot be left out"),
        ("push_rows", "takes a list of names"),
    ],
)
def test_what_cannot_be_left_out_is_refused(without: Any, message: str) -> None:
    with pytest.raises(lrp_fx.InputError, match=message):
        lrp_fx.convert(nn.Linear(2, 2).eval(), without=without)


def test_history_tells_what_each_pass_did() -> None:
    architecture = BY_NAME["llama"]
    explainer = lrp_fx.convert(architecture.build("sdpa"))
    with pytest.raises(lrp_fx.InputError, match="nothing captured yet"):
        _ = explainer.history
    explainer(**architecture.inputs())
    steps = {s.name: s for s in explainer.history}
    names = [p.name for p in PIPELINE]
    assert [names.index(s) for s in steps] == sorted(names.index(s) for s in steps)
    assert steps["capture"].before == 0 and steps["capture"].after > 100
    assert steps["simplify"].after < steps["simplify"].before == steps["reverse"].after
    assert steps["schedule_late"].after == len(explainer.relevance_graph.graph.nodes)
    assert all(s.seconds >= 0 for s in steps.values())
    assert "push_rows" in str(steps["push_rows"]) and "nodes" in str(steps["push_rows"])
