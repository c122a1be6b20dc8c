"""Watch: has a model been changed without a tensor of it being another?

A hook added, an adapter merged or switched off, a number, a name or a configuration set: a graph made before answers as
the model did then. What modules and their configurations hold is compared with what they held, by identity and equality
(a model of 200 modules takes half a millisecond).

requires  a model
ensures   a change of an attribute, a hook, a submodule or a forward is seen; a function replaced in a Python module is
          not
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from lrp_fx.ir.seen import PLAIN, own_classes

_CONTAINERS = (dict, list, set)
_DEEPEST = 3


class Watch:
    """``held``: (an object, what it held)."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.held: list[tuple[Any, dict[str, Any]]] = []

    def look(self) -> None:
        """Remember what the model is now."""
        self.held = [(each, _copied(vars(each))) for each in _parts(self.model)]

    def changed(self) -> bool:
        """Is anything other than it was when it was looked at last? (Modules added are attributes of others.)"""
        return any(_differ(vars(each), held) for each, held in self.held)

    def changes(self) -> tuple[str, ...]:
        """What is another, in words: the module (or the class of another object) and its attributes."""
        names = {id(module): name or "the model" for name, module in self.model.named_modules()}
        return tuple(
            f"{names.get(id(each), f'a {type(each).__name__}')}: {', '.join(_others(vars(each), held))}"
            for each, held in self.held
            if _differ(vars(each), held)
        )


def _differ(now: Any, held: Any) -> bool:
    try:
        return bool(now != held)
    except (RuntimeError, ValueError, TypeError):  # tensors or arrays that are others cannot be compared: they are
        return True


def _others(now: Mapping[str, Any], held: Mapping[str, Any]) -> list[str]:
    missing = object()
    return [n for n in dict.fromkeys([*held, *now]) if _differ(now.get(n, missing), held.get(n, missing))]


def _copied(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as they are: what is written to in place is copied."""
    return {n: v.copy() if isinstance(v, _CONTAINERS) else v for n, v in attributes.items()}


def _parts(model: nn.Module) -> Iterator[Any]:
    """The modules, their classes, and the objects that hold what they are set to (configurations, adapters)."""
    known: set[int] = set()
    yield from dict.fromkeys(c for module in model.modules() for c in own_classes(module))
    for module in model.modules():
        yield module
        yield from _held_by(module, known, 0)


def _held_by(owner: Any, known: set[int], depth: int) -> Iterator[Any]:
    for value in vars(owner).values():
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
        for each in inside:
            if id(each) in known or isinstance(each, (*PLAIN, Tensor, nn.Module, types.FunctionType, types.ModuleType)):
                continue
            known.add(id(each))
            if hasattr(each, "__dict__") and depth < _DEEPEST:
                yield each
                yield from _held_by(each, known, depth + 1)
