"""Values: single entries of a data set, however the library that holds them writes numbers, names and nothing.

requires  an entry of a row
ensures   a plain value, the same for the same entry from a list, a file, a data frame or a tensor; an `InputError` that
          says what it is else
"""

from __future__ import annotations

import math
import re
from numbers import Integral
from typing import Any

from lrp_fx.errors import InputError

_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")
_NOTHING = frozenset({"NAType", "NaTType"})


class Texts(dict[str, Any]):
    """A row of a file that holds texts only (CSV): what looks like a whole number is one."""


def plain(value: Any) -> Any:
    """A number of a tensor, an array or another library as Python's own; anything else as it is."""
    if hasattr(value, "item") and getattr(value, "size", None) is not None:
        try:
            return value.item()
        except (ValueError, RuntimeError):  # more than one number
            return value
    return value


def is_nothing(value: Any) -> bool:
    """Is it how a missing entry is written: null, NaN, or pandas' own?"""
    found = plain(value)
    return found is None or type(found).__name__ in _NOTHING or (isinstance(found, float) and math.isnan(found))


def whole_number(text: str) -> int | None:
    """The number that a text is, None where it is none: digits with a sign or without, perhaps as ``3.0``."""
    bare = text.strip()
    return int(bare.partition(".")[0]) if _WHOLE.fullmatch(bare) else None


def id_of(value: Any) -> str | None:
    """What a row is called; None where the entry is missing. A column of whole numbers that has gaps is one of floats
    in pandas: 10.0 is called 10.
    """
    if is_nothing(value):
        return None
    found = plain(value)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    return writable(str(found))


def writable(text: str) -> str:
    """The text, with escapes for halves of characters (from broken JSON, mostly), which no file can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def target_of(value: Any, texts: bool = False) -> int | str:
    """A class by number or by name; ``texts``: does its file hold texts only? Raises `InputError` for anything else."""
    if is_nothing(value) or (texts and not str(value).strip()):
        raise InputError("the row has no target: its entry is missing")
    found = plain(value)
    if isinstance(found, str):
        number = whole_number(found) if texts else None
        return found if number is None else number
    if isinstance(found, float) and found.is_integer():  # what pandas makes of whole numbers beside a missing one
        return int(found)
    try:
        return int(found.__index__())
    except (AttributeError, TypeError):
        what = repr(found) if isinstance(found, float) else type(found).__name__
        raise InputError(f"a target is a whole number or a name, this is {what}") from None


def numbers_of(values: Any, name: str) -> list[int]:
    """Whole numbers, one for each token; raises `InputError` for anything else."""
    found = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(found, (list, tuple)) or not all(isinstance(v, Integral) for v in found):
        raise InputError(f"{name} is no list of whole numbers")
    return [int(v) for v in found]
