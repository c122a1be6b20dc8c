"""Own state: what functions write into what they are given, told from their code: counters, caches.

requires  functions, by the names they are called with
ensures   names that are assigned to (``self.calls += 1``), and names of containers and tensors that are written into
          (``self.cache[key] = x``, ``self.seen.append(x)``, ``self.count.add_(1)``); code in C says nothing
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from lrp_fx.ir.contents import is_given

_WRITES = frozenset(
    "append appendleft extend extendleft insert add update setdefault pop popleft popitem remove discard clear sort "
    "reverse move_to_end copy_".split()
)
_DEEPEST = 4
_SETTERS = frozenset({"register_buffer", "__setattr__", "setattr", "__dict__"})


class Written(NamedTuple):
    """``set``: attributes that are assigned to. ``filled``: names of what is written into. ``called``: all names that
    the code has, some of which are methods it calls.
    """

    set: frozenset[str]
    filled: frozenset[str]
    called: frozenset[str]


@functools.lru_cache(maxsize=8192)
def written_by(code: types.CodeType) -> Written:
    """What one piece of code, with the functions inside it, writes."""
    assigned: set[str] = set()
    filled: set[str] = set()
    called = set(code.co_names)
    line: list[str] = []
    before = ""
    for step in dis.get_instructions(code):
        name = step.argval if isinstance(step.argval, str) else ""
        if step.starts_line:
            line = []
        if step.opname in ("STORE_ATTR", "DELETE_ATTR"):
            assigned.add(name)
        elif step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR"):
            filled.update(line)
        elif step.opname.startswith(("LOAD_ATTR", "LOAD_METHOD")) and before and _writes(name):
            filled.add(before)
        if step.opname.startswith("LOAD") and step.opname != "LOAD_CONST" and name:
            line.append(name)
            before = name
        elif step.opname != "PUSH_NULL":
            before = ""
    if _SETTERS & called:
        assigned.update(c for c in code.co_consts if isinstance(c, str) and c.isidentifier())
    found = [Written(frozenset(assigned), frozenset(filled), frozenset(called))]
    found += [written_by(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return joined(found)


def _writes(method: str) -> bool:
    return method in _WRITES or (method.endswith("_") and not method.endswith("__"))


def joined(found: Iterable[Written]) -> Written:
    """All of them in one."""
    parts = list(found)
    return Written(*(frozenset().union(*(part[k] for part in parts)) for k in range(3)))


def codes_of(value: Any, depth: int = 0) -> Iterator[types.CodeType]:
    """The code of what may stand in a class: functions, methods of any kind, properties; and what they wrap."""
    inner = [getattr(value, name, None) for name in ("fget", "__func__", "func", "__wrapped__")]
    if isinstance(value, types.FunctionType):
        yield value.__code__
        inner += [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
    for each in inner if depth < _DEEPEST else ():
        if isinstance(each, (types.FunctionType, types.MethodType, functools.partial)):
            yield from codes_of(each, depth + 1)


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


@functools.lru_cache(maxsize=2048)
def methods_of(kind: type) -> dict[str, tuple[types.CodeType, ...]]:
    """The code behind each name of a class, its own and those that it inherits (of torch's and Python's: none)."""
    found: dict[str, tuple[types.CodeType, ...]] = {}
    for each in [k for k in reversed(kind.__mro__) if not is_given(k)]:
        for name, value in vars(each).items():
            if code := tuple(dict.fromkeys(codes_of(value))):
                found[name] = code
    return found


def written_when_run(kind: type, begin: frozenset[str]) -> Written:
    """What an object of a class writes when the methods ``begin`` are called, and those that they call by name."""
    known: Any = kind  # mypy does not take classes of modules for hashable
    return _written_when_run(known, begin)


@functools.lru_cache(maxsize=2048)
def _written_when_run(kind: Any, begin: frozenset[str]) -> Written:
    methods = methods_of(kind)
    waiting, seen, found = [n for n in begin if n in methods], set(begin), []
    while waiting:
        for code in methods[waiting.pop()]:
            found.append(written_by(code))
            more = (found[-1].called & methods.keys()) - seen
            seen |= more
            waiting += more
    return joined([*found, Written(frozenset(), frozenset(), frozenset())])
