"""Seed: where relevance starts: the target's score, and the coefficient of the explained output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.analysis.mask_effect import HIDES, KEEPS, LENGTHS, LOW, axis_of_tokens
from lrp_fx.analysis.mask_sense import kept, sense_of
from lrp_fx.analysis.provenance import MASK
from lrp_fx.errors import TargetError, UntracedTargetError
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.layout import BatchAxis, batch_axis
from lrp_fx.ir.program import CONTENT_ROLE, Program
from lrp_fx.ir.sizes import hint, is_one, same_size
from lrp_fx.ir.traces import Traced, known_of
from lrp_fx.ir.tracing import abstract_key, inline
from lrp_fx.rewrite.refuse import outside_of
from lrp_fx.structure.places import Place
from lrp_fx.targets import At, Custom, Direction, Target, kind_of, score_of
from lrp_fx.targets.stand_ins import actual
from lrp_fx.transpose.builder import RelevanceBuilder
from lrp_fx.transpose.inside import as_it_lay, batch_of
from lrp_fx.transpose.standing import batch_first
from lrp_fx.transpose.vjp import per_example, relevance_of, sum_by_rows


@dataclass(frozen=True)
class Seed:
    """``score``: (B,); ``coefficient``: that of the output; ``remainder``: what the target is not linear in; ``total``:
    all
    that is handed to the output."""

    score: fx.Node
    coefficient: fx.Node
    remainder: fx.Node
    total: fx.Node


def add_arguments(builder: RelevanceBuilder, target: Target, source: Place | None = None) -> dict[str, fx.Node]:
    """Placeholders for the target's numbers, by name. source: the place it reads, None for the explained output."""
    batch = batch_of(builder.program)
    arguments: dict[str, fx.Node] = {}
    examples = target.example_arguments()
    shapes: list[Any] = [(batch, *example.shape[1:]) for example in examples.values()]
    read = value_of(builder.program.explained_node if source is None else source.node)
    if source is not None:
        with builder.mode:
            read = batch_first(read, batch_axis(source.layout), batch)
    if isinstance(target, Custom):
        shapes = [actual(sizes, read.shape) for sizes in target.sizes]
    elif isinstance(target, Direction):
        shapes = target.sizes(read.shape)
    for (name, example), sizes in zip(examples.items(), shapes, strict=True):
        placeholder = builder.graph.placeholder(f"target_{name}")
        with builder.mode:
            value = torch.empty(sizes, dtype=example.dtype, device=example.device)
        placeholder.meta["val"] = value
        arguments[name] = placeholder
    return arguments


def add_seed(
    builder: RelevanceBuilder, target: Target, arguments: dict[str, fx.Node], source: Place | None = None
) -> Seed:
    """The target's score and its derivative, added to the graph."""
    rewritten, explained = builder.rewritten, builder.program.explained_node if source is None else source.node
    if explained not in rewritten.applications and explained not in rewritten.leaves:
        why = f"\n  {outside_of(builder.program)}" if builder.program.outside else ""
        raise TargetError(
            f"the explained output %{explained.name} does not depend on any input that carries relevance{why}"
        )
    if source is not None and explained in rewritten.leaves:
        raise TargetError(
            f"At({source.name!r}, ...) is %{explained.name}, where relevance ends ({rewritten.leaves[explained]}): all "
            "of it is its own\n    next: read a place that something is computed in"
        )
    if explained in rewritten.leaves:
        raise TargetError(
            f"the explained output is %{explained.name} itself, where relevance ends ({rewritten.leaves[explained]}): "
            "the score is all its own\n    next: explain an output that something is computed for"
        )
    mask, sense = target_mask(builder.program, explained) or (None, None)
    inputs = [explained] + ([mask] if mask is not None else [])
    nodes = [*(builder.env[n] for n in inputs), *arguments.values()]
    values = [value_of(n) for n in (*inputs, *arguments.values())]
    layout = builder.facts.layout.get(explained) if source is None else source.layout
    axis = batch_axis(layout) or BatchAxis(0, 1, 1)
    module = _seed_of(builder, target, list(arguments), sense, axis, values, source is not None)
    return Seed(*inline(builder.graph, module, nodes, ("target", "seed", 0), builder.constant))


def _seed_of(
    builder: RelevanceBuilder,
    target: Target,
    names: list[str],
    sense: str | None,
    axis: BatchAxis,
    values: list[Any],
    inside: bool,
) -> fx.GraphModule:
    """The traced seed. A kind of target is traced once, one of this package once for all programs; a function every
    time: traces outlive explainers, and what it holds (the model, perhaps) would live as long.
    """
    batch = builder.facts.batch
    key = ("seed", kind_of(target), tuple(names), sense, axis, inside, abstract_key(batch), abstract_key(values))
    if not isinstance(target, Custom) and (found := builder.traces.get(key, builder.mode)) is not None:
        return found.module
    known = known_of(builder.mode) if _is_shipped(target) else None
    function = _seeding(target, names, sense, axis, batch, inside)
    module = builder.traced(function, values, lambda: f"the target {target!r}", UntracedTargetError)
    if not isinstance(target, Custom):
        builder.traces.keep(key, Traced(module), builder.mode, known)
    return module


def _is_shipped(target: Target) -> bool:
    """Is its code this package's alone? A user may write another class that has the same signature."""
    read = target.target if isinstance(target, At) else target
    return not isinstance(read, Custom) and type(read).__module__.startswith("lrp_fx.targets.")


def _seeding(
    target: Target, names: list[str], sense: str | None, axis: BatchAxis, batch: Any, inside: bool
) -> Callable[..., list[Any]]:
    """The function to trace: ``(output[, mask], arguments...) -> [score, coefficient, remainder, total]``. inside: is
    it a value inside the model, which a target sees with its examples first?
    """

    def run(output: Tensor, *rest: Any) -> list[Any]:
        mask = None
        if sense is not None:  # targets see 1 where a token counts, whatever the model's convention
            mask, rest = kept(rest[0], sense, batch, output.shape[1]), rest[1:]
        read = batch_first(output, axis, batch) if inside else output
        score, seed = score_of(target, read, mask, dict(zip(names, rest, strict=True)))
        if inside:
            seed = as_it_lay(lambda x: batch_first(x, axis, batch), output)(seed)
        _check_score(score, batch)
        booked = per_example(relevance_of(output, seed, safe=True), axis, output.shape[axis.axis])
        return [score, seed, score - booked, sum_by_rows(relevance_of(output, seed, safe=True))]

    return run


def _check_score(score: Tensor, batch: Any) -> None:
    if hint(score.shape[0]) != hint(batch):
        found = f"{hint(score.shape[0])} scores for a batch of {hint(batch)}"
        # it may be the sizes that were traced: those of the call were looked at when a function was asked
        raise UntracedTargetError(
            f"the target gives {found}: it must give one number for each example, such as output[:, 0], and the first "
            "axis of every content input must be the batch"
        )


def mask_of_target(program: Program, read: fx.Node) -> tuple[str, str] | None:
    """The name of the `target_mask`, and what it says (`lrp_fx.analysis.mask_sense`)."""
    found = target_mask(program, read)
    if found is None:
        return None
    return next(name for name, node in program.input_nodes().items() if node is found[0]), found[1]


def target_mask(program: Program, read: fx.Node) -> tuple[fx.Node, str] | None:
    """The mask input that speaks of the positions of what a target reads (same batch, same length), and what it says.
    Where the model does not say by what it does, whole numbers keep: that is their convention; truth has none. None if
    there is no such mask.
    """
    shape = value_of(read).shape
    if len(shape) < 3:
        return None
    nodes = list(zip(program.inputs, program.input_nodes().values(), strict=True))
    texts = [value_of(n).shape[1] for i, n in nodes if i.role == CONTENT_ROLE and len(i.shape) > 1]
    one_text = all(same_size(length, shape[1]) for length in texts)
    masks = [(info, node) for info, node in nodes if info.role == MASK and _speaks_of_rows(node, shape, one_text)]
    senses = {node: sense_of(program, info.name) for info, node in masks}
    for _, node in masks:
        if senses[node] in (KEEPS, HIDES, LOW):
            return node, str(senses[node])
    for info, node in masks:
        if senses[node] is None and info.is_index and info.dtype != torch.bool and len(info.shape) == 2:
            return node, KEEPS
    numbers = [(info, node) for info, node in nodes if info.is_index and len(info.shape) == 1 and node.users]
    return next(((node, LENGTHS) for info, node in numbers if sense_of(program, info.name) == LENGTHS), None)


def _speaks_of_rows(node: fx.Node, shape: Sequence[Any], one_text: bool) -> bool:
    """Has a mask (B, T), (B, T, 1), or (B or 1, ..., T), the batch and the length of what is read (B, T, ...)? So has
    one with queries by keys for each head of each example, merged. ``one_text``: is no input of another length?
    """
    sizes = value_of(node).shape
    if len(sizes) < 2:
        return False
    if len(sizes) > 2:
        by_head = len(sizes) == 3 and same_size(sizes[1], sizes[2]) and hint(sizes[0]) % hint(shape[0]) == 0
        of_examples = same_size(sizes[0], shape[0]) or is_one(sizes[0]) or by_head
        return of_examples and same_size(sizes[axis_of_tokens(value_of(node))], shape[1])
    if same_size(sizes[0], sizes[1]) and not same_size(sizes[0], shape[0]):
        return False  # between pairs of tokens
    # a length tied to nothing: nothing reads it, or only keys that stand behind others are looked up in it
    untied = not node.users or (one_text and _is_its_own(sizes[1], node))
    return same_size(sizes[1], shape[1]) or (untied and hint(sizes[1]) == hint(shape[1]))


def _is_its_own(size: Any, node: fx.Node) -> bool:
    """Is a size of an input a symbol that no other input has?"""
    symbols = frozenset() if isinstance(size, int) else size.node.expr.free_symbols
    others = [value_of(n) for n in node.graph.find_nodes(op="placeholder") if n is not node]
    taken = {
        q for v in others for s in getattr(v, "shape", ()) if not isinstance(s, int) for q in s.node.expr.free_symbols
    }
    return bool(symbols) and not symbols & taken
