"""Compiler: from one call to the program and the relevance graph that serve it, each made once and kept."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.checks import check_mode, check_weights
from lrp_fx.capture.guards import guards_of
from lrp_fx.capture.ladder import (
    CONCRETE,
    DYNAMIC,
    METHODS,
    STATIC,
    first_line,
)
from lrp_fx.errors import InputError, PassError, TransposeError
from lrp_fx.guards.guard import Constants, Guard, refusal
from lrp_fx.guards.inputs import device_guard
from lrp_fx.guards.masks import MaskGuard
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.passes import Step, report_fault, run
from lrp_fx.ir.program import MASK_ROLE, Program
from lrp_fx.rewrite.application import Rewritten
from lrp_fx.runtime.pipeline import ANALYSED, BUILT, CAPTURED, Options, State
from lrp_fx.structure.structure import Structure
from lrp_fx.targets import Target
from lrp_fx.transpose.signature import RelevanceGraph

CACHED_PROGRAMS = 16
_CACHED_GRAPHS = 32
_CACHED_STRATEGIES = 256


@dataclass
class Statistics:
    """How often each expensive stage ran (a text of another length must not capture again)."""

    captures: int = 0
    transposes: int = 0
    runs: int = 0


@dataclass(frozen=True)
class Built:
    """A relevance graph for one kind of target, what runs it, and which calls it serves."""

    graph: RelevanceGraph
    target: Target
    runner: Any
    guards: tuple[Guard, ...]
    history: tuple[Step, ...] = ()


@dataclass(frozen=True, eq=False)
class Captured:
    """A captured and canonical program, which calls it serves, and what the passes did that made it."""

    program: Program
    guards: tuple[Guard, ...]
    history: tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class CompiledProgram:
    """A compiled program. ``base``: the same before masks that say nothing were dropped, ``assumed``: for which masks
    they were.

    ``graphs`` by the target's signature; ``history``: what the passes did that made it.
    """

    base: Captured
    assumed: MaskGuard | None
    program: Program
    rewritten: Rewritten
    structure: Structure
    history: tuple[Step, ...] = ()
    graphs: OrderedDict[Any, Built] = field(default_factory=OrderedDict)

    @property
    def guards(self) -> tuple[Guard, ...]:
        """Which calls the program serves."""
        return self.base.guards if self.assumed is None else (*self.base.guards, self.assumed)

    def fits(self, call: ModelCall) -> bool:
        """Does what was captured serve a call, whatever its masks are?"""
        return refusal(self.base.guards, call) is None


@dataclass(frozen=True, eq=False)
class Kept:
    """An entry, the key of the calls that it was captured for, and the masks that were constant in them (None: good for
    any).
    """

    key: Any
    constants: Constants | None
    entry: CompiledProgram


class Compiler:
    """Compiles for one model. ``current`` and ``built`` are what was used last."""

    def __init__(self, model: nn.Module, options: Options) -> None:
        self.model, self.options = model, options
        self.statistics = Statistics()
        self.entries: list[Kept] = []  # the last one was used last
        self.strategies: dict[
            Any, tuple[str, tuple[str, ...]]
        ] = {}  # the method that captured such calls before, and why those above it did not
        self.traces: dict[Any, Any] = {}
        self.current: CompiledProgram | None = None
        self.built: Built | None = None
        self._loose: dict[
            tuple[nn.Module, str], Tensor
        ] = {}  # captured tensors that are neither parameters nor buffers
        self._checked: Any = None
        self._narrow: dict[int, int] = {}
        self._identity: Any = None

    def check_model(self) -> None:
        """Check mode and weights, the weights again only after they have changed; forget graphs of other weights."""
        tensors = [*self.model.named_parameters(), *self.model.named_buffers()]
        identity = tuple((n, id(t), t.data_ptr(), t.dtype, t.device) for n, t in tensors)
        changing = [t for t in (*(t for _, t in tensors), *self._loose.values()) if not t.is_inference()]
        versions = (identity, tuple(t._version for t in changing))
        check_mode(self.model)
        replaced = any(getattr(module, name, None) is not tensor for (module, name), tensor in self._loose.items())
        # or converted or moved: the graphs hold the old ones
        if self._identity is not None and (identity != self._identity or replaced):
            self._forget_all()
        self._identity = identity
        if versions != self._checked:
            check_weights(self.model)
            narrow = _narrow_versions(changing)
            if any(self._narrow.get(t, version) != version for t, version in narrow.items()) and any(
                t.dtype == torch.float64 for t in changing
            ):
                self._forget_all()  # narrow tensors among wide ones were copied (`promote_precision`)
            self._checked, self._narrow = versions, narrow

    def _forget_all(self) -> None:
        self.entries.clear()
        self.strategies.clear()
        self.traces.clear()
        self._loose.clear()
        self.current = self.built = None

    def compiled(self, call: ModelCall, target: Target) -> tuple[CompiledProgram, Built]:
        """Program and relevance graph for a call; where symbolic sizes defeat the transposer, for the sizes given."""
        entry = self.entry(call)
        seen = target.signature in entry.graphs
        try:
            self.built = self.build(entry, target)
        except (TransposeError, PassError) as error:
            if shared := _shared_inputs(entry, call):
                raise InputError(shared) from error
            if entry.program.method != DYNAMIC:
                raise
            report_fault(error, "reverse")
            self._forget(entry, call, error)
            entry = self.entry(call)
            self.built = self.build(entry, target)
        if not entry.fits(call):  # drawing decided something by the sizes it was traced with
            entry = self.entry(call, self._exactly)
            self.built = self.build(entry, target)
        if not seen:
            _try_one_row(entry, call)
        return entry, self.built

    def _forget(self, entry: CompiledProgram, call: ModelCall, error: Exception) -> None:
        """Drop a program that could not be transposed with symbolic sizes, remember why, and say so: it is no fault of
        the model.
        """
        why = f"{DYNAMIC}: {type(error).__name__}: {first_line(error)}"
        warnings.warn(
            f"{type(self.model).__name__} is captured again for every size: its relevance graph could not be built "
            f"with symbolic sizes ({why})",
            stacklevel=6,
        )
        self.entries = [kept for kept in self.entries if kept.entry.base is not entry.base]
        self.strategies[call.key] = (STATIC, (why,))

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
            self.traces.clear()  # those of its sizes are of no more use, and the others are soon traced again
        return found.entry

    def serves(self, call: ModelCall) -> bool:
        """Is there a program for a call?"""
        return any(kept.key == call.key and kept.entry.fits(call) for kept in self.entries)

    def _capture(self, call: ModelCall) -> Captured:
        first, refusals = self.strategies.get(call.key, (METHODS[0], ()))
        captured = self._captured(call, first)
        program = replace(captured.program, refusals=(*refusals, *captured.program.refusals))
        self._remember(program, call)
        return replace(captured, program=program)

    def _exactly(self, call: ModelCall) -> Captured:
        """For sizes that a program of symbolic ones is not right for; other calls of the kind may well have one."""
        return self._captured(call, STATIC)

    def _captured(self, call: ModelCall, first: str) -> Captured:
        self.statistics.captures += 1
        methods = [m for m in METHODS[METHODS.index(first) :] if self.options.dynamic or m != DYNAMIC]
        state, history = run(State(self.options, call, methods), CAPTURED, without=self.options.without)
        assert state.program is not None
        self._loose |= _loose_tensors(self.model, state.program)
        self._narrow |= _narrow_versions([t for t in self._loose.values() if not t.is_inference()])
        return Captured(state.program, guards_of(state.program, call), history)

    def _variant(self, base: Captured, constants: Constants | None, call: ModelCall) -> CompiledProgram:
        """The program without the masks that say nothing if the mask inputs hold these numbers."""
        state, history = self._without_masks(base, constants)
        return self._general(base) if state.assumed is None else self._analysed(base, state, history)

    def _without_masks(self, base: Captured, constants: Constants | None) -> tuple[State, tuple[Step, ...]]:
        state = State(self.options, constants=constants, program=base.program)
        return run(state, ANALYSED, until="drop_masks", without=self.options.without)

    def _general(self, base: Captured) -> CompiledProgram:
        """The program that is good for any mask, made once."""
        return self._made_general(base) or self._analysed(base, State(self.options, program=base.program), ())

    def _made_general(self, base: Captured) -> CompiledProgram | None:
        return next(
            (kept.entry for kept in self.entries if kept.entry.base is base and kept.entry.assumed is None), None
        )

    def _analysed(self, base: Captured, state: State, history: tuple[Step, ...]) -> CompiledProgram:
        """The program of a state with its rules and its structure; ``history``: what was done to it since it was
        captured.
        """
        after = ANALYSED[[p.name for p in ANALYSED].index("drop_masks") + 1 :]
        state, steps = run(state, after, without=self.options.without)
        assert state.program is not None and state.rewritten is not None and state.structure is not None
        made = (state.assumed, state.program, state.rewritten, state.structure, (*history, *steps))
        return CompiledProgram(base, *made)

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
            state, history = self._without_masks(entry.base, ones)
            if state.assumed is not None:
                known[ones] = self._analysed(entry.base, state, history)
        return [*known.values(), self.general(entry)]

    def related(self, entry: CompiledProgram) -> list[CompiledProgram]:
        """All that was made of the same captured program."""
        return [kept.entry for kept in self.entries if kept.entry.base is entry.base]

    def _remember(self, program: Program, call: ModelCall) -> None:
        """Remember the method; say so, once, when every call has to be traced anew."""
        if program.method == CONCRETE and self.strategies.get(call.key, ("",))[0] != CONCRETE:
            warnings.warn(
                f"{type(self.model).__name__} decides by the values of its inputs: it is traced for this very call "
                "(method 'concrete') and again for every other",
                stacklevel=7,
            )
        self.strategies[call.key] = (program.method, program.refusals)
        while len(self.strategies) > _CACHED_STRATEGIES:
            self.strategies.pop(next(iter(self.strategies)))

    def build(self, entry: CompiledProgram, target: Target) -> Built:
        """The relevance graph of a program for a kind of target."""
        if target.signature not in entry.graphs:
            self.statistics.transposes += 1
            state = State(
                self.options,
                target=target,
                traces=self.traces,
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
            entry.graphs[target.signature] = Built(graph, target, runner, guards, steps)
            while len(entry.graphs) > _CACHED_GRAPHS:
                entry.graphs.popitem(last=False)
        return entry.graphs[target.signature]


def _try_one_row(entry: CompiledProgram, call: ModelCall) -> None:
    """Is the program right for one example, too? Asked now, in case that it is saved: a file has no model to compare
    with.
    """
    batched = entry.program.batch_input
    if entry.program.method == DYNAMIC and batched is not None:
        batch = call.bound[batched[0].name].shape[0]
        entry.fits(
            replace(
                call,
                bound={
                    n: v[:1] if isinstance(v, Tensor) and v.dim() and v.shape[0] == batch else v
                    for n, v in call.bound.items()
                },
            )
        )


def _shared_inputs(entry: CompiledProgram, call: ModelCall) -> str:
    """Why a graph cannot be built: an input has one row for all examples of the batch. What they share has no relevance
    in each of them.
    """
    batched = entry.program.batch_input
    batch = call.bound[batched[0].name].shape[0] if batched is not None else 1
    shared = [
        i.name
        for i in entry.program.inputs
        if i.role == "content" and i.shape and call.bound[i.name].shape[0] == 1 < batch
    ]
    if not shared or batched is None:
        return ""
    name = shared[0]
    rows = ", ".join([str(batch), *["-1"] * (call.bound[name].dim() - 1)])
    return (
        f"{name} has one row for the {batch} examples of {batched[0].name}: what examples share has no relevance of "
        "its own in each of them; "
        f"give each its own, {name}.expand({rows})"
    )


def _loose_tensors(model: nn.Module, program: Program) -> dict[tuple[nn.Module, str], Tensor]:
    """Tensors of a program that are plain attributes of the model's modules: they may be replaced without a trace."""
    module = program.captured or program.module  # before passes that copy tensors (`promote_precision`)
    captured = {getattr(module, str(n.target)).data_ptr() for n in module.graph.nodes if n.op == "get_attr"}
    return {
        (m, name): v
        for m in model.modules()
        for name, v in vars(m).items()
        if isinstance(v, Tensor) and v.data_ptr() in captured
    }


def _narrow_versions(tensors: list[Tensor]) -> dict[int, int]:
    return {id(t): t._version for t in tensors if t.dtype in (torch.float32, torch.complex64)}
