"""Outputs: the names of what a model returns, and which of them is explained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.utils import _pytree as pytree


def named_leaves(result: Any) -> list[tuple[str, Any]]:
    """What a model returns, flat, each with its dotted name (``output`` for one that has none)."""
    found = pytree.tree_flatten_with_path(result)[0]
    return [(".".join(key_name(k) for k in path) or "output", value) for path, value in found]


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
