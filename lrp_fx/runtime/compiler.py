"""Compiler: from one call to the program and the relevance graph that serve it, each made once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import nn

from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.guards import guards_of
from lrp_fx.capture.ladder import first_line
from lrp_fx.errors import InputError, PassError, TransposeError, UntracedTargetError, warn_user
from lrp_fx.guards.guard import Constants
from lrp_fx.guards.inputs import device_guard
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.passes import report_fault, run
from lrp_fx.ir.program import CONCRETE, DYNAMIC, MASK_ROLE, STATIC
from lrp_fx.ir.read import all_as_read
from lrp_fx.rewrite.application import Rewritten
from lrp_fx.runtime.agreement import Agreement, compare
from lrp_fx.runtime.calls import holds_for, own_copy, shared_inputs, try_one_row
from lrp_fx.runtime.captures import Captured, Variant, share, taken_over
from lrp_fx.runtime.changed import Dictionaries
from lrp_fx.runtime.compiled import Built, CompiledProgram, Kept, Statistics
from lrp_fx.runtime.doubts import Doubts, agree
from lrp_fx.runtime.inside import Request, asked_now
from lrp_fx.runtime.pipeline import ANALYSED, BUILT, CAPTURED, PASSES, Options, State
from lrp_fx.runtime.strategies import Strategies
from lrp_fx.runtime.weights import Weights, check_followed
from lrp_fx.structure.remarks import remarks
from lrp_fx.targets import At, Target, kind_of
from lrp_fx.transpose.inside import NOTHING, Inside

#: Between masks that are dropped and rules that are chosen.
_BEFORE_RULES = (PASSES["write_out_attention"], PASSES["find_provenance"])
#: Those whose result explainers of one model share: what another leaves out behind them is no matter.
_SHARED = frozenset(step.name for step in (*CAPTURED, *ANALYSED))
CACHED_PROGRAMS = 16
_CACHED_GRAPHS = 32
NO_REQUEST = Request()


class Compiler:
    """Compiles for one model. ``current`` and ``built`` are what was used last."""

    def __init__(self, model: nn.Module, options: Options) -> None:
        self.model, self.options = model, options
        self.statistics = Statistics()
        self.entries: list[Kept] = []  # the last one was used last
        self.strategies = Strategies(options.dynamic)
        self.weights, self.doubts = Weights(model), Doubts(model, every=options.every)
        self.dictionaries = Dictionaries(options.dictionaries)
        self.remarked: set[str] = set()
        self.current: CompiledProgram | None = None
        self.built: Built | None = None

    @cached_property
    def with_scores(self) -> Compiler:
        """The same for calls that ask for scores of attention: kernels, which make none, are written out."""
        if self.options.written_out:
            return self
        made = Compiler(self.model, replace(self.options, written_out=True))
        made.statistics = self.statistics
        return made

    def check_model(self) -> None:
        """Check mode and weights; forget graphs of other weights. (First: what is remembered of them is trusted.)

        Graphs read the model's own tensors, so steps of an optimiser leave them right; but not the record of a call, in
        which decisions by values that the weights made are fixed.
        """
        now = self.weights.now()
        if self.dictionaries.changed() or self.weights.differ(now):
            self._forget_all()
        elif self.weights.written_to(now):
            self.entries = [kept for kept in self.entries if kept.entry.base.program.method != CONCRETE]
        self.weights.remember(now)

    def check_changes(self, call: ModelCall) -> None:
        """Forget all where something of the model was set, and where a program computes something else (`Doubts`)."""
        if not self.entries:
            self.doubts.begin()  # the next is captured from the model as it is now
        elif self.doubts.refuted(call, lambda: self._bases(call)):
            self._forget_all()
            self.doubts.begin()

    def renew(self, call: ModelCall) -> None:
        """Capture again, with the graphs that there were, for a call on which a changed model computes what it did."""
        targets = {kind: built.target for kept in self.entries for kind, built in kept.entry.graphs.items()}
        if self.entries and agree(self._bases(call), call):
            self.check_changes(call)
            for target in targets.values() if not self.entries else ():
                self.compiled(call, target)

    def _bases(self, call: ModelCall | None = None) -> set[Captured]:
        """What is kept; of that, what a call may use."""
        kept = self.entries if call is None else [k for k in self.entries if k.key == call.key and k.entry.fits(call)]
        return {each.entry.base for each in kept}

    def agreement(self, call: ModelCall) -> Agreement:
        """Do the programs that a call may use compute what the model computes on it? If not, forget all."""
        now = self.weights.now()
        changed = ("the weights",) if self.weights.differ(now) else self.doubts.watch.changes()
        serving = [kept.entry for kept in self.entries if kept.key == call.key and kept.entry.fits(call)]
        found = compare([replace(entry.base.program, read=entry.program.read) for entry in serving], call, changed)
        if not found.ok or changed == ("the weights",):
            self._forget_all()
        self.weights.remember(now)
        return found

    def trusts(self, entry: CompiledProgram) -> bool:
        """Is the program what the model computes, as far as it was compared since the model was changed last?"""
        return entry.base in self._bases() and self.doubts.trusted(entry.base)

    def _forget_all(self) -> None:
        self.entries.clear()  # first: graphs without doubts would answer, should this be interrupted
        self.doubts.forget()
        self.strategies.clear()
        self.weights.forget()
        self.current = self.built = None

    def compiled(self, call: ModelCall, target: Target, request: Request = NO_REQUEST) -> tuple[CompiledProgram, Built]:
        """Program and relevance graph for a call; where its kind of capture defeats the transposer, by another."""
        entry = (self._having(call, target) if request.is_empty else None) or self.entry(call)
        seen = kind_of(target) in entry.graphs
        entry, self.built = self._built(entry, call, target, request)
        if not entry.fits(call):  # drawing decided something by the sizes it was traced with
            entry = self.entry(call, self._exactly)
            self.built = self.build(entry, target, request.inside(entry, call, target))
        if not seen:
            try_one_row(entry, call)
        self.current = entry
        if not seen:
            self.doubts.settle(self._bases())
        return entry, self.built

    def _having(self, call: ModelCall, target: Target) -> CompiledProgram | None:
        """The program for a call that has a graph for the target already, where it is not the first that fits."""
        if len(self.entries) < 2:
            return None
        kept = [k for k in self.entries if k.key == call.key and k.constants == call.constants]
        found = next((k for k in kept if kind_of(target) in k.entry.graphs and k.entry.serves(call)), None)
        if found is None:
            return None
        self.entries.remove(found)
        self.entries.append(found)
        return found.entry

    def _built(
        self, entry: CompiledProgram, call: ModelCall, target: Target, request: Request = NO_REQUEST
    ) -> tuple[CompiledProgram, Built]:
        inside = request.inside(entry, call, target)
        try:
            return entry, self.build(entry, target, inside)
        except UntracedTargetError:
            if entry.program.method != DYNAMIC:
                raise
            # it may be the symbols that the target cannot take: no reason to drop them
            return self._built(self._entry_of_these_sizes(call), call, target, request)
        except (TransposeError, PassError) as error:
            if shared := shared_inputs(entry, call):
                raise InputError(shared) from error
            if entry.base.first is None and entry.program.method != DYNAMIC:
                raise
            report_fault(error, "reverse")
            self._forget(entry, call, error)
        return self._built(self.entry(call), call, target, request)

    def _entry_of_these_sizes(self, call: ModelCall) -> CompiledProgram:
        """A program without symbolic sizes, beside those with."""
        fitting = (kept.entry for kept in self.entries if kept.key == call.key and kept.entry.serves(call))
        found = next((entry for entry in fitting if entry.program.method != DYNAMIC), None)
        if found is None:
            base = self._exactly(call)
            found = self._variant(base, call.constants, call)
            if not found.serves(call):
                found = self._general(base)
            self.entries.append(Kept(call.key, call.constants if found.assumed is not None else None, found))
        return found

    def _forget(self, entry: CompiledProgram, call: ModelCall, error: Exception) -> None:
        """Drop a program that could not be transposed and remember which method comes next. Where that is for every
        size anew, say so: it is no fault of the model.
        """
        self.entries = [kept for kept in self.entries if kept.entry.base is not entry.base]
        if entry.base.first is not None:
            self.strategies.learn(call.key, DYNAMIC)
            return
        why = f"{DYNAMIC}: {type(error).__name__}: {first_line(error)}"
        warn_user(
            f"{type(self.model).__name__} is captured again for every size: its relevance graph could not be built "
            f"with symbolic sizes ({why})"
        )
        self.strategies.learn(call.key, STATIC, (why,))

    def entry(self, call: ModelCall, make: Callable[[ModelCall], Captured] | None = None) -> CompiledProgram:
        """The compiled program for a call, captured (by ``make``) if none of those kept is right for it."""
        make = make or self._capture
        entry = self._kept(call, call.constants, make)
        if entry.assumed is not None and entry.assumed.refusal(call) is not None:
            entry = self._kept(call, None, make)
        self.current = entry
        return entry

    def _kept(
        self, call: ModelCall, constants: Constants | None, make: Callable[[ModelCall], Captured]
    ) -> CompiledProgram:
        """The program for calls with these masks (None: with any), made if there is none."""
        fitting = [kept for kept in self.entries if kept.key == call.key and kept.entry.fits(call)]
        found = next((kept for kept in fitting if kept.constants == constants), None)
        if found is not None:
            self.entries.remove(found)
        else:
            found = Kept(
                call.key, constants, self._variant(fitting[-1].entry.base if fitting else make(call), constants, call)
            )
            if not fitting and not found.entry.fits(call):  # it was traced with two rows at least, and some tokens
                found = Kept(call.key, constants, self._variant(self._exactly(call), constants, call))
        self.entries.append(found)
        while len(self.entries) > CACHED_PROGRAMS:
            self.entries.pop(0)
        return found.entry

    def serves(self, call: ModelCall) -> bool:
        """Is there a program for a call?"""
        return any(kept.key == call.key and kept.entry.fits(call) for kept in self.entries)

    def _capture(self, call: ModelCall) -> Captured:
        methods, refusals = self.strategies.methods(call)
        first = self.strategies.is_first(call)
        captured = self._captured(call, methods)
        program = replace(captured.program, refusals=(*refusals, *captured.program.refusals))
        self.strategies.remember(call, program)
        put_off = first and program.method == STATIC
        return replace(captured, program=program, first=own_copy(call) if put_off else None)

    def _exactly(self, call: ModelCall) -> Captured:
        """For sizes that a program of symbolic ones is not right for; other calls of the kind may well have one."""
        return self._captured(call, self.strategies.from_method(STATIC))

    def _captured(self, call: ModelCall, methods: Sequence[str]) -> Captured:
        self.statistics.captures += 1
        options = self.options
        wanted = (tuple(methods), options.output, tuple(n for n in options.without if n in _SHARED))
        captured = taken_over(call, wanted, options.ruleset.as_autograd)
        if captured is None:
            state, history = run(State(options, call, methods), CAPTURED, without=options.without)
            assert state.program is not None
            captured = Captured(state.program, guards_of(state.program, call), history)
            share(call, wanted, options.ruleset.as_autograd, captured)
        self.weights.note(captured.program)
        self.doubts.captured(captured)
        return captured

    def for_any_size(self, entry: CompiledProgram, goals: Sequence[Target]) -> CompiledProgram:
        """The program itself or, where it holds for the sizes of its first call only, one for any, captured now, if it
        can be transposed for these targets.
        """
        call = entry.base.first
        if call is None:
            return entry
        made = [kept for kept in self.entries if kept.key == call.key and kept.entry.base.first is None]
        found = next((kept for kept in made if kept.entry.fits(call)), None)
        if found is None:
            self.strategies.learn(call.key, DYNAMIC)
            found = Kept(call.key, call.constants, self._variant(self._capture(call), call.constants, call))
            self.entries.append(found)
            try_one_row(found.entry, call)
        try:
            for goal in goals:
                self.build(found.entry, goal)
        except (TransposeError, PassError) as error:
            report_fault(error, "reverse")
            self._forget(found.entry, call, error)
            return entry
        return found.entry

    def _variant(self, base: Captured, constants: Constants | None, call: ModelCall) -> CompiledProgram:
        """The program without the masks that say nothing if the mask inputs hold these numbers."""
        found = self._without_masks(base, constants)
        return self._general(base) if found.assumed is None else self._analysed(base, found)

    def _without_masks(self, base: Captured, constants: Constants | None) -> Variant:
        """That program before rules are chosen, made once for all explainers that share the capture; the one for any
        mask where these say something.
        """
        key = (constants, self.options.written_out)
        found = base.variants.get(key)
        if found is None or not all_as_read(found.program.read):
            without = self.options.without
            state = State(self.options, constants=constants, program=base.program)
            state, history = run(state, ANALYSED, until="drop_masks", without=without)
            if state.assumed is None and constants is not None:
                return self._without_masks(base, None)
            state, steps = run(state, _BEFORE_RULES, without=without)
            assert state.program is not None and state.facts is not None
            found = Variant(state.program, state.assumed, state.facts, (*history, *steps))
            base.keep(key, found)
        return found

    def _general(self, base: Captured) -> CompiledProgram:
        """The program that is good for any mask, made once."""
        return self._made_general(base) or self._analysed(base, self._without_masks(base, None))

    def _made_general(self, base: Captured) -> CompiledProgram | None:
        return next(
            (kept.entry for kept in self.entries if kept.entry.base is base and kept.entry.assumed is None), None
        )

    def _analysed(self, base: Captured, found: Variant) -> CompiledProgram:
        """A variant with its rules and its structure."""
        self.weights.note_read(found.program)
        state = State(self.options, program=found.program, assumed=found.assumed, facts=found.facts)
        after = ANALYSED[ANALYSED.index(PASSES["find_provenance"]) + 1 :]
        state, steps = run(state, after, without=self.options.without)
        assert state.rewritten is not None and state.structure is not None
        self._remark(state.rewritten)
        made = (found.assumed, state.rewritten.program, state.rewritten, state.structure, (*found.history, *steps))
        return CompiledProgram(base, *made)

    def _remark(self, rewritten: Rewritten) -> None:
        """Say, once, what is taken for granted of a program."""
        for remark in remarks(rewritten):
            if remark not in self.remarked:
                self.remarked.add(remark)
                warn_user(remark)

    def general(self, entry: CompiledProgram) -> CompiledProgram:
        """What was made of the same captured program, or is made now, for any mask."""
        return entry if entry.assumed is None else self._general(entry.base)

    def variants(self, entry: CompiledProgram) -> list[CompiledProgram]:
        """What calls may use of the same captured program: with the masks of the calls so far, with masks of ones, and
        last with any.
        """
        known = {
            kept.constants: kept.entry
            for kept in self.entries
            if kept.entry.base is entry.base and kept.entry.assumed is not None
        }
        ones: Constants = tuple(
            (i.name, 1.0) for i in sorted(entry.base.program.inputs, key=lambda i: i.name) if i.role == MASK_ROLE
        )
        if ones not in known:
            found = self._without_masks(entry.base, ones)
            if found.assumed is not None:
                known[ones] = self._analysed(entry.base, found)
        return [*known.values(), self.general(entry)]

    def sized(self, call: ModelCall, small: ModelCall, target: Target) -> Built:
        """The relevance graph for a call, by way of one with fewer rows and tokens where that holds for its sizes: the
        model is run on the small one.
        """
        (goal,) = asked_now([target], self.entry(small), small)
        entry, _ = self.compiled(small, goal)
        if not holds_for(entry.base.guards, call):
            return self.compiled(call, goal)[1]
        entry = self._variant(entry.base, call.constants, call)
        if entry.assumed is not None and entry.assumed.refusal(call) is not None:
            entry = self._general(entry.base)
        return self.build(entry, goal)

    def related(self, entry: CompiledProgram) -> list[CompiledProgram]:
        """All that was made for calls of the same kind."""
        keys = [kept.key for kept in self.entries if kept.entry.base is entry.base]
        return [kept.entry for kept in self.entries if kept.key in keys]

    def build(self, entry: CompiledProgram, target: Target, inside: Inside = NOTHING) -> Built:
        """The relevance graph of a program for a kind of target, and for what is asked of places inside the model."""
        key = kind_of(target) if inside is NOTHING else (kind_of(target), inside.key)
        if key not in entry.graphs:
            self.statistics.transposes += 1
            if self.options.differentiable:
                check_followed([self.model, *self.dictionaries.modules], entry.program)
            state = State(
                self.options,
                target=target.target if isinstance(target, At) else target,
                inside=inside,
                traces=entry.base.traces,
                program=entry.program,
                facts=entry.rewritten.facts,
                rewritten=entry.rewritten,
                structure=entry.structure,
            )
            state, steps = run(state, BUILT, without=self.options.without)
            graph = state.finished()
            runner = torch.compile(graph.module, dynamic=True) if self.options.compile else state.runner or graph.module
            device = value_of(next(iter(entry.program.input_nodes().values()))).device
            guards = (*entry.guards, device_guard(graph.module, device))
            # the target with it: functions are told apart by identity
            entry.graphs[key] = Built(graph, target, runner, guards, steps, inside)
            while len(entry.graphs) > _CACHED_GRAPHS:
                entry.graphs.popitem(last=False)
        return entry.graphs[key]
