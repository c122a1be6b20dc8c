"""Masks: what a mask of queries by keys says, computed some queries at a time.

requires  a canonical program and masks in it that depend on sizes, parameters and constant inputs alone
ensures   a pattern is found only if every entry of the mask has been seen to be as that pattern says
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, fx

from lrp_fx.guards.guard import Arguments, Constants, Guard, Reader, Writer
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import ancestors, copy_node, is_tensor, op_name, value_of
from lrp_fx.ir.operators import axis_of, has, is_pointwise, operand_of, run_call
from lrp_fx.ir.program import FlatModule, Program

Shapes = Mapping[str, tuple[int, ...]]
_ENTRIES = 2**20  # of a mask, that are computed at a time


@dataclass(frozen=True, eq=False)
class MaskGraph:
    """How masks are made: the part of a program that computes them.

    ``module`` takes the inputs and returns the masks. By the names of its nodes: ``inputs`` says what each placeholder
               is called
    in a call, ``types`` what numbers it holds, ``axes`` how long each axis of a value is (numbers and symbols, as
    text).
    """

    module: fx.GraphModule
    inputs: dict[str, str]
    types: dict[str, torch.dtype]
    axes: dict[str, tuple[str, ...]]
    device: torch.device

    @property
    def masks(self) -> list[fx.Node]:
        """In the order that they were asked for."""
        (output,) = self.module.graph.find_nodes(op="output")
        return list(output.args[0])

    def queries(self, node: fx.Node) -> str | None:
        """The symbol of the last axis but one."""
        axes = self.axes.get(node.name, ())
        return axes[-2] if len(axes) > 1 and not axes[-2].isdigit() else None


def mask_graph(program: Program, masks: Sequence[fx.Node]) -> MaskGraph:
    """What these masks of a program are computed from, and how."""
    names = {node: name for name, node in program.input_nodes().items()}
    needed = {*names, *ancestors(masks, until=lambda n: _is_size(n, names))}
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        if node in needed:
            env[node] = copy_node(graph, node, lambda n: env[n])
    graph.output([env[m] for m in masks])
    return MaskGraph(
        FlatModule(program.module, graph),
        {env[node].name: name for node, name in names.items()},
        {env[node].name: value_of(node).dtype for node in names},
        {env[node].name: tuple(map(str, value_of(node).shape)) for node in env if is_tensor(node)},
        value_of(masks[0]).device,
    )


def kinds(made: MaskGraph, mask: fx.Node, constants: Constants, shapes: Shapes) -> set[str]:
    """What a mask may be taken for in a call with these shapes: nothing is masked; everything behind the query is."""
    sizes = made.axes[mask.name]
    square = len(sizes) >= 2 and sizes[-2] == sizes[-1]
    found = {"all", "causal"} if square else {"all"}
    try:
        for start, repeated in _blocks(made, mask, dict(constants), shapes):
            value = _once(repeated)
            keeps = value if value.dtype == torch.bool else value == 0
            if "all" in found and not bool(keeps.all()):
                found.discard("all")
            if "causal" in found:
                before = torch.ones(keeps.shape[-2:], dtype=torch.bool, device=keeps.device).tril_(start)
                if not _is_everywhere(keeps, before) or not _hides(value, before):
                    found.discard("causal")
            if not found:
                break
    except (RuntimeError, IndexError):  # sizes that the model does not take
        return set()
    return found


def _once(value: Tensor) -> Tensor:
    """Without the repetitions of axes that are expanded: they lie in one place, and say the same."""
    for axis, stride in enumerate(value.stride()[:-2]):
        value = value.narrow(axis, 0, 1) if stride == 0 else value
    return value


def _is_everywhere(value: Tensor, pattern: Tensor) -> bool:
    """Is each of the values along leading axes the pattern?"""
    return all(torch.equal(each, pattern) for each in value.reshape(-1, *pattern.shape))


def _hides(value: Tensor, before: Tensor) -> bool:
    """Does it hide all that does not stand before, as far as keeping what does leaves that open?"""
    if value.dtype == torch.bool:
        return True
    return _is_everywhere(~(value <= torch.finfo(value.dtype).min / 2), before)  # what is no number hides nothing


def _blocks(
    made: MaskGraph, mask: fx.Node, constants: dict[str, float], shapes: Shapes
) -> Iterator[tuple[int, Tensor]]:
    """First query and values of each part of a mask, for inputs of these shapes: what can be computed query by query is
    never there whole.
    """
    nodes = list(made.module.graph.nodes)
    inputs = {n: made.inputs[n.name] for n in nodes if n.op == "placeholder"}
    needed = set(ancestors([mask], until=lambda n: _is_size(n, inputs)))
    entries = _entrywise(made, mask, needed)
    others = needed - entries
    whole: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in (n for n in nodes if n in others):
            if node in inputs:
                whole[node] = torch.full(
                    shapes[inputs[node]], constants[inputs[node]], dtype=made.types[node.name], device=made.device
                )
            elif node.op == "get_attr":
                whole[node] = operator.attrgetter(str(node.target))(made.module)
            elif _is_size(node, inputs):
                whole[node] = shapes[inputs[node.args[0]]][int(node.args[1])]
            else:
                whole[node] = _run(made, node, whole)
        order = [n for n in nodes if n in entries]
        if not order:
            yield 0, whole[mask]
            return
        rows = {n for n in whole if made.queries(n) == made.queries(mask)}
        queries = next(whole[n].shape[-2] for n in rows if any(user in entries for user in n.users))
        for start in range(0, queries, step := max(1, _ENTRIES // max(1, queries))):
            part = {n: v.narrow(-2, start, min(step, queries - start)) if n in rows else v for n, v in whole.items()}
            for node in order:
                part[node] = _run(made, node, part)
            yield start, part[mask]


def _entrywise(made: MaskGraph, mask: fx.Node, needed: set[fx.Node]) -> set[fx.Node]:
    """What is computed of queries by keys entry by entry, and read by nothing else that the mask ``needed``."""
    queries = made.queries(mask)
    found: set[fx.Node] = set()
    for node in (
        sorted(needed, reverse=True) if queries is not None else ()
    ):  # in the order of the graph, from the mask back
        if (
            made.queries(node) == queries
            and _is_entrywise(made, node)
            and all(user in found for user in node.users if user in needed)
        ):
            found.add(node)
    return found


def _is_entrywise(made: MaskGraph, node: fx.Node) -> bool:
    """Is a part of its operands' queries enough for that part of its own?"""
    queries = made.queries(node)
    if has(node, Fact.EXPANSION):
        return made.queries(operand_of(node)) == queries
    if op_name(node) == "aten.unsqueeze":
        rank = len(made.axes[node.name])
        return axis_of(node, rank) < rank - 2
    return is_pointwise(node) and any(made.queries(a) == queries for a in node.all_input_nodes)


def _is_size(node: fx.Node, inputs: Mapping[fx.Node, str]) -> bool:
    """Is it a size of an input, which its values do not matter to?"""
    return op_name(node) == "aten.sym_size" and node.args[0] in inputs


def _run(made: MaskGraph, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    read: Any = fx.map_arg((node.args, node.kwargs), lambda a: values[a])
    args, kwargs = read
    if (
        op_name(node) == "aten.expand"
        and made.queries(node) is not None
        and made.queries(node.all_input_nodes[0]) == made.queries(node)
    ):
        args = (args[0], [*args[1][:-2], -1, args[1][-1]])  # as many queries as there are
    return run_call(node, *args, **kwargs)


_REMEMBERED_SIZES = 1024


@dataclass(frozen=True, eq=False)
class MaskGuard(Guard):
    """What masks are taken to be where their inputs are these constants: ``patterns`` says ``all`` or ``causal`` for
    each of ``made``.

    ``known``: sizes -> do they hold? A mask that reads a tensor of the model, which may change, is computed anew in
    every call.
    """

    kind = "masks"
    made: MaskGraph
    constants: Constants
    patterns: tuple[str, ...]
    known: OrderedDict[Any, bool] = field(default_factory=OrderedDict)

    def refusal(self, call: Arguments) -> str | None:
        if call.constants != self.constants:
            held = ", ".join(f"{name} holds {number:g} everywhere" for name, number in self.constants)
            return f"this graph does without masks: it is for calls in which {held or 'no mask is given'}"
        if not self.hold_for({n: call.shapes[n] for n in self.made.inputs.values()}):
            return "this graph does without masks, which say something for these sizes"
        return None

    def hold_for(self, shapes: Shapes) -> bool:
        """Are all the masks what they are taken to be in a call with inputs of these shapes? Computed once for each."""
        key = tuple(sorted(shapes.items()))
        if key not in self.known:
            held = all(
                kind in kinds(self.made, mask, self.constants, shapes)
                for mask, kind in zip(self.made.masks, self.patterns, strict=True)
            )
            if self.made.module.graph.find_nodes(op="get_attr"):
                return held
            self.known[key] = held
            while len(self.known) > _REMEMBERED_SIZES:
                self.known.popitem(last=False)
        return self.known[key]

    def encode(self, write: Writer) -> dict[str, Any]:
        made = self.made
        return {
            "constants": write.value(self.constants),
            "patterns": list(self.patterns),
            "nodes": write.graph(made.module),
            "inputs": made.inputs,
            "types": write.value(made.types),
            "axes": {n: list(axes) for n, axes in made.axes.items()},
        }

    @classmethod
    def decode(cls, facts: Mapping[str, Any], read: Reader) -> Self:
        axes = {n: tuple(map(str, sizes)) for n, sizes in facts["axes"].items()}
        made = MaskGraph(
            read.graph(facts["nodes"]), dict(facts["inputs"]), read.value(facts["types"]), axes, read.device
        )
        placeholders = {n.name for n in made.module.graph.find_nodes(op="placeholder")}
        if (
            len(made.masks) != len(facts["patterns"])
            or not placeholders == made.inputs.keys() == made.types.keys()
            or not {m.name for m in made.masks} <= made.axes.keys()
        ):
            raise ValueError("masks of which it does not say what they are")
        return cls(made, read.value(facts["constants"]), tuple(map(str, facts["patterns"])))
