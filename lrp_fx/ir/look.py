"""Look: what a model holds at one moment, all the way down, to be compared with what it holds later.

Followed are its modules, their classes, and whatever their attributes hold: containers, objects, functions with all
that they read. At most `DEEPEST` levels below a module, at most `LONGEST` values of a container, and, beside the
modules and their own dictionaries, at most `MOST` things, the nearest first: of a data set that a model holds not all
is seen. Arrays are compared up to `BYTES` of one (`FEW` where there are many), arrays and tensors up to `NUMBERS`.

requires  a model
ensures   a comparison takes some tenths of a millisecond for a model of 300 modules
"""

from __future__ import annotations

import itertools
import operator
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sized
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from lrp_fx.ir.contents import (
    PLAIN,
    Part,
    code_text,
    globals_reached,
    has_state,
    is_closed,
    is_descriptor,
    is_given,
    of_all_modules,
    of_class,
    of_given_class,
    own_classes,
    parts,
    same,
    state,
)

DEEPEST, LONGEST, MOST = 8, 1024, 2048
BYTES, FEW, NUMBERS = 1 << 16, 1 << 10, 512
#: A module or a class by name, then attributes and keys.
Place: TypeAlias = tuple[str, ...]
_MANY = 16  # arrays
_END = object()


class _Held(NamedTuple):
    """A part at a place, and what it held."""

    place: Place
    part: Part
    names: tuple[Any, ...] | None
    values: tuple[Any, ...]


class Look:
    """``modules``: the places of all modules by identity (they are held)."""

    def __init__(self, model: nn.Module) -> None:
        self.modules: dict[int, Place] = {}
        self._held: list[_Held] = []
        self._leaves: list[tuple[Place, Any, int, Any]] = []
        self._objects: list[Any] = []
        self._places: list[Place] = []
        self._known: set[int] = {id(t) for t in (*model.parameters(), *model.buffers())}  # weights are looked at apart
        self._left = MOST
        self._waiting: deque[tuple[Place, Any, int]] = deque()
        for name, module in model.named_modules():
            self._known.add(id(module))
            self._waiting.append(((name or "the model",), module, 0))
        for part in of_all_modules():
            self._hold(("all modules",), part, 0)
        for kind in dict.fromkeys(kind for module in model.modules() for kind in type(module).__mro__):
            if is_given(kind) and issubclass(kind, nn.Module):
                self._hold((f"class {kind.__qualname__}",), of_given_class(kind), 0, inside_class=True)
        kinds = dict.fromkeys(kind for module in model.modules() for kind in own_classes(module))
        for part in globals_reached([*kinds]):
            self._hold(("Python modules",), part, 0, inside_class=True)
        while self._waiting:
            self._open(*self._waiting.popleft())
        self._arrange()

    # -------------------------------------------------------------------------------------------- looking
    def _open(self, place: Place, value: Any, depth: int) -> None:
        if isinstance(value, nn.Module):
            self.modules[id(value)] = place
        if has_state(value):
            if len(self._leaves) < NUMBERS:
                whole = BYTES if len(self._leaves) < _MANY else FEW
                self._leaves.append((place, value, whole, state(value, whole)))
            return
        for part in parts(value):
            self._hold(place, part, depth)
        if type(value).__module__ != "builtins":
            if hasattr(value, "__dict__"):
                self._objects.append(value)
                self._places.append(place)
            for kind in own_classes(value):
                if id(kind) not in self._known:
                    self._known.add(id(kind))
                    self._hold((f"class {kind.__qualname__}",), of_class(kind), depth, inside_class=True)

    def _hold(self, place: Place, part: Part, depth: int, *, inside_class: bool = False) -> None:
        part = _shortened(part)
        names = None if part.names is None else tuple(part.names)
        values = tuple(part.values)
        self._held.append(_Held(place, part, names, values))
        of_module = depth == 0 and not inside_class
        for name, value in zip(names if names is not None else range(len(values)), values, strict=False):
            if isinstance(value, PLAIN) or id(value) in self._known or depth >= DEEPEST:
                continue
            if (type(value) is dict or type(value) is OrderedDict) and not value:  # most of what modules hold
                self._known.add(id(value))
                empty = Part(value.keys(), value.values(), fixed=False, into=value)
                self._held.append(_Held((*place, _step(name, part)), empty, (), ()))
                continue
            if is_closed(value) or self._left <= 0 or (inside_class and _is_of_class(name, value)):
                continue
            self._known.add(id(value))
            self._left -= not of_module
            self._waiting.append(((*place, _step(name, part)), value, depth + 1))

    def _arrange(self) -> None:
        """What is compared at each check, in one row: names and values of all parts, one behind the other."""
        rows = [each.part.names if each.part.names is not None else each.part.values for each in self._held]
        self._sized = [row for row in rows if isinstance(row, Sized)]
        self._sizes = list(map(len, self._sized))
        filled = [each for each in self._held if each.values]
        self._live: list[Iterable[Any]] = [
            row for each in filled for row in (each.part.names, each.part.values) if row is not None
        ]
        self._live.append((_END,))
        self._flat = [value for each in filled for row in (each.names, each.values) if row is not None for value in row]
        self._flat.append(_END)
        self._kinds = [type(each) for each in self._objects]
        self._dictionaries = [vars(each) for each in self._objects]

    # -------------------------------------------------------------------------------------------- comparing
    def changed(self) -> bool:
        """Is anything other than it was?"""
        if self._is_one():
            return False
        if any(True for _ in self._differing()):
            return True
        self._arrange_anew()  # others, but equal ones
        return False

    def _is_one(self) -> bool:
        try:
            if list(map(len, self._sized)) != self._sizes:
                return False
            alike = all(map(operator.is_, itertools.chain.from_iterable(self._live), self._flat))
        except RuntimeError:  # somebody else writes to it this moment
            return False
        alike = alike and list(map(type, self._objects)) == self._kinds
        alike = alike and all(map(operator.is_, map(vars, self._objects), self._dictionaries))
        return alike and all(state(value, whole) == held for _, value, whole, held in self._leaves)

    def _arrange_anew(self) -> None:
        self._flat = list(itertools.chain.from_iterable(self._live))

    def places(self) -> list[Place]:
        """Where it is other than it was. Of a container whose names are others the place of the container."""
        return list(dict.fromkeys(self._differing()))

    def _differing(self) -> Iterator[Place]:
        for each in self._held:
            names = None if each.part.names is None else tuple(each.part.names)
            values = tuple(each.part.values)
            if len(values) == len(each.values) and all(map(operator.is_, values, each.values)) and names == each.names:
                continue
            if names is None or each.names is None:
                if len(values) != len(each.values) or not all(map(same, values, each.values)):
                    yield each.place
                continue
            if names != each.names and not each.part.fixed:
                yield each.place
            now, then = dict(zip(names, values, strict=False)), dict(zip(each.names, each.values, strict=False))
            for name in dict.fromkeys([*then, *now]):
                both = name in now and name in then
                if (each.part.fixed and not both) or (both and not same(now[name], then[name])):
                    yield (*each.place, _step(name, each.part))
        yield from (place for place, value, whole, held in self._leaves if state(value, whole) != held)
        for place, each, kind, held_in in zip(
            self._places, self._objects, self._kinds, self._dictionaries, strict=True
        ):
            if type(each) is not kind or vars(each) is not held_in:
                yield (*place, ".__class__")

    def plain(self, places: Iterable[Place]) -> list[tuple[Place, dict[Any, Any], Any, Any]]:
        """Of these places those that hold another plain value in a dictionary: the dictionary, the name, and the value
        that it had.
        """
        wanted = set(places)
        return [
            (place, each.part.into, name, value)
            for each in self._held
            if each.part.into is not None and each.names is not None
            for name, value in zip(each.names, each.values, strict=True)
            if isinstance(value, PLAIN) and isinstance(each.part.into.get(name, _END), PLAIN)
            if (place := (*each.place, _step(name, each.part))) in wanted
        ]

    # -------------------------------------------------------------------------------------------- telling
    def print(self) -> Any:
        """All that it held, as something that holds none of it: equal for a model that nobody has changed."""
        held = [(e.place, tuple(map(_described, e.names or ())), tuple(map(_described, e.values))) for e in self._held]
        return (tuple(held), tuple((place, then) for place, _, _, then in self._leaves))


def _is_of_class(name: Any, value: Any) -> bool:
    """Is it what a class is made of, and no value of its own?"""
    return str(name).startswith("__") or is_descriptor(value)


class _First:
    """The first of many, whenever they are asked for."""

    def __init__(self, values: Iterable[Any]) -> None:
        self.values = values

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.values), LONGEST)

    def __len__(self) -> int:
        return len(self.values)  # type: ignore[arg-type]


def _shortened(part: Part) -> Part:
    size = len(part.values) if isinstance(part.values, Sized) else 0
    if size <= LONGEST:
        return part
    names = None if part.names is None else _First(part.names)
    return Part(names, _First(part.values), part.fixed, part.into)


def _step(name: Any, part: Part) -> str:
    return f".{name}" if part.fixed else f"[{name!r}]"


def _described(value: Any) -> Any:
    """Without holding it: what others are is told by what they hold, and by their address."""
    if isinstance(value, type):
        return id(value)
    if isinstance(value, PLAIN):
        return (type(value).__qualname__, repr(value))
    if hasattr(value, "co_code"):
        return code_text(value)
    if isinstance(value, Tensor):
        return (id(value), state(value))
    return (type(value).__qualname__, id(value))


def in_words(places: Iterable[Place]) -> tuple[str, ...]:
    """By module (or class): its attributes that are others."""
    found: dict[str, list[str]] = {}
    for root, *steps in places:
        found.setdefault(root, []).append("".join(steps).removeprefix("."))
    return tuple(f"{root}: {', '.join(filter(None, names))}" for root, names in found.items())
