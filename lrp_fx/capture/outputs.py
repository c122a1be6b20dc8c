"""Outputs: the names of what a model returns, and which of them is explained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch.utils import _pytree as pytree


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


def explained_name(floating: Iterable[str]) -> str | None:
    """The output that is explained where none is asked for: the logits, else the first of the floating ones."""
    names = list(floating)
    return next((n for n in names if called(n, "logits")), names[0] if names else None)
