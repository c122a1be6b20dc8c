"""Symbols: what is known of symbolic sizes, told without their names.

A name is an accident of the model: with a mask beside the text, or an input that is called otherwise, the same sizes
are other symbols. What a function does with its arguments depends on the symbols in them and on those that share a
condition with these; not on others that a program may have.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from functools import lru_cache
from typing import Any

import torch

from lrp_fx.ir.sizes import printed

_WORD = re.compile(r"[A-Za-z_]\w*")
_NAMELESS = (int, float, bool, type(None), torch.dtype)


def unnamed(key: Any, environment: Any) -> tuple[Any, tuple[Any, ...]] | None:
    """``(key, symbols)``: the key with its symbols numbered in the order they appear in, beside all that is known of
    them; and the symbols by number.

    key: nested tuples; expressions in them as text. environment: what knows the symbols, None where sizes are numbers.
    Two keys are equal where they are one but for names, and the same is known of what is named. None where a condition
    is on what has no range.
    """
    if environment is None:
        return key, ()
    symbols = {str(s): s for s in environment.var_to_range}
    names = _Names(symbols)
    key = names.numbered(key)
    facts, order = _facts(*conditions(environment), tuple(names.numbers))
    if not symbols.keys() >= set(order):
        return None
    found = tuple(symbols[name] for name in order)
    return (key, tuple(_known_alone(s, environment) for s in found), facts), found


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


class _Names:
    """``numbers``: of those of ``known`` that were met, in the order they were met in."""

    def __init__(self, known: Container[str], met: Iterable[str] = ()) -> None:
        self.known = known
        self.numbers = {name: number for number, name in enumerate(met)}

    def numbered(self, part: Any) -> Any:
        """A part of a key with numbers for names; what holds a name elsewhere than in a text keeps it."""
        if type(part) is tuple:
            return tuple(map(self.numbered, part))
        if type(part) is str:
            return _WORD.sub(self._number, part)
        if type(part) in _NAMELESS:
            return part
        named = tuple(word for word in _WORD.findall(repr(part)) if word in self.known)
        return (part, named) if named else part

    def _number(self, match: re.Match[str]) -> str:
        name = match.group()
        return f"#{self.numbers.setdefault(name, len(self.numbers))}" if name in self.known else name


@lru_cache(maxsize=256)
def _facts(
    guards: tuple[Any, ...], replaced: frozenset[Any], divisible: frozenset[Any], met: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``(facts, names)``: conditions on symbols, and on those that are in a condition with them, with numbers for
    names; the names by number, those that were met first.
    """
    told = _told(guards, replaced, divisible)
    names = _Names(told, met)
    facts: dict[str, str] = {}
    for name in (reached := list(met)):  # grows
        for fact in told.get(name, ()):
            if fact not in facts:
                facts[fact] = names.numbered(fact)
                reached += [n for n in names.numbers if n not in reached]
    return tuple(facts.values()), tuple(names.numbers)


@lru_cache(maxsize=16)
def _told(guards: tuple[Any, ...], replaced: frozenset[Any], divisible: frozenset[Any]) -> dict[str, list[str]]:
    """The conditions as text by the symbols in them; of a symbol that another expression stands for, this expression
    alone. A condition that only says so is none.
    """
    instead = dict(replaced)
    held = [_settled(guard, instead) for guard in guards]
    zero = sorted((_settled(product, instead) for product in divisible), key=printed)
    told: dict[str, list[str]] = {printed(symbol): [f"{symbol} = {other}"] for symbol, other in instead.items()}
    for text, symbols in [*((printed(h), h.free_symbols) for h in held), *((f"{z} = 0", z.free_symbols) for z in zero)]:
        for symbol in symbols:
            told.setdefault(printed(symbol), []).append(text)
    for _, other in replaced:
        for symbol in other.free_symbols:
            told.setdefault(printed(symbol), [])
    return told


def _settled(expression: Any, instead: dict[Any, Any]) -> Any:
    """With nothing in it that another expression stands for; what does may be in another's place in turn."""
    for _ in instead:
        if expression.free_symbols.isdisjoint(instead):
            break
        expression = expression.xreplace(instead)
    return expression
