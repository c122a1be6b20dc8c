"""Run: convert once, explain many times."""

from __future__ import annotations

import inspect
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

import lrp_fx.rules as _rules  # noqa: F401  (registers every rule family)
from lrp_fx.bill import Bill, RelevanceGraph
from lrp_fx.calls import Call, as_call, bind, output_shape, run_together
from lrp_fx.canonicalize import canonicalize
from lrp_fx.capture import CONCRETE, DYNAMIC, METHODS, STATIC, capture, first_line
from lrp_fx.checks import check_inputs, check_mode, check_types, check_weights, run_model
from lrp_fx.errors import InputError, LrpError, TargetError
from lrp_fx.program import ROLES, Program
from lrp_fx.provenance import find_provenance
from lrp_fx.recognize.anatomy import Anatomy, find_anatomy
from lrp_fx.recognize.sites import Site, find_sites
from lrp_fx.relevance import Relevance
from lrp_fx.rewrite import Rewritten, rewrite
from lrp_fx.roles import role_of
from lrp_fx.rule import Ruleset, registry
from lrp_fx.saved import Description, write
from lrp_fx.statement import read_statement, settle
from lrp_fx.targets import Custom, Target, as_target
from lrp_fx.transpose import transpose

_CACHED_PROGRAMS = 16
_CACHED_GRAPHS = 32
_CACHED_METHODS = 256
_COMPILING = threading.RLock()
CONSERVE = ("total", "site", "off")


@dataclass
class Statistics:
    """How often each expensive stage ran (a text of another length must not capture again)."""

    captures: int = 0
    transposes: int = 0
    runs: int = 0


@dataclass(frozen=True)
class _Entry:
    """A compiled program; ``inputs``: the values it is good for, where it is the record of one call."""

    program: Program
    rewritten: Rewritten
    anatomy: Anatomy
    inputs: dict[str, Tensor] | None = None

    def fits(self, bound: dict[str, Any]) -> bool:
        """Is the program right for these inputs (of the types and ranks it was captured with)?"""
        if self.inputs is not None:
            return all(torch.equal(value, bound[name]) for name, value in self.inputs.items())
        shapes = ((info, bound[info.name].shape) for info in self.program.inputs)
        return all(d or s == t for info, shape in shapes for d, s, t in zip(info.dynamic, shape, info.shape, strict=True))


def convert(
    model: nn.Module,
    example_inputs: dict[str, Any] | None = None,
    *,
    rules: str | Ruleset = "pa-lrp",
    conserve: str = "total",
    strict: bool = False,
    dynamic: bool = True,
    compile: bool = False,
    roles: dict[str, str] | None = None,
    output: str | None = None,
) -> Explainer:
    """Compile a model into an explainer.

    model: any `torch.nn.Module` in eval mode. It is not modified.
    example_inputs: keyword arguments of its forward; given, capture happens now, otherwise on first use.
    rules: name of a preset (`lrp_fx.rulesets()`) or a `lrp_fx.Ruleset`.
    conserve: ``"total"`` checks that each example's ledger closes, ``"site"`` balances every site of the graph too and
        names the worst, ``"off"`` checks nothing.
    strict: refuse operations that are only approximated (`lrp_fx.UnsupportedOperatorError`).
    dynamic: symbolic batch and sequence sizes, so that other sizes do not capture again.
    compile: run the relevance graph through `torch.compile`.
    roles: forward argument -> ``"content"``, ``"position"``, ``"segment"`` or ``"mask"``, where its name misleads.
    output: name of the output to explain, where the model returns several (default: ``logits``, else the first float).
    """
    return Explainer(model, example_inputs, rules=rules, conserve=conserve, strict=strict, dynamic=dynamic, compile=compile, roles=roles, output=output)


class Explainer:
    """Explains a model: call it like the model, with a ``target``."""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: dict[str, Any] | None,
        *,
        rules: str | Ruleset,
        conserve: str,
        strict: bool,
        dynamic: bool,
        compile: bool,
        roles: dict[str, str] | None,
        output: str | None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"convert() takes a torch.nn.Module, got {type(model).__name__}")
        if conserve not in CONSERVE:
            raise InputError(f"conserve={conserve!r}; there are {', '.join(CONSERVE)}")
        self.model = model
        self.ruleset = _ruleset(rules)
        self.conserve, self.strict, self.dynamic, self.compile, self.output = conserve, strict, dynamic, compile, output
        self.audits = conserve == "site"  # what graphs hold; ``conserve`` says what of it is demanded, and may be relaxed to read faults
        self.roles = dict(roles or {})
        takes = inspect.signature(model.forward).parameters
        strange = [n for n in self.roles if n.split(".")[0] not in takes and not any(p.kind is p.VAR_KEYWORD for p in takes.values())]
        if strange:
            raise InputError(f"roles for {', '.join(strange)}, but forward takes {', '.join(takes)}")
        unknown = [f"{n}: {r!r}" for n, r in self.roles.items() if r not in ROLES]
        if unknown:
            raise InputError(f"unknown role for {', '.join(unknown)}; a role is one of {', '.join(ROLES)}")
        self.statistics = Statistics()
        self._programs: OrderedDict[Any, _Entry] = OrderedDict()
        self._methods: dict[Any, str] = {}  # the method that captured inputs of these types before
        self._refusals: dict[Any, tuple[str, ...]] = {}  # why those above it did not
        self._graphs: OrderedDict[Any, tuple[RelevanceGraph, Any]] = OrderedDict()
        self._snippets: dict[Any, Any] = {}
        self._checked: Any = None
        self._identity: Any = None
        self._current: _Entry | None = None
        self._current_graph: RelevanceGraph | None = None
        if isinstance(example_inputs, dict):
            self.trace(**example_inputs)
        elif example_inputs is not None:
            self.trace(*(example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)))

    # ------------------------------------------------------------------------------------------------ inspection
    @property
    def graph(self) -> torch.fx.GraphModule:
        """The captured, canonical graph."""
        return self._entry().program.module

    @property
    def relevance_graph(self) -> torch.fx.GraphModule:
        """The flat graph that computes output, relevances and ledger (of the last target used)."""
        if self._current_graph is None:
            raise InputError("no relevance graph yet: call the explainer once, or pass example_inputs to convert()")
        return self._current_graph.module

    @property
    def sites(self) -> list[Site]:
        """What was recognised and where: attention, normalisation, positional encodings, gates, residual sums, input roles."""
        return find_sites(self._entry().rewritten, self._entry().anatomy)

    @property
    def coverage(self) -> dict[str, dict[str, int]]:
        """Relevance-path nodes by rule, under ``rule``, ``inferred`` and ``unexplained``."""
        return self._entry().rewritten.coverage()

    @property
    def rewritten(self) -> Rewritten:
        """The program with the rule of every node; ``.print_readable()`` shows both."""
        return self._entry().rewritten

    def _entry(self) -> _Entry:
        if self._current is None:
            raise InputError("nothing captured yet: call the explainer once, or pass example_inputs to convert()")
        return self._current

    # ------------------------------------------------------------------------------------------------ running
    def trace(self, *args: Any, **inputs: Any) -> Explainer:
        """Capture and transpose for these inputs without explaining them."""
        target = as_target(inputs.pop("target", None))
        with _COMPILING:
            self._compiled(self._bind(args, inputs), target)
        return self

    @overload
    def __call__(self, *args: Any, targets: Sequence[Any], **inputs: Any) -> list[Relevance]: ...
    @overload
    def __call__(self, *args: Any, target: Any = None, **inputs: Any) -> Relevance: ...
    def __call__(self, *args: Any, target: Any = None, targets: Sequence[Any] | None = None, **inputs: Any) -> Relevance | list[Relevance]:
        """Explain ``model(*args, **inputs)``.

        target: None (the predicted class or next token), a class index, a target from `lrp_fx.targets`, or a function of
            the output that returns one number per example.
        targets: several of them, for a list of results. Targets of one kind share one forward pass and one batched transpose.

        Raises `InputError`, `TargetError`, `CaptureError`, `UnsupportedOperatorError` (strict) and `ConservationError`.
        """
        if targets is not None:
            if target is not None:
                raise InputError("give target= or targets=, not both")
            return self._explained(args, inputs, [as_target(t) for t in targets])
        return self._explained(args, inputs, [as_target(target)])[0]

    def _explained(self, args: tuple[Any, ...], inputs: dict[str, Any], goals: list[Target]) -> list[Relevance]:
        """One result for each target; those with the same graph run together."""
        with _COMPILING:  # torch.export and the caches are not for several threads at once; a graph is
            call = self._bind(args, inputs)
            bound, program = call.bound, self._program(call).program
            shape, device = output_shape(program, bound), bound[program.inputs[0].name].device
            # refuses what the output does not have, before anything is compiled
            arguments = [list(goal.arguments(shape, device).values()) if goal.example_arguments() else [] for goal in goals]
            compiled = [self._compiled(call, goal) for goal in goals]
            self.statistics.runs += 1
        results: dict[int, Relevance] = {}
        for graph in dict.fromkeys(id(graph) for _, graph, _ in compiled):
            numbers = [n for n, (_, g, _) in enumerate(compiled) if id(g) == graph]
            entry, relevance_graph, runner = compiled[numbers[0]]
            tensors = [bound[i.name] for i in entry.program.inputs]
            try:
                with torch.no_grad():
                    flats = run_together(runner if len(numbers) == 1 else relevance_graph.module, tensors, [arguments[n] for n in numbers])
            except (RuntimeError, IndexError):
                run_model(call.model, bound)  # is it the input that the model itself refuses?
                raise
            for n, flat in zip(numbers, flats, strict=True):
                results[n] = self._result(entry, relevance_graph.bill, flat, bound, goals[n])
        return [results[n] for n in range(len(goals))]

    def _bind(self, args: tuple[Any, ...], inputs: dict[str, Any]) -> Call:
        bound = bind(self.model, args, inputs)
        self._check_model()
        call = as_call(self.model, bound)
        check_inputs(call.bound, {n: self._role(n, v) for n, v in call.bound.items() if isinstance(v, Tensor)})
        return call

    def _check_model(self) -> None:
        """Check mode and weights, the weights again only after they have changed; forget graphs of other weights."""
        tensors = [*self.model.named_parameters(), *self.model.named_buffers()]
        identity = tuple((n, id(t), t.data_ptr(), t.dtype, t.device) for n, t in tensors)
        versions = (identity, tuple(t._version for _, t in tensors if not t.is_inference()))
        check_mode(self.model)
        if self._identity is not None and identity != self._identity:  # replaced, converted or moved: the graphs hold the old ones
            for cache in (self._programs, self._graphs, self._snippets, self._methods, self._refusals):
                cache.clear()
            self._current = self._current_graph = None
        self._identity = identity
        if versions != self._checked:
            check_weights(self.model)
            self._checked = versions

    def _role(self, name: str, value: Tensor) -> str:
        return self.roles.get(name) or role_of(name, value)

    def _compiled(self, call: Call, target: Target) -> tuple[_Entry, RelevanceGraph, Any]:
        """Program and relevance graph for a call; where symbolic sizes defeat the transposer, for the sizes given."""
        entry = self._program(call)
        try:
            return (entry, *self._graph(entry, target))
        except (TargetError, InputError):
            raise
        except Exception as error:
            if entry.program.method != DYNAMIC:
                raise
            self._forget(entry, call, error)
            entry = self._program(call)
            return (entry, *self._graph(entry, target))

    def _forget(self, entry: _Entry, call: Call, error: Exception) -> None:
        """Drop a program that could not be transposed with symbolic sizes, and remember why."""
        self._programs = OrderedDict((k, e) for k, e in self._programs.items() if e is not entry)
        self._methods[call.key] = STATIC
        self._refusals[call.key] = (f"{DYNAMIC}: {type(error).__name__}: {first_line(error)}",)

    def _program(self, call: Call) -> _Entry:
        key = call.key
        for stored, entry in self._programs.items():
            if stored[0] == key and entry.fits(call.bound):
                self._programs.move_to_end(stored)
                self._current = entry
                return entry
        entry = self._capture(call, key)
        self._programs[key, len(self._programs), self.statistics.captures] = entry
        while len(self._programs) > _CACHED_PROGRAMS:
            _, dropped = self._programs.popitem(last=False)
            self._graphs = OrderedDict((k, g) for k, g in self._graphs.items() if g[1][0] is not dropped)
            self._snippets.clear()  # those of its sizes are of no more use, and the others are soon traced again
        self._current = entry
        return entry

    def _capture(self, call: Call, key: Any) -> _Entry:
        self.statistics.captures += 1
        bound = call.bound
        roles = {n: self._role(n, v) for n, v in bound.items() if isinstance(v, Tensor)}
        run_model(call.model, bound)
        methods = METHODS[METHODS.index(self._methods.get(key, METHODS[0])) :]
        program = canonicalize(capture(call.model, bound, roles, methods=[m for m in methods if self.dynamic or m != DYNAMIC]))
        self._refusals.setdefault(key, program.refusals)
        program = replace(program, refusals=self._refusals[key])
        self._announce(program.method, key)
        if self.output is not None:
            program = _choose_output(program, self.output)
        facts = find_provenance(program)
        rewritten = rewrite(program, facts, self.ruleset, registry, strict=self.strict)
        check_types(rewritten)
        held = {n: v.clone() for n, v in bound.items() if isinstance(v, Tensor)} if program.method == CONCRETE else None
        return _Entry(program, rewritten, find_anatomy(rewritten), held)

    def _announce(self, method: str, key: Any) -> None:
        """Remember the method; say so, once, when every call has to be traced anew."""
        if method == CONCRETE and self._methods.get(key) != CONCRETE:
            warnings.warn(
                f"{type(self.model).__name__} decides by the values of its inputs: it is traced for this very call (method 'concrete') and again for every other",
                stacklevel=5,
            )
        self._methods[key] = method
        for known in (self._methods, self._refusals):
            while len(known) > _CACHED_METHODS:
                known.pop(next(iter(known)))

    def _graph(self, entry: _Entry, target: Target) -> tuple[RelevanceGraph, Any]:
        key = (id(entry), target.signature)
        if key not in self._graphs:
            self.statistics.transposes += 1
            graph = transpose(entry.rewritten, entry.anatomy, target, conserve="site" if self.audits else "total", cache=self._snippets)
            runner = torch.compile(graph.module, dynamic=True) if self.compile else graph.module
            self._graphs[key] = (graph, (entry, target, runner))
            while len(self._graphs) > _CACHED_GRAPHS:
                self._graphs.popitem(last=False)
        graph, (_, _, runner) = self._graphs[key]
        self._current_graph = graph
        return graph, runner

    def _result(self, entry: _Entry, bill: Bill, flat: tuple[Any, ...], bound: dict[str, Any], target: Target) -> Relevance:
        score = flat[bill.outputs]
        owner = entry.program.batch_owner
        batch = bound[owner[0].name].shape[0] if owner is not None else 1
        if score.shape != (batch,):
            raise InputError(f"the target gives {score.shape[0]} scores for a batch of {batch}: the first axis of content inputs and of the output must be the batch")
        statement = read_statement(bill, flat, bound, entry.program.outputs.explained)
        return settle(
            statement,
            conserve=self.conserve,
            score=score,
            output=entry.program.outputs.rebuild(flat[: bill.outputs]),
            inputs={n: v for n, v in bound.items() if isinstance(v, Tensor)},
            target=repr(target),
            ruleset=self.ruleset.name,
        )

    # ------------------------------------------------------------------------------------------------ saving
    def save(self, path: str | Path, *, targets: Sequence[Any] | None = None, weights: bool = True) -> None:
        """Write the relevance graph of the program used last to one file, for `lrp_fx.load`.

        targets: what the file can explain (as in a call; classes and positions stay free), by default the targets used so far.
        weights: False leaves the model's weights out; loading then takes the model's safetensors file.

        Raises `TargetError` for functions as targets (they are code), `InputError` before anything was captured.
        """
        entry = self._entry()
        used = [target for _, (of, target, _) in self._graphs.values() if of is entry and not isinstance(target, Custom)]
        goals = [as_target(t) for t in targets] if targets is not None else used
        if not goals or any(isinstance(g, Custom) for g in goals):
            raise TargetError("a file holds no code: give save(path, targets=[...]) targets from lrp_fx.targets, not functions")
        graphs = {g.signature: (graph.module, graph.bill) for g in goals for graph, _ in [self._graph(entry, g)]}
        made_with = {"lrp_fx": version("lrp_fx"), "torch": torch.__version__, "model": type(self.model).__name__}
        about = Description(self.ruleset.name, self.conserve, self.sites, self.coverage, entry.program.method, made_with)
        write(path, entry.program, graphs, about, model=self.model, weights=weights, held=entry.inputs)


def aggregations() -> dict[str, str]:
    """Names of the ways to sum position relevance per token, and what each does."""
    return {name: a.law for name, a in registry.aggregations.items()}


def rulesets() -> dict[str, str]:
    """Names of the presets and what each is."""
    return {name: r.about for name, r in registry.rulesets.items()}


def _ruleset(rules: str | Ruleset) -> Ruleset:
    if isinstance(rules, Ruleset):
        unknown = [n for n in [*rules.kinds.values(), *rules.leaves.values(), *(r for s in rules.sites.values() for r in s.values())] if n not in registry.rules]
        if unknown:
            raise InputError(f"ruleset {rules.name!r} names unknown rules: {', '.join(unknown)}; known are {', '.join(sorted(registry.rules))}")
        return rules
    if rules not in registry.rulesets:
        raise InputError(f"no ruleset {rules!r}; there are {', '.join(registry.rulesets)}")
    return registry.rulesets[rules]


def _choose_output(program: Program, name: str) -> Program:
    matches = [i for i, n in enumerate(program.outputs.names) if n == name or n.split(".")[-1] == name]
    if not matches:
        raise TargetError(f"the model has no output {name!r}; it returns {', '.join(program.outputs.names)}")
    return program.evolve("choose_output", outputs=replace(program.outputs, explained=matches[0]))


__all__ = ["Explainer", "LrpError", "Statistics", "aggregations", "convert", "rulesets"]
