"""Symbols: what is known of symbolic sizes, told without their names.

A name is an accident of the model: with a mask beside the text, or an input that is called otherwise, the same sizes
are other symbols. What a function does with its arguments depends on the symbols in them and on those that share a
condition with these; not on others that a program may have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch

from lrp_fx.ir.sizes import printed

_WORD = re.compile(r"[A-Za-z_]\w*")
_NAMELESS = (int, float, bool, type(None), torch.dtype)


def unnamed(key: Any, environment: Any) -> tuple[Any, tuple[Any, ...]]:
    """``(key, symbols)``: the key with its symbols numbered in the order they appear in, beside all that is known of
    them; and the symbols by number.

    key: nested tuples; expressions in them as text. environment: what knows the symbols, None where sizes are numbers.
    Two keys are equal where they are one but for names, and the same is known of what is named.
    """
    if environment is None:
        return key, ()
    order = _Order(environment)
    key = order.numbered(key)
    facts = order.facts()  # may number some more
    symbols = tuple(order.symbols[name] for name in order.numbers)
    return (key, tuple(_known_alone(s, environment) for s in symbols), facts), symbols


def traced_sizes(environment: Any) -> Any:
    """The number behind each symbol; its name changed with torch 2.11."""
    name = "backed_var_to_val" if hasattr(environment, "backed_var_to_val") else "var_to_val"
    return getattr(environment, name)


def conditions(environment: Any) -> tuple[Any, ...]:
    """All that is known beside ranges and traced sizes; grows when something is decided by a size."""
    guards = tuple(guard.expr for guard in environment.guards)
    return guards, frozenset(environment.replacements.items()), frozenset(environment.divisible)


def _known_alone(symbol: Any, environment: Any) -> tuple[Any, ...]:
    values = environment.var_to_range[symbol]
    return traced_sizes(environment)[symbol], values.lower, values.upper, symbol.is_integer, symbol.is_positive


class _Order:
    """``numbers``: of symbols by name, in the order they were met in."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.symbols = {str(s): s for s in environment.var_to_range}
        self.numbers: dict[str, int] = {}

    def numbered(self, part: Any) -> Any:
        """A part of a key with numbers for names; what holds a name elsewhere than in a text keeps it."""
        if type(part) is tuple:
            return tuple(map(self.numbered, part))
        if type(part) is str:
            return _WORD.sub(self._number, part)
        if type(part) in _NAMELESS:
            return part
        named = tuple(word for word in _WORD.findall(repr(part)) if word in self.symbols)
        return (part, named) if named else part

    def facts(self) -> tuple[Any, ...]:
        """Conditions on the symbols met, and on those that are in a condition with them; what stands for a symbol."""
        texts, stands_for = _told(*conditions(self.environment))
        known: list[str] = []
        while found := next(self._reached(texts, stands_for, known), None):
            known.append(found)
            self.numbered(found)
        return tuple(map(self.numbered, known))

    def _reached(self, texts: list[str], stands_for: dict[str, str], known: list[str]) -> Iterator[str]:
        yield from (t for name in self.numbers if (t := stands_for.get(name)) is not None and t not in known)
        yield from (t for t in texts if t not in known and not self.numbers.keys().isdisjoint(_WORD.findall(t)))

    def _number(self, match: re.Match[str]) -> str:
        name = match.group()
        return f"#{self.numbers.setdefault(name, len(self.numbers))}" if name in self.symbols else name


@lru_cache(maxsize=64)
def _told(guards: tuple[Any, ...], replaced: frozenset[Any], divisible: frozenset[Any]) -> tuple[list[str], Any]:
    """The conditions as text, and by name what stands for a symbol; a condition that only says so is none."""
    instead = dict(replaced)
    conditions = [printed(_settled(guard, instead)) for guard in guards]
    products = sorted(printed(_settled(d, instead)) for d in divisible)
    return [*(c for c in conditions if c != "True"), *(f"{p} = 0" for p in products)], {
        printed(a): f"{a} = {b}" for a, b in instead.items()
    }


def _settled(expression: Any, instead: dict[Any, Any]) -> Any:
    """With nothing in it that another expression stands for; what does may be in another's place in turn."""
    while not expression.free_symbols.isdisjoint(instead):
        expression = expression.xreplace(instead)
    return expression
