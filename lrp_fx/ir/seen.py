"""Seen: what can be told of a plain value.

requires  any value
ensures   equal texts for one value as long as nobody has changed what can be seen
"""

from __future__ import annotations

from typing import Any

_DEEPEST = 6


def told(value: Any, depth: int = 0) -> str:
    """A plain value as text: of an object that has none of its own, what it holds."""
    named = getattr(type(value), "__repr__", None) is not getattr(object, "__repr__", None)
    if named or depth > _DEEPEST:
        return repr(value)
    held = ", ".join(f"{n}={told(v, depth + 1)}" for n, v in getattr(value, "__dict__", {}).items())
    return f"{type(value).__qualname__}({held})" if held else repr(value)
