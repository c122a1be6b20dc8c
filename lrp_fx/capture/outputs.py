"""Outputs: the names of what a model returns, and which of them is explained.

What torch's tree library does not know (dataclasses, caches, objects of classes of one's own) is *opened* while the
model is run: its tensors by dotted names, and what it takes to make such an object of others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lrp_fx.capture.trees import Hole, holds_tensor, leaves, rebuilt
from lrp_fx.ir.contents import PLAIN


class Opened(dict[str, Any]):
    """The tensors and whole numbers of an object by dotted names; ``template``: the object without its tensors."""

    template: Template

    def closed(self) -> Any:
        """An object like the one opened, with these values."""
        return rebuilt("", self.template.empty, {f".{name}": value for name, value in self.items()})


class Template:
    """An object whose tensors are holes. Templates are alike if the same is in them by the same names."""

    def __init__(self, empty: Any, names: tuple[str, ...]) -> None:
        self.empty, self.names = empty, names

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and (type(self.empty), self.names) == (type(other.empty), other.names)

    def __hash__(self) -> int:
        return hash((type(self.empty), self.names))


def _flatten(value: Opened) -> tuple[list[Any], Template]:
    return list(value.values()), value.template


def _with_keys(value: Opened) -> tuple[list[tuple[Any, Any]], Template]:
    return [(pytree.MappingKey(n), v) for n, v in value.items()], value.template


def _unflatten(values: Iterable[Any], template: Template) -> Opened:
    made = Opened(zip(template.names, values, strict=True))
    made.template = template
    return made


pytree.register_pytree_node(Opened, _flatten, _unflatten, flatten_with_keys_fn=_with_keys)


def opened(result: Any) -> Any:
    """What a model returned, with the objects in it opened; None where there are none."""
    flat, spec = pytree.tree_flatten(result)
    parts = [_open(value) for value in flat]
    if all(new is old for new, old in zip(parts, flat, strict=True)):
        return None
    return pytree.tree_unflatten(parts, spec)


def _open(value: Any) -> Any:
    if isinstance(value, (Tensor, *PLAIN)) or not holds_tensor(value):
        return value
    found = {n.removeprefix("."): v for n, v in leaves("", value) if _is_computed(v)}
    empty = rebuilt("", value, {f".{name}": Hole() for name in found})
    return _unflatten(found.values(), Template(empty, tuple(found)))


def _is_computed(value: Any) -> bool:
    return isinstance(value, (Tensor, int, torch.SymInt)) and not isinstance(value, bool)


def closed(result: Any) -> Any:
    """A result with its objects as the model makes them."""
    flat, spec = pytree.tree_flatten(result, is_leaf=lambda part: isinstance(part, Opened))
    if not any(isinstance(part, Opened) for part in flat):
        return result
    return pytree.tree_unflatten([p.closed() if isinstance(p, Opened) else p for p in flat], spec)


def named_leaves(result: Any) -> list[tuple[str, Any]]:
    """What a model returns, flat, each with its dotted name (``output`` for one that has none)."""
    return [(".".join(path) or "output", value) for path, value in _paths(result)]


def _paths(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    parts = pytree.tree_flatten(tree, is_leaf=lambda part: part is not tree)[0]
    if len(parts) == 1 and parts[0] is tree:
        yield (), tree
        return
    for name, part in zip(_part_names(tree, len(parts)), parts, strict=True):
        yield from (((name, *path), value) for path, value in _paths(part))


def _part_names(tree: Any, count: int) -> list[str]:
    """The names of a container's parts. One that is registered without a function for them (the outputs of
    transformers before 5.13) has its keys where it is a mapping, else numbers.
    """
    try:
        found = pytree.tree_flatten_with_path(tree, is_leaf=lambda part: part is not tree)[0]
    except ValueError:
        return (
            [str(key) for key in tree]
            if isinstance(tree, Mapping) and len(tree) == count
            else [*map(str, range(count))]
        )
    return [key_name(path[0]) for path, _ in found]


def key_name(entry: Any) -> str:
    """One step of a path in a tree."""
    return str(next((getattr(entry, a) for a in ("key", "idx", "name") if hasattr(entry, a)), entry))


def called(name: str, wanted: str) -> bool:
    """Does a dotted name, or the last part of it, say what is wanted?"""
    return wanted in (name, name.rsplit(".", maxsplit=1)[-1])


def explained_name(outputs: Mapping[str, Any]) -> str | None:
    """The output that is explained where none is asked for: the logits, else the first of the floating ones. (A single
    number, such as the loss that labels give, is none of an example's.)
    """
    floating = {n: v for n, v in outputs.items() if isinstance(v, Tensor) and v.is_floating_point()}
    names = [n for n, v in floating.items() if v.dim()] or list(floating)
    return next((n for n in names if called(n, "logits")), names[0] if names else None)
