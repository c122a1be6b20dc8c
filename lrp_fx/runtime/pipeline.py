"""The pipeline: every stage and every optimisation, in order, from a model and a call to a relevance graph that runs.

The compiler runs it in three parts, because each part is kept for longer than the next: what was captured serves every
ruleset and mask, what was analysed every target, and a relevance graph every call for one kind of target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx

import lrp_fx.rules as _rules  # noqa: F401  (registers every rule family)
from lrp_fx.analysis.provenance import Facts, find_provenance
from lrp_fx.canonicalize.detached import has_detached, keep_detached
from lrp_fx.canonicalize.drop_masks import drop_full_masks
from lrp_fx.canonicalize.passes import PASSES as CANONICALIZE
from lrp_fx.canonicalize.written_out import has_fused_attention, write_out_attention
from lrp_fx.capture.backwards import hooked, watching
from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.compare import Ran
from lrp_fx.capture.ladder import capture
from lrp_fx.capture.outputs import called
from lrp_fx.capture.renormed import refuse_written_tables
from lrp_fx.dictionaries.dictionary import Dictionary
from lrp_fx.dictionaries.put import put_dictionaries, require_dependence
from lrp_fx.errors import LrpError, TargetError
from lrp_fx.guards.guard import Constants
from lrp_fx.guards.masks import MaskGuard
from lrp_fx.ir.graph import is_tensor
from lrp_fx.ir.listing import source
from lrp_fx.ir.passes import Keeps, Pass, Step, run
from lrp_fx.ir.program import CONCRETE, METHODS, FlatModule, Program
from lrp_fx.ir.traces import Traces
from lrp_fx.optimize.derivatives import write_out_derivatives
from lrp_fx.optimize.pipeline import OPTIMIZE
from lrp_fx.optimize.program import RelevanceProgram
from lrp_fx.rewrite.application import Rewritten
from lrp_fx.rewrite.assign import rewrite
from lrp_fx.rewrite.refuse import check_types
from lrp_fx.rule import Ruleset, registry
from lrp_fx.runtime.run import Running
from lrp_fx.runtime.strategies import Dynamic
from lrp_fx.structure.structure import Structure, find_structure
from lrp_fx.targets import Target
from lrp_fx.transpose.inside import NOTHING, Inside
from lrp_fx.transpose.reverse import reverse
from lrp_fx.transpose.signature import GraphSignature, RelevanceGraph


@dataclass(frozen=True)
class Options:
    """What `lrp_fx.convert` was asked for.

    ``every``: is the model looked at in every call? ``audits``: do graphs balance every site? ``whole``: do they return
    the model's output? ``checkpoint``: do they compute the insides of blocks twice? ``without``: passes that are left
    out. ``dictionaries``: by the places that they are put at. ``parameters``: do graphs return the relevance of the
    model's parameters, too?
    """

    ruleset: Ruleset
    audits: bool = False
    strict: bool = False
    dynamic: Dynamic = "auto"
    compile: bool = False
    output: str | None = None
    whole: bool = True
    checkpoint: bool = False
    without: tuple[str, ...] = ()
    every: bool = False
    dictionaries: Mapping[str, Dictionary] = field(default_factory=dict)
    written_out: bool = False
    differentiable: bool = False
    parameters: bool = False


@dataclass(frozen=True, eq=False)
class State:
    """A compilation under way; every pass fills in, or replaces, a part.

    ``methods``: ways to capture that may be tried. ``constants``: mask inputs that hold one number everywhere, None
    where nothing is to be assumed of masks; ``assumed``: what was. ``inside``: what is asked of places inside the
    model. ``traces``: transposed rules of earlier graphs,
    added to.
    """

    options: Options
    call: ModelCall | None = None
    methods: Sequence[str] = METHODS
    constants: Constants | None = None
    target: Target | None = None
    inside: Inside = NOTHING
    traces: Traces = field(default_factory=Traces)
    program: Program | None = None
    assumed: MaskGuard | None = None
    facts: Facts | None = None
    rewritten: Rewritten | None = None
    structure: Structure | None = None
    relevance: RelevanceProgram | None = None
    signature: GraphSignature | None = None
    module: fx.GraphModule | None = None
    runner: Callable[..., Any] | None = None

    def print_readable(self, blocks: str = "all") -> str:
        """What there is at this point, as text: the relevance graph, else the program with its rules, else the
        program; ``blocks="once"`` prints the first of each run of equal blocks, and how often it comes.

        Raises `InputError` for other ``blocks``.
        """
        if self.relevance is not None:
            return source(self.relevance.module(), blocks)
        shown: Rewritten | Program = self.rewritten if self.rewritten is not None else _found(self.program)
        return shown.print_readable(blocks)

    def finished(self) -> RelevanceGraph:
        """The relevance graph at the end of the pipeline."""
        module = self.module if self.module is not None else _found(self.relevance).module()
        return RelevanceGraph(module, _found(self.signature))


def _found(value: Any) -> Any:
    if value is None:
        raise LrpError("a pass was run before those that make what it needs")
    return value


def _size(state: State) -> int:
    graph = state.relevance.graph if state.relevance is not None else state.program.graph if state.program else None
    return 0 if graph is None else len(graph.nodes)


# ------------------------------------------------------------------------------------------------ stages
def _capture(state: State) -> State:
    call: ModelCall = _found(state.call)
    known = Ran(call.bound, call.result)
    with watching() as called:
        program = capture(call.model, call.bound, call.roles, methods=state.methods, known=known)
    refuse_written_tables(program.graph)
    return replace(state, program=replace(program, backwards=(*hooked(call.model), *called)))


def _keep_detached(state: State) -> State:
    return replace(state, program=keep_detached(_found(state.program)))


def _choose_output(state: State) -> State:
    program, name = _found(state.program), state.options.output
    matches = [i for i, n in enumerate(program.outputs.names) if called(n, _found(name))]
    if not matches:
        raise TargetError(f"the model has no output {name!r}; it returns {', '.join(program.outputs.names)}")
    return replace(state, program=replace(program, outputs=replace(program.outputs, explained=matches[0])))


def _drop_masks(state: State) -> State:
    program, assumed = drop_full_masks(_found(state.program), state.constants or ())
    return replace(state, program=program, assumed=assumed)


def _write_out_attention(state: State) -> State:
    return replace(state, program=write_out_attention(_found(state.program)))


def _find_provenance(state: State) -> State:
    return replace(state, facts=find_provenance(_found(state.program)))


def _put_dictionaries(state: State) -> State:
    options = state.options
    program = put_dictionaries(
        _found(state.program), _found(state.facts), options.dictionaries, options.ruleset, registry
    )
    facts = find_provenance(program)
    require_dependence(program, facts)
    return replace(state, program=program, facts=facts)


def _assign_rules(state: State) -> State:
    options = state.options
    program, facts = _found(state.program), _found(state.facts)
    rewritten = rewrite(program, facts, options.ruleset, registry, strict=options.strict)
    check_types(rewritten)
    return replace(state, rewritten=rewritten)


def _find_structure(state: State) -> State:
    return replace(state, structure=find_structure(_found(state.rewritten)))


def _reverse(state: State) -> State:
    options = state.options
    relevance, signature = reverse(
        _found(state.rewritten),
        _found(state.structure),
        _found(state.target),
        audit=options.audits and not state.inside.stops,
        whole=options.whole,
        recompute=options.checkpoint,
        parameters=options.parameters,
        traces=state.traces,
        inside=state.inside,
    )
    return replace(state, relevance=relevance, signature=signature)


def _write_out_derivatives(state: State) -> State:
    write_out_derivatives(_found(state.relevance))
    return state


def _reuse_buffers(state: State) -> State:
    relevance = _found(state.relevance)
    module = FlatModule(relevance.root, relevance.graph, "RelevanceGraph")  # its code is written if it is asked for
    return replace(state, module=module, runner=Running(module))


# ------------------------------------------------------------------------------------------------ specs
def check_rules_assigned(state: State) -> None:
    """Raise unless every node that relevance reaches is a leaf or has one rule, and hands it to such nodes only."""
    rewritten = _found(state.rewritten)
    for node, application in rewritten.applications.items():
        lost = [o for o in application.operands if o not in rewritten.applications and o not in rewritten.leaves]
        if lost and not application.rule.frozen:
            raise LrpError(f"%{node.name} hands relevance to %{lost[0].name}, which has no rule and is no leaf")


def check_facts(state: State) -> None:
    """Raise unless every value has its sources."""
    facts = _found(state.facts)
    unknown = [
        n for n in _found(state.program).graph.nodes if n.op != "output" and is_tensor(n) and n not in facts.sources
    ]
    if unknown:
        raise LrpError(f"%{unknown[0].name} has no sources")


def check_outputs(state: State) -> None:
    """Raise unless the graph returns what its signature says."""
    signature: GraphSignature = _found(state.signature)
    (output,) = _found(state.relevance).graph.find_nodes(op="output")
    if len(output.args[0]) != signature.count:
        raise LrpError(
            f"the relevance graph returns {len(output.args[0])} values, its signature says {signature.count}"
        )


# ------------------------------------------------------------------------------------------------ the list
def _stage(
    name: str, purpose: str, apply: Callable[[State], State], keeps: Keeps = Keeps.BITS, **others: Any
) -> Pass[State]:
    return Pass(name, purpose, apply, keeps, size=_size, **others)


def _on_program(step: Pass[Program]) -> Pass[State]:
    def put(state: State, program: Program) -> State:
        return replace(state, program=program)

    return step.on(lambda state: _found(state.program), put)


def _on_relevance(step: Pass[RelevanceProgram]) -> Pass[State]:
    def put(state: State, relevance: RelevanceProgram) -> State:
        return replace(state, relevance=relevance)

    lifted: Pass[State] = step.on(lambda state: _found(state.relevance), put)
    return replace(lifted, ensures=(*lifted.ensures, check_outputs))


CAPTURED: tuple[Pass[State], ...] = (
    _stage(
        "capture",
        "the model becomes one flat graph, by the most general method that computes what the model computes",
        _capture,
        Keeps.ROUNDING,
    ),
    _stage(
        "keep_detached",
        "what the model's code detached stays apart, for rulesets that follow gradients",
        _keep_detached,
        when=lambda state: state.options.ruleset.as_autograd and has_detached(_found(state.program)),
    ),
    *map(_on_program, CANONICALIZE),
    _stage(
        "choose_output",
        "the output that convert(output=...) names is the one explained",
        _choose_output,
        when=lambda state: state.options.output is not None,
    ),
)
ANALYSED: tuple[Pass[State], ...] = (
    _stage(
        "drop_masks",
        "masks that say nothing, or only that attention is causal, are not written out",
        _drop_masks,
        Keeps.ROUNDING,
        optional=True,
        when=lambda state: state.constants is not None and _found(state.program).method != CONCRETE,
    ),
    _stage(
        "write_out_attention",
        "fused attention becomes matrix products and a softmax, where that was asked for",
        _write_out_attention,
        Keeps.ROUNDING,
        when=lambda state: state.options.written_out and has_fused_attention(_found(state.program)),
    ),
    _stage(
        "find_provenance",
        "for each value: what it depends on, which axes it has",
        _find_provenance,
        ensures=(check_facts,),
    ),
    _stage(
        "put_dictionaries",
        "encoders and decoders of convert(dictionaries=...) become part of the graph, at their places",
        _put_dictionaries,
        ensures=(check_facts,),
        when=lambda state: bool(state.options.dictionaries),
    ),
    _stage(
        "assign_rules", "each node on a relevance path gets one rule", _assign_rules, ensures=(check_rules_assigned,)
    ),
    _stage("find_structure", "residual streams, blocks, injections of position are found", _find_structure),
)
BUILT: tuple[Pass[State], ...] = (
    _stage(
        "reverse",
        "the rules are transposed: one graph computes output, relevances and books",
        _reverse,
        ensures=(check_outputs,),
    ),
    *map(_on_relevance, OPTIMIZE),
    _stage(
        "write_out_derivatives",
        "with differentiable=True, what autograd has no derivative for is written as what it has one for",
        _write_out_derivatives,
        Keeps.ROUNDING,
        ensures=(check_outputs,),
        when=lambda state: state.options.differentiable,
    ),
    _stage(
        "reuse_buffers",
        "in the code that runs, results take the place of operands that nobody reads again",
        _reuse_buffers,
        optional=True,
        when=lambda state: not state.options.compile and not state.options.differentiable,
    ),
)
PIPELINE = (*CAPTURED, *ANALYSED, *BUILT)
PASSES = {step.name: step for step in PIPELINE}


def compile_until(state: State, until: str | None = None) -> tuple[State, tuple[Step, ...]]:
    """The whole pipeline on one call, up to and with a pass; see `lrp_fx.ir.passes.run`."""
    return run(state, PIPELINE, until=until, without=state.options.without)
