"""Trees: the tensors inside containers and objects by dotted names, and copies with others in their places.

Dictionaries, lists, tuples and dataclasses have children; so has any other object that holds a tensor somewhere in its
attributes (a cache, a result of a class of one's own).

requires  any value
ensures   what is put together again is a copy: nothing that happens to it happens to the value it was made of
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.errors import raise_if_out_of_memory
from lrp_fx.ir.contents import PLAIN

_DEEPEST = 8
#: Objects that are what they are, not what their attributes say.
_CLOSED = (
    *(Tensor, nn.Module, enum.Enum, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType),
    *(torch.SymInt, torch.SymFloat, torch.SymBool, torch.Size, torch.Generator, torch.fx.Proxy),
)


def children(tree: Any) -> list[tuple[str, Any]] | None:
    """Named children of a container or an object, None for a leaf."""
    if isinstance(tree, Mapping):
        return [(str(k), v) for k, v in tree.items()]
    if isinstance(tree, (*PLAIN, *_CLOSED)):
        return None
    if isinstance(tree, (list, tuple)):
        return list(zip(getattr(tree, "_fields", map(str, range(len(tree)))), tree, strict=True))
    if dataclasses.is_dataclass(tree):
        return [(f.name, getattr(tree, f.name)) for f in dataclasses.fields(tree) if hasattr(tree, f.name)]
    return list(_attributes(tree).items()) or None


def is_object(tree: Any) -> bool:
    """Has it children, and is none of the containers?"""
    return not isinstance(tree, (Mapping, list, tuple)) and not dataclasses.is_dataclass(tree) and bool(children(tree))


def _attributes(value: Any) -> dict[str, Any]:
    slots = [s for c in type(value).__mro__ for s in _listed(c.__dict__.get("__slots__", ()))]
    held = {n: getattr(value, n) for n in slots if not n.startswith("__") and hasattr(value, n)}
    return {**held, **getattr(value, "__dict__", {})}


def _listed(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


class Hole:
    """What stands for a tensor in a tree that keeps none."""


def holds_tensor(tree: Any) -> bool:
    """Is there a tensor in it? (What lies very deep is not looked at.)"""
    return _holds(tree, set(), 0)


def _holds(tree: Any, known: set[int], depth: int) -> bool:
    if isinstance(tree, (Tensor, Hole)):
        return True
    if id(tree) in known or depth > _DEEPEST:
        return False
    known.add(id(tree))
    return any(_holds(v, known, depth + 1) for _, v in children(tree) or ())


def leaves(name: str, tree: Any, above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Tensors, and beside them the plain values, by dotted names. What holds no tensor is whole, and is plain."""
    if isinstance(tree, Tensor) or id(tree) in above or not holds_tensor(tree):
        yield name, tree
        return
    for key, value in children(tree) or ():
        yield from leaves(f"{name}.{key}", value, (*above, id(tree)))


def rebuilt(name: str, tree: Any, flat: Mapping[str, Any], *, clone: bool = False, above: tuple[int, ...] = ()) -> Any:
    """A copy of the tree, with the flat values in the places of the leaves that they are named after.

    clone: of tensors inside objects, too; such objects write to them.
    """
    if name in flat:
        return flat[name]
    if id(tree) in above or not holds_tensor(tree):
        return own(tree)
    inside, within = (*above, id(tree)), clone and is_object(tree)
    changed = {}
    for key, value in children(tree) or ():
        new = rebuilt(f"{name}.{key}", value, flat, clone=clone, above=inside)
        changed[key] = new.clone() if within and isinstance(new, Tensor) else new
    return _builder(tree)(changed)


def own(value: Any) -> Any:
    """A copy of a plain value that somebody else may write to."""
    if isinstance(value, (*PLAIN, *_CLOSED)):
        return value
    try:
        return copy.deepcopy(value)
    except Exception as error:  # what cannot be copied is nobody's to write to
        raise_if_out_of_memory(error)
        return value


def _builder(tree: Any) -> Callable[[dict[str, Any]], Any]:
    if isinstance(tree, Mapping):
        return lambda changed: _assigned(
            tree, changed, lambda new, key, value: new.__setitem__(next(k for k in tree if str(k) == key), value)
        )
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return lambda changed: type(tree)(*changed.values())
    if isinstance(tree, (list, tuple)):
        return lambda changed: type(tree)(changed.values())
    return lambda changed: _assigned(tree, changed, object.__setattr__)  # frozen dataclasses too


def _assigned(tree: Any, changed: dict[str, Any], assign: Callable[[Any, str, Any], None]) -> Any:
    new = copy.copy(tree)
    for key, value in changed.items():
        assign(new, key, value)
    return new
