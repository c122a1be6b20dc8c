"""Run: a relevance graph on the inputs of a call, and its flat outputs as results; for explainers and loaded files.

requires  a call that the graph's guards admit, and targets of the kind that it was made for
ensures   one result for each target; what does not depend on the target is computed once
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.analysis.mask_effect import HIDES, KEEPS
from lrp_fx.analysis.mask_sense import kept
from lrp_fx.errors import InputError, TargetError, raise_if_out_of_memory, warn_user
from lrp_fx.guards.guard import Arguments, Guard, guard_of
from lrp_fx.guards.inputs import TensorGuard
from lrp_fx.guards.sizes import SizeGuard
from lrp_fx.ir.code import Instead, function_of, run_once
from lrp_fx.ir.program import CONTENT_ROLE, MASK_ROLE, FlatModule
from lrp_fx.optimize.reuse_buffers import reuse_buffers
from lrp_fx.report.decode import read_statement, settle
from lrp_fx.report.explained import SOFTMAX, explained
from lrp_fx.report.relevance import Relevance
from lrp_fx.targets import At, Span, Target, as_target, score_of
from lrp_fx.transpose.signature import GraphSignature, RelevanceGraph

#: What a mask says (`lrp_fx.analysis.mask_sense`).
Sense = Callable[[str], str | None]
#: Is given a graph's signature and what the graph returned.
Taking = Callable[[GraphSignature, tuple[Any, ...]], None] | None


@dataclass(frozen=True, eq=False)
class Executable:
    """A relevance graph with all that running it takes.

    ``runner`` computes what ``graph.module`` does; ``rebuild`` makes the model's own output of the graph's first
    outputs; ``batch``: the input whose first axis counts the examples, None for a single one. ``differentiable``: does
    autograd see what it computes?
    """

    graph: RelevanceGraph
    runner: Callable[..., Any]
    guards: tuple[Guard, ...]
    rebuild: Callable[[tuple[Any, ...]], Any]
    batch: str | None
    differentiable: bool = False


def _refuse_unknown_end(goal: Target, shape: tuple[int, ...], call: Arguments, sense: Sense) -> None:
    """Raise `TargetError` for a place counted from the last row that counts, where a mask hides places of something of
    another length (samples of sound, of which the output has frames): which row is the last is not known. A single row
    is the last token's where the mask keeps that of every example.
    """
    if len(shape) != 3 or not getattr(goal, "counts_back", False):
        return
    lengths = {v.shape[1] for n, v in call.tensors.items() if call.roles[n] == CONTENT_ROLE and v.dim() > 1}
    hiding = [n for n, v in call.tensors.items() if call.roles[n] == MASK_ROLE and v.dim() == 2]
    constant = {name for name, _ in call.constants}
    for name in hiding:
        mask = call.tensors[name]
        places = mask.shape[1]
        if shape[1] not in {places, *lengths} and name not in constant and not mask.is_floating_point():
            says = sense(name) if shape[1] == 1 else None
            if says in (KEEPS, HIDES) and bool(kept(mask, says, shape[0])[:, -1].all()):
                continue
            raise TargetError(
                f"{name} hides some of {places} places, and the output has {shape[1]} rows: which of them is the last "
                f"that counts is not known\n    next: say which, for example Predicted(position={shape[1] - 1}), or a "
                "list with one for each example"
            )


@dataclass(frozen=True)
class Terms:
    """What a result has to satisfy, and what it says of itself: the conservation asked for, the name of the ruleset.

    ``said``: kinds of warnings that come once, and came. ``link``: how the model makes probabilities of what is
    explained (`lrp_fx.report.explained`), None where it makes none. ``take``: is given what a graph returned, for
    those who asked it for more than results are made of. ``answer``: gives what is explained of the model's output,
    where graphs do not return it; None where nobody can.
    """

    conserve: str
    ruleset: str
    said: set[str]
    link: str | None = SOFTMAX
    take: Taking = None
    answer: Callable[[], Tensor | None] = lambda: None


def goals_of(target: Any, targets: Sequence[Any] | None) -> list[Target]:
    """The targets of a call, given as one or as several."""
    if targets is None:
        return [as_target(target)]
    if target is not None:
        raise InputError("give target= or targets=, not both")
    if not isinstance(targets, (list, tuple)):
        raise TargetError(f"targets= takes a list of targets, got {targets!r}")
    return [as_target(t) for t in targets]


def output_shape(guards: Iterable[Guard], call: Arguments) -> tuple[int, ...]:
    """The shape of the explained output."""
    return guard_of(SizeGuard, tuple(guards)).sizes.output_shape(call.shapes)


def target_arguments(
    goals: Sequence[Target], guards: Iterable[Guard], call: Arguments, sense: Sense = lambda name: None
) -> list[list[Tensor]]:
    """What a graph is given beside the inputs, for each target; raises `TargetError` for what the output has not.

    sense: what a mask says, None where that is not known.
    """
    guards = tuple(guards)
    shape = output_shape(guards, call)
    device = call.tensors[guard_of(TensorGuard, guards).inputs[0].name].device
    for goal in goals:
        _refuse_unknown_end(goal, shape, call, sense)
    found = [goal.arguments(shape, device) if goal.example_arguments() else {} for goal in goals]
    for goal, arguments in zip(goals, found, strict=True):
        if isinstance(goal, Span) and (slip := goal.slip(arguments, _texts(call, shape))):
            warn_user(f"{goal!r}: {slip}")
    return [list(arguments.values()) for arguments in found]


def _texts(call: Arguments, shape: tuple[int, ...]) -> list[Tensor]:
    """The ids that have a row of the output for each token."""
    found = [v for n, v in call.tensors.items() if call.roles[n] == CONTENT_ROLE and not v.is_floating_point()]
    return [ids for ids in found if tuple(ids.shape) == tuple(shape[:2])]


def explain(
    executables: Sequence[Executable],
    call: Arguments,
    goals: Sequence[Target],
    arguments: Sequence[list[Tensor]],
    terms: Terms,
    blame: Callable[[Exception], None],
    masks: Sequence[list[Tensor]] = (),
) -> list[Relevance]:
    """One result for each target, by the executable in its place; targets of one graph run together.

    ``masks``: for each target, those of the gates that relevance has to pass (none: there are no gates).
    ``blame`` is told of what failed while a graph ran, and may raise what the person who called should read.
    """
    results: dict[int, Relevance] = {}
    for executable in dict.fromkeys(executables):
        numbers = [n for n, other in enumerate(executables) if other is executable]
        try:
            given = [[*arguments[n], *(masks[n] if masks else ())] for n in numbers]
            flats = _outputs(executable, call, given)
        except (RuntimeError, IndexError) as error:
            raise_if_out_of_memory(error)
            blame(error)
            raise
        for n, flat in zip(numbers, flats, strict=True):
            results[n] = _result(executable, call, flat, goals[n], arguments[n], terms)
    return [results[n] for n in range(len(goals))]


def _outputs(executable: Executable, call: Arguments, arguments: list[list[Tensor]]) -> list[tuple[Any, ...]]:
    tensors = [call.bound[info.name] for info in guard_of(TensorGuard, executable.guards).inputs]
    module = executable.runner if len(arguments) == 1 else executable.graph.module
    seen = contextlib.nullcontext() if executable.differentiable else torch.no_grad()
    with seen, without_autocast(tensors):
        return run_together(module, tensors, arguments)


@contextlib.contextmanager
def without_autocast(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Autocast is part of what was traced, and would be applied a second time."""
    with contextlib.ExitStack() as stack:
        for kind in {t.device.type for t in tensors}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _result(
    executable: Executable,
    call: Arguments,
    flat: tuple[Any, ...],
    target: Target,
    arguments: list[Tensor],
    terms: Terms,
) -> Relevance:
    signature, score = executable.graph.signature, flat[executable.graph.signature.outputs]
    batch = call.bound[executable.batch].shape[0] if executable.batch is not None else 1
    if score.shape != (batch,):
        raise InputError(
            f"the target gives {score.shape[0]} scores for a batch of {batch}: the first axis of content inputs "
            "and of the output must be the batch"
        )
    if terms.take is not None:
        terms.take(signature, flat)
    output = flat[signature.explained] if signature.explained is not None else None
    shape = guard_of(SizeGuard, executable.guards).sizes.output_shape(call.shapes)
    named = dict(zip(signature.arguments, arguments, strict=True))
    plain = tuple(v.detach() if isinstance(v, Tensor) else v for v in flat)
    said = explained(
        target, named, score.detach(), shape, output, _kept(signature, call, (batch, *shape[1:])), terms.link
    )
    given = named["position"].unsqueeze(1) if said.positions is None and "position" in named else said.positions
    _warn_of_padding(given, _kept(signature, call, (batch, *shape[1:])))
    statement = read_statement(signature, flat, call.bound)
    return settle(
        statement,
        checked=read_statement(signature, plain, call.bound) if score.requires_grad else statement,
        conserve=terms.conserve,
        score=score,
        output=executable.rebuild(flat[: signature.outputs]) if signature.outputs else None,
        read=functools.cache(lambda: _read(signature, call, plain, target, arguments, terms.answer)),
        inputs=call.tensors,
        target=said,
        ruleset=terms.ruleset,
        said=terms.said,
    )


def _warn_of_padding(positions: Tensor | None, kept: Tensor | None) -> None:
    """Say so where a row of the output (B, rows) is one that the mask (B, T) hides: nobody is told by its values."""
    if positions is None or kept is None or kept.dim() != 2 or len(kept) != len(positions):
        return
    hidden = ~kept.gather(1, positions.clamp(0, kept.shape[1] - 1)) & (positions >= 0)  # else counted from the last
    if bool(hidden.any()):
        example, place = hidden.nonzero()[0].tolist()
        warn_user(
            f"row {int(positions[example, place])} of the output is padding in example {example}, and explained there\n"
            "    next: give a position for each example, or count from the end of each: position=-1"
        )


def _read(
    signature: GraphSignature,
    call: Arguments,
    flat: tuple[Any, ...],
    target: Target,
    arguments: list[Tensor],
    answer: Callable[[], Tensor | None],
) -> Tensor | None:
    """(B,): the absolute amounts that the score reads of the explained output, each value times its derivative; None
    where nobody has that (a graph does not return it, and ``answer`` does not; a target inside the model reads none),
    or its examples are not its rows.

    A value counts for no less than the median of all outputs: one that is zero by chance is as rounded as its like. One
    that is huge, or infinite where it is masked, says nothing of the others.
    """
    if isinstance(target, At):
        return None
    output = flat[signature.explained] if signature.explained is not None else answer()
    if output is None:
        return None
    score, mask = flat[signature.outputs], _kept(signature, call, output.shape)
    if output.shape[:1] != score.shape:
        return None
    with torch.inference_mode(False), torch.enable_grad():
        given = dict(zip(signature.arguments, arguments, strict=True))
        _, derivative = score_of(target, output.detach().clone(), mask, given)
    size = output.detach().abs().to(torch.promote_types(output.dtype, torch.float32))
    usual = size[size.isfinite()].median() if bool(size.isfinite().any()) else size.new_zeros(())
    amounts = torch.where(derivative == 0, 0.0, derivative.abs() * torch.maximum(size, usual))
    return amounts.reshape(len(amounts), -1).sum(1)


def _kept(signature: GraphSignature, call: Arguments, shape: Sequence[int]) -> Tensor | None:
    """(B, T): which rows of an output (B, T, ...) count for a target; None for all."""
    if signature.target_mask is None:
        return None
    name, sense = signature.target_mask
    return kept(call.bound[name], sense, *shape[:2]).expand(shape[0], -1)


@contextlib.contextmanager
def one_by_one() -> Iterator[None]:
    """Kernels without a batched form run one by one inside `torch.vmap`, and nobody is warned of it."""
    warn = getattr(torch._C._functorch, "_set_vmap_fallback_warning_enabled", lambda enabled: None)
    warn(False)
    try:
        yield
    finally:
        warn(True)


def run_together(module: Any, tensors: Sequence[Tensor], arguments: list[list[Tensor]]) -> list[tuple[Any, ...]]:
    """The outputs of a relevance graph for each list of target arguments: what does not depend on them is computed
    once.
    """
    if len(arguments) == 1 or not arguments[0]:
        return [module(*tensors, *arguments[0])] * len(arguments)
    others: list[Any] = []

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        flat = module(*tensors, *given)
        others[:] = [None if isinstance(value, Tensor) else value for value in flat]
        return tuple(value for value in flat if isinstance(value, Tensor))

    try:
        with one_by_one():
            batched = torch.vmap(run)(*(torch.stack(values) for values in zip(*arguments, strict=True)))
    except RuntimeError as error:
        raise_if_out_of_memory(error)  # else it may be a function whose operations have no batched form
        return [module(*tensors, *given) for given in arguments]
    rows = []
    for k in range(len(arguments)):
        values = iter(batched)
        rows.append(tuple(next(values)[k] if other is None else other for other in others))
    return rows


class Running:
    """A relevance graph as it is run. It follows the graph: changed and recompiled, as `torch.fx` allows, that is what
    runs.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self._seen: tuple[Any, Instead] | None = None  # (edition, what is called instead): another thread may run it
        self._written: tuple[Any, Callable[..., Any]] | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        """Inputs of sizes that the graph holds for (`lrp_fx.guards.sizes`): where others were broadcast, a result might
        need more room.
        """
        module = self.module
        edition = module.edition if isinstance(module, FlatModule) else module.code
        written, seen = self._written, self._seen
        if written is not None and written[0] is edition:
            return written[1](module, *inputs)
        if seen is None or seen[0] is not edition:
            self._seen = seen = edition, reuse_buffers(module.graph)
            return run_once(module.graph, module, inputs, seen[1])
        self._written = written = edition, function_of(module.graph, seen[1])
        return written[1](module, *inputs)
