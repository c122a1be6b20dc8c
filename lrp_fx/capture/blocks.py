"""Repeated blocks: of the blocks that are alike, one is traced, and the others are stamped from it.

A model of 48 equal layers runs through the tracer in the time of one. While it is exported, the first call of a class
of blocks is traced as it stands between two marks, every other leaves one opaque call; afterwards the operations
between the marks are copied to each call, with that block's own weights.

Two calls are of one class if their modules are alike (`lrp_fx.capture.alike`) and are given the same kinds of values.
Numbers that count the blocks (a layer's index) may differ as long as nobody asks for them: they are watched, and if one
is read every block is traced. The whole is compared with the model like every capture, and exported block by block
where it differs.

requires  a model, and what exports it
ensures   the graph that an export of every block would give, up to the names of nodes
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from lrp_fx.capture.alike import Watched, repeated_blocks
from lrp_fx.ir.contents import PLAIN
from lrp_fx.ir.graph import copy_node
from lrp_fx.ir.tracing import abstract_key
from lrp_fx.ir.undo import surely

_library: Any = torch.library.Library("lrp_fx_blocks", "DEF")  # type: ignore[no-untyped-call]
for _name in ("start", "end", "block"):
    _library.define(f"{_name}(Tensor[] values, int number) -> Tensor[]")
_MARKS = torch.ops.lrp_fx_blocks


class NotStampable(Exception):
    """Blocks that look alike are not; says why."""


@dataclass(frozen=True)
class Call:
    """One call of a block. ``template``: the number of the call that it is stamped from, its own if it was traced."""

    path: str
    template: int
    outputs: tuple[Any, ...] = ()  #: abstract values of the tensors that it returns


@dataclass
class Blocks:
    """The calls of repeated blocks during one export.

    ``groups``: what makes blocks alike, by module; ``paths``: where they are; ``weights``: names of all parameters and
    buffers of the model; ``templates``: class -> the number of the
    call that was traced, and how its outputs are put together.
    """

    groups: dict[nn.Module, int]
    paths: dict[nn.Module, str]
    weights: frozenset[str]
    calls: list[Call] = field(default_factory=list)
    templates: dict[Any, tuple[int, list[Any], pytree.TreeSpec]] = field(default_factory=dict)
    thread: int = field(default_factory=threading.get_ident)

    def run(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A call of a block: traced between marks, or one opaque call."""
        flat, spec = pytree.tree_flatten((args, kwargs))
        tensors = [i for i, a in enumerate(flat) if isinstance(a, Tensor)]
        kinds = _kinds(flat)
        if kinds is None:
            return forward(*args, **kwargs)
        key = (self.groups[module], str(spec), kinds)
        number, given = len(self.calls), [flat[i] for i in tensors]
        if key in self.templates:
            template, rest, out_spec = self.templates[key]
            self.calls.append(Call(self.paths[module], template, self.calls[template].outputs))
            return _put_together(self._mark("block", given, number, self.calls[template].outputs), rest, out_spec)
        self.calls.append(Call(self.paths[module], number))
        for i, value in zip(tensors, self._mark("start", given, number, given), strict=True):
            flat[i] = value
        args, kwargs = pytree.tree_unflatten(flat, spec)
        out, out_spec = pytree.tree_flatten(forward(*args, **kwargs))
        if not all(isinstance(o, (Tensor, *PLAIN)) for o in out):
            raise NotStampable(f"{self.paths[module]} returns what is neither tensor nor number")
        outputs = [o for o in out if isinstance(o, Tensor)]
        rest = [_HERE if isinstance(o, Tensor) else o for o in out]
        self.calls[number] = Call(self.paths[module], number, tuple(o.detach() for o in outputs))
        self.templates[key] = (number, rest, out_spec)
        return _put_together(self._mark("end", outputs, number, outputs), rest, out_spec)

    def _mark(self, name: str, values: list[Tensor], number: int, like: Sequence[Tensor]) -> list[Tensor]:
        _expected.append(like)
        try:
            return list(getattr(_MARKS, name)(values, number))
        finally:
            _expected.pop()

    @property
    def stamped(self) -> bool:
        """Is there a call that was not traced?"""
        return any(call.template != number for number, call in enumerate(self.calls))


_HERE = object()
#: What the mark that is being traced returns.
_expected: list[Sequence[Tensor]] = []


def _abstract(values: list[Tensor], number: int) -> list[Tensor]:
    del number
    return [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device) for t in _expected[-1]]


for _name in ("start", "end", "block"):
    torch.library.register_fake(f"lrp_fx_blocks::{_name}", _abstract, lib=_library)


def _put_together(tensors: list[Tensor], rest: list[Any], spec: pytree.TreeSpec) -> Any:
    given = iter(tensors)
    return pytree.tree_unflatten([next(given) if o is _HERE else o for o in rest], spec)


def _kinds(flat: list[Any]) -> Any:
    """What a call is given: kinds of tensors (and which of them are one), plain values; None if there is more to it."""
    places: dict[int, int] = {}
    found: list[Any] = []
    for place, value in enumerate(flat):
        if isinstance(value, Tensor):
            found.append((abstract_key(value), places.setdefault(id(value), place)))
        elif isinstance(value, torch.SymInt):
            found.append(str(value))
        elif isinstance(value, PLAIN):
            found.append((type(value), value))
        else:
            return None
    return tuple(found)


# ------------------------------------------------------------------------------------------------ while exporting
@contextlib.contextmanager
def stamping(model: nn.Module) -> Iterator[Blocks]:
    """While inside, calls of repeated blocks leave marks, or one opaque call, in what is traced."""
    groups, counted = repeated_blocks(model)
    blocks = Blocks(
        {block: number for number, group in enumerate(groups) for _, block in group},
        {block: path for group in groups for path, block in group},
        frozenset(name for name, _ in (*model.named_parameters(), *model.named_buffers())),
    )
    numbers = {(module, name): getattr(module, name) for module, name in counted}
    Watched.asked.clear()

    def restore() -> None:
        for block in blocks.groups:
            vars(block).pop("forward", None)
        for (module, name), value in numbers.items():
            setattr(module, name, value)

    try:
        for (module, name), value in numbers.items():
            setattr(module, name, Watched(value))
        for block in blocks.groups:
            vars(block)["forward"] = functools.partial(_forward, blocks, block, block.forward)
        yield blocks
        if any(id(getattr(module, name)) in Watched.asked for module, name in numbers):
            raise NotStampable("a block asks for its own number")
    finally:
        surely(restore)


def _forward(blocks: Blocks, block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if threading.get_ident() != blocks.thread:  # somebody else runs the model meanwhile
        return forward(*args, **kwargs)
    return blocks.run(block, forward, args, kwargs)


# ------------------------------------------------------------------------------------------------ afterwards
def stamp(graph: fx.Graph, blocks: Blocks, weights: dict[str, fx.Node]) -> None:
    """Write what was traced once to every call of its class, in place; ``weights``: the graph's, by the model's
    names.
    """
    marks = {name: _calls_of(graph, name) for name in ("start", "end", "block")}
    for number, node in marks["block"].items():
        call = blocks.calls[number]
        template = blocks.calls[call.template]
        start, end = marks["start"][call.template], marks["end"][call.template]
        env = _weights_of(template.path, call.path, weights, blocks.weights)
        results: Any = _copied(graph, node, start, end, env, (template.path, call.path))
        for part in list(node.users):
            part.replace_all_uses_with(results[part.args[1]])
            graph.erase_node(part)
        graph.erase_node(node)
    for node in (*marks["end"].values(), *marks["start"].values()):
        for part in list(node.users):
            values: Any = node.args[0]
            part.replace_all_uses_with(values[part.args[1]])
            graph.erase_node(part)
        graph.erase_node(node)


def _calls_of(graph: fx.Graph, name: str) -> dict[int, fx.Node]:
    target = getattr(_MARKS, name).default
    numbers: dict[Any, fx.Node] = {n.args[1]: n for n in graph.find_nodes(op="call_function", target=target)}
    return numbers


def _weights_of(before: str, after: str, weights: dict[str, fx.Node], own: frozenset[str]) -> dict[fx.Node, fx.Node]:
    """A block's weights -> those of another; ``own``: names of the model's."""
    found = {}
    for name, node in weights.items():
        if name.startswith(before + "."):
            other = after + name.removeprefix(before)
            if other in weights:
                found[node] = weights[other]
            elif name in own:
                raise NotStampable(f"{other} is not among the weights of the graph")
    return found  # a constant that the block's code makes is the same in all


def _copied(
    graph: fx.Graph, at: fx.Node, start: fx.Node, end: fx.Node, env: dict[fx.Node, fx.Node], paths: tuple[str, str]
) -> list[fx.Node]:
    """The operations between two marks, copied to a call of the same class; what they give."""
    given: Any = at.args[0]
    node = start.next
    with graph.inserting_before(at):
        while node is not end:
            if node.args[:1] == (start,):
                env[node] = given[node.args[1]]
            else:
                env[node] = copy_node(graph, node, lambda n: env.get(n, n))
                _move(env[node], *paths)
            node = node.next
    results: Any = end.args[0]
    return [env.get(n, n) for n in results]


def _move(node: fx.Node, before: str, after: str) -> None:
    """A copied operation is in the block that it was copied to."""
    stack = node.meta.get("nn_module_stack") or {}
    node.meta["nn_module_stack"] = {
        key.replace(before, after) if isinstance(key, str) else key: (_moved(str(path), before, after), *rest)
        for key, (path, *rest) in stack.items()
    }


def _moved(path: str, before: str, after: str) -> str:
    inside = path == before or path.startswith(before + ".")
    return after + path.removeprefix(before) if inside else path
