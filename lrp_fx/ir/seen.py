"""Seen: what can be told of a Python value, so that a change of it is noticed.

requires  any value
ensures   equal results for one value as long as nobody has changed what can be seen: plain values as they are,
          containers by what they hold, tensors by identity and version, functions by their code and all that it reads
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrp_fx.ir.sparse import address_of

#: Values that are what they say, whoever holds them.
PLAIN = (int, float, str, bool, bytes, complex, type(None), torch.dtype, torch.device, type)
_DEEPEST, _LONGEST = 6, 1 << 16


def seen(value: Any, depth: int = 0) -> Any:
    """Something that can be hashed and compared."""
    if isinstance(value, Tensor):
        version = None if value.is_inference() else value._version
        return (id(value), address_of(value), value.dtype, version)
    if isinstance(value, PLAIN) or depth > _DEEPEST:
        return repr(value)
    if isinstance(value, nn.Module):  # what is inside it changes rarely, and may hold it in turn
        return (id(value), tuple((n, repr(v)) for n, v in vars(value).items() if isinstance(v, PLAIN)))
    if isinstance(value, (list, tuple)):
        return tuple(seen(v, depth + 1) for v in value)
    if isinstance(value, (set, frozenset)):
        return tuple(sorted(map(repr, value)))
    if isinstance(value, dict):
        return tuple((repr(k), seen(v, depth + 1)) for k, v in value.items())
    if isinstance(value, functools.partial):
        return seen((value.func, value.args, value.keywords), depth + 1)
    if isinstance(value, types.MethodType):
        return (id(value.__func__), seen(value.__self__, depth + 1))
    if isinstance(value, types.FunctionType):
        return (id(value), seen_by(value, depth + 1))
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        return (id(value), array.tobytes() if array.nbytes <= _LONGEST else None)
    if isinstance(value, types.ModuleType):
        return id(value)
    named = getattr(type(value), "__slots__", ())
    slots = {n: getattr(value, n) for n in ((named,) if isinstance(named, str) else named) if hasattr(value, n)}
    return (id(value), seen({**slots, **getattr(value, "__dict__", {})}, depth + 1))


def told(value: Any, depth: int = 0) -> str:
    """A plain value as text: of an object that has none of its own, what it holds."""
    named = getattr(type(value), "__repr__", None) is not getattr(object, "__repr__", None)
    if named or depth > _DEEPEST:
        return repr(value)
    held = ", ".join(f"{n}={told(v, depth + 1)}" for n, v in getattr(value, "__dict__", {}).items())
    return f"{type(value).__qualname__}({held})" if held else repr(value)


def own_classes(module: nn.Module) -> Iterator[type]:
    """The classes that say what a module computes, down to torch's own."""
    return (c for c in type(module).__mro__ if not c.__module__.startswith("torch.nn.") and c is not object)


def seen_by(function: types.FunctionType, depth: int = 0) -> Any:
    """What a function reads beside its arguments: its defaults, the variables around it, and globals that are values
    (not other functions or modules).
    """
    names = sorted({name for code in _codes(function.__code__) for name in code.co_names})
    read = {n: function.__globals__[n] for n in names if n in function.__globals__}
    values = {n: v for n, v in read.items() if not isinstance(v, (types.FunctionType, types.ModuleType, type))}
    around = [c.cell_contents for c in function.__closure__ or () if c != types.CellType()]  # some are not filled yet
    return tuple(seen(v, depth + 1) for v in (function.__defaults__, function.__kwdefaults__, around, values))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
