"""Contents: what decides what a Python value does, one level deep, now and whenever it is asked again.

requires  any value
ensures   `parts` of containers, functions, partials, methods, modules and other objects are read anew each time; values
          without parts have a state that is another after they were written to. What is not followed: Python modules,
          what the standard library, numpy and torch keep for themselves, and objects of this package
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as every

from lrp_fx.ir.sparse import address_of

#: Values that are what they say, whoever holds them.
PLAIN = (int, float, str, bool, bytes, complex, type(None), torch.dtype, torch.device, type)
#: Bytes up to which arrays are compared as a whole; of longer ones as many, at even distances, and their ends.
WHOLE = 1 << 16
_MISSING = object()
_OPEN = frozenset({"collections", "types", "functools", "argparse", "dataclasses", "__main__"})
_CLOSED_PLACES = ("numpy", "lrp_fx", "torch.fx", "torch._", "torch.jit", "torch.export", "torch.utils.hooks")
_CLOSED = (
    *(types.ModuleType, types.BuiltinFunctionType, types.CodeType, types.GeneratorType, types.MemberDescriptorType),
    *(types.GenericAlias, types.UnionType),  # annotations
    *(torch.Generator, torch.Size, torch.SymInt, torch.SymFloat, torch.SymBool),
)


class Part(NamedTuple):
    """Some of what a value is made of. ``names`` and ``values`` are live: read again, they say what is there then.

    ``names``: None where they are places in a row. ``fixed``: are the names attributes, none of which is added by way
    of what the value holds? ``into``: the dictionary that they are in, if they are in one.
    """

    names: Iterable[Any] | None
    values: Iterable[Any]
    fixed: bool = True
    into: dict[Any, Any] | None = None


class _Fields:
    """Attributes that have no dictionary, read when they are asked for."""

    def __init__(self, owner: Any, names: Sequence[str], read: Sequence[Any]) -> None:
        self.owner, self.names, self.read = owner, names, read

    def __iter__(self) -> Iterator[Any]:
        for one in self.read:
            try:
                yield one(self.owner)
            except (AttributeError, ValueError):  # a slot or a cell that is not filled yet
                yield _MISSING


def parts(value: Any) -> list[Part]:
    """What a value is made of; nothing for one that is closed, or has a `state`."""
    if isinstance(value, PLAIN) or has_state(value) or is_closed(value):
        return []
    if isinstance(value, types.FunctionType):
        return _of_function(value)
    found = []
    if isinstance(value, dict):
        found.append(Part(dict.keys(value), dict.values(value), fixed=False, into=value))
    elif isinstance(value, types.MappingProxyType):
        found.append(Part(value.keys(), value.values(), fixed=False))
    elif isinstance(value, (list, tuple, deque)):
        found.append(Part(None, value, fixed=False))
    elif isinstance(value, (set, frozenset)):
        found.append(Part(None, _Sorted(value), fixed=False))
    elif isinstance(value, functools.partial):
        found.append(_fields(value, "func", "args", "keywords"))
    elif isinstance(value, types.MethodType):
        return [_fields(value, "__func__", "__self__")]
    if type(value) in _BARE:
        return found
    held = getattr(value, "__dict__", None)
    if isinstance(held, dict):
        found.append(Part(held.keys(), held.values(), into=held))
    kind: Any = type(value)
    slots = _slots(kind)
    if slots:
        found.append(Part([*slots], _Fields(value, [*slots], [d.__get__ for d in slots.values()])))
    return found


def of_class(value: type) -> Part:
    """What a class says of its objects: functions by identity."""
    return Part(vars(value).keys(), vars(value).values())


def of_given_class(value: type) -> Part:
    """What one of torch's classes of modules computes, which others may put another function in place of."""
    return Part(("forward",), _Fields(value, ("forward",), [lambda kind: vars(kind).get("forward")]))


def of_all_modules() -> list[Part]:
    """The hooks that run in every module there is."""
    hooks = [
        getattr(every, name) for name in ("_global_forward_pre_hooks", "_global_forward_hooks") if hasattr(every, name)
    ]
    return [Part(held.keys(), held.values(), fixed=False, into=held) for held in hooks]


def _fields(value: Any, *names: str) -> Part:
    return Part(names, _Fields(value, names, [_getter(name) for name in names]))


def _getter(name: str) -> Any:
    return lambda owner: getattr(owner, name)


@functools.lru_cache(maxsize=4096)
def _slots(kind: Any) -> dict[str, Any]:
    """What reads the attributes that objects of a class have beside their dictionary."""
    classes = [c for c in kind.__mro__ if "__slots__" in vars(c)]
    return {n: d for c in classes for n, d in vars(c).items() if isinstance(d, types.MemberDescriptorType)}


class _Sorted:
    """A set in an order that is the same whenever it holds the same."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(self.held, key=lambda v: (type(v).__qualname__, repr(v))))


def _of_function(function: types.FunctionType) -> list[Part]:
    """Its code, its defaults, what was set of it, the variables around it, and globals that are values (not other
    functions, modules or classes).
    """
    names = ("__code__", "__defaults__", "__kwdefaults__", "__dict__")
    found = [_fields(function, *names)]
    around = function.__closure__ or ()
    if around:
        cells = _Fields(around, function.__code__.co_freevars, [_of_cell(place) for place in range(len(around))])
        found.append(Part(cells.names, cells))
    read = globals_read(function)
    if read:
        values = _Fields(function.__globals__, read, [_of_global(name) for name in read])
        found.append(Part(read, values))
    return found


def _of_cell(place: int) -> Any:
    return lambda around: around[place].cell_contents


def _of_global(name: str) -> Any:
    return lambda held: held.get(name, _MISSING)


def globals_reached(kinds: Sequence[type]) -> list[Part]:
    """What the forwards of classes look up in their Python modules: numbers, containers, and functions and classes,
    which others may be put in the place of. Reached are their forwards, the methods of any of them that have a name
    which is used there, and functions of the same Python module.
    """
    methods: dict[str, list[Any]] = {}
    for name, value in (item for kind in kinds for item in vars(kind).items()):
        methods.setdefault(name, []).append(inspect.unwrap(_function_of(value)))
    found: dict[int, tuple[dict[str, Any], dict[str, None]]] = {}
    waiting, seen = methods.pop("forward", []), set()
    while waiting:
        function = waiting.pop()
        if not isinstance(function, types.FunctionType) or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        held, used = function.__globals__, [n for code in _codes(function.__code__) for n in code.co_names]
        names = [n for n in used if n in held]
        found.setdefault(id(held), (held, {}))[1].update(dict.fromkeys(names))
        called = [inspect.unwrap(held[n]) for n in names if isinstance(held[n], types.FunctionType)]
        waiting += [f for f in called if getattr(f, "__globals__", None) is held]
        waiting += [f for n in used for f in methods.pop(n, [])]
    return [Part([*names], _Fields(held, [*names], [_of_global(n) for n in names])) for held, names in found.values()]


def _function_of(value: Any) -> Any:
    """The function behind a method, a property or a class method; else the value."""
    return getattr(value, "fget", None) or getattr(value, "__func__", None) or value


def globals_read(function: types.FunctionType) -> list[str]:
    """The names of globals that are values, among all that its code names."""
    names = sorted({name for code in _codes(function.__code__) for name in code.co_names})
    held = function.__globals__
    other = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
    return [n for n in names if n in held and not isinstance(held[n], other)]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def code_text(code: types.CodeType) -> str:
    """What code does, as text without addresses, the same in every process."""
    constants = [code_text(c) if isinstance(c, types.CodeType) else _constant(c) for c in code.co_consts]
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return f"{code.co_name} {code.co_code.hex()} {names} {code.co_flags} {constants}"


def _constant(value: Any) -> str:
    """Strings in a set have another order in each process."""
    if isinstance(value, frozenset):
        return f"frozenset {sorted(map(_constant, value))}"
    if isinstance(value, tuple):
        return f"tuple {list(map(_constant, value))}"
    return f"{type(value).__name__} {value!r}"


# ------------------------------------------------------------------------------------------------ without parts
def has_state(value: Any) -> bool:
    """Is it a tensor, an array or bytes: numbers that may be written to in place?"""
    return isinstance(value, (Tensor, np.ndarray, np.generic, bytearray, memoryview))


def state(value: Any, whole: int = WHOLE) -> Any:
    """Of a tensor where it lies and its version; of others their numbers (of those of more bytes some)."""
    if isinstance(value, Tensor):
        return (_place(value), value.dtype, None if value.is_inference() else value._version)
    if isinstance(value, (np.ndarray, np.generic)):
        return (value.shape, value.dtype, _bytes(np.asarray(value), whole))
    return _bytes(np.frombuffer(value, np.uint8), whole) if len(value) else b""


def _place(tensor: Tensor) -> int | None:
    try:
        return address_of(tensor)
    except (RuntimeError, NotImplementedError):  # it lies nowhere, or in several places
        return None


def _bytes(array: Any, whole: int) -> bytes:
    if array.nbytes <= whole:
        return bytes(array.tobytes())
    flat = array.reshape(-1)  # a view where that can be
    step = flat.size // max(whole // array.itemsize, 1) + 1
    return bytes(flat[::step].tobytes() + flat[-1:].tobytes())


def is_closed(value: Any) -> bool:
    """Is it something that says nothing of what it is made of, or changes by itself (a lock, a logger)?"""
    if isinstance(value, _CLOSED):
        return True
    if has_state(value) or (isinstance(value, nn.Module) and not isinstance(value, torch.jit.ScriptModule)):
        return False
    kind: Any = type(value)
    return _is_closed_class(kind)


@functools.lru_cache(maxsize=4096)
def _is_closed_class(kind: Any) -> bool:
    if kind.__module__ == "builtins":
        return kind not in _BUILTIN
    place = kind.__module__.split(".", maxsplit=1)[0]
    if place in sys.stdlib_module_names:
        return place not in _OPEN
    return kind.__module__.startswith(_CLOSED_PLACES) and kind.__module__.split(".")[0] in ("numpy", "lrp_fx", "torch")


#: Containers that are nothing but what they hold.
_BARE = frozenset({dict, list, tuple, set, frozenset, types.MappingProxyType, OrderedDict, deque})
_BUILTIN = (dict, list, tuple, set, frozenset, types.FunctionType, types.MethodType, types.MappingProxyType)


def own_classes(module: Any) -> Iterator[type]:
    """The classes that say what a module (or another object) computes, down to torch's and Python's own."""
    return (c for c in type(module).__mro__ if not is_given(c))


@functools.lru_cache(maxsize=4096)
def is_given(kind: type) -> bool:
    """Is a class torch's or Python's own?"""
    place = kind.__module__.split(".", maxsplit=1)[0]
    return kind.__module__.startswith("torch.nn.") or place in ("builtins", "numpy") or place in _STANDARD


_STANDARD = sys.stdlib_module_names - {"__main__"}


def same(a: Any, b: Any) -> bool:
    """Are two values one, or of one type that is what it says and equal?"""
    if a is b:
        return True
    if type(a) is not type(b) or not (isinstance(a, PLAIN) or _is_method(a) or is_closed(a)):
        return isinstance(a, (tuple, frozenset)) and type(a) is type(b) and _all_same(a, b)
    try:
        return bool(a == b) and str(a) == str(b)  # zero has two signs
    except Exception:  # what cannot be compared is another
        return False


def _is_method(value: Any) -> bool:
    return isinstance(value, types.MethodType)


def _all_same(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(itertools.starmap(same, zip(a, b, strict=True)))


def is_descriptor(value: Any) -> bool:
    """Is it, in a class, something that is called or read, and no value of its own?"""
    return inspect.isroutine(value) or isinstance(value, (property, staticmethod, classmethod))
