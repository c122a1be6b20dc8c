"""All operations, found in their families by being there."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from testing.fuzz import families


@dataclass(frozen=True)
class Operation:
    """A function of the weights of its step and of one or two values (and the mask of the text)."""

    name: str
    family: str
    function: Callable[..., Tensor]
    values: int
    masked: bool
    narrow: bool
    spellings: tuple[str, ...]


def _of(family: str) -> list[Operation]:
    module = importlib.import_module(f"{families.__name__}.{family}")
    found = []
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ != module.__name__ or name.startswith("_"):
            continue
        wants = list(inspect.signature(function).parameters)
        spellings = next((group for group in getattr(module, "SAME", ()) if name in group), ())
        narrow = name in getattr(module, "NARROW", ())
        values = sum(p in ("x", "y") for p in wants)
        found.append(Operation(name, family, function, values, "mask" in wants, narrow, tuple(spellings)))
    return sorted(found, key=lambda o: o.name)


#: By family, and by name.
FAMILIES = {m.name: _of(m.name) for m in sorted(pkgutil.iter_modules(families.__path__), key=lambda m: m.name)}
OPERATIONS = {o.name: o for family in FAMILIES.values() for o in family}
