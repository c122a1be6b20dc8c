"""Same attributes: after an export the modules of a model hold the very objects that they held before.

`torch.export` puts back what attributes were, but containers as copies: somebody who holds the list that is in a model
would change it to no effect from then on.

requires  a module, about to be exported
ensures   afterwards its attributes that are containers are those from before, and hold what they held
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch import nn

from lrp_fx.ir.undo import surely

_STANDARD = frozenset(vars(nn.Module()))
_DEEPEST = 32


@contextlib.contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """While inside, a module may be exported."""
    held = [(vars(m), n, v) for m in model.modules() for n, v in vars(m).items() if n not in _STANDARD]
    contents = {id(c): (c, _copied(c)) for _, _, value in held for c in _containers(value, 0)}

    def restore() -> None:
        for attributes, name, value in held:
            now = attributes.get(name)
            if now is not value and type(now) is type(value) and hasattr(value, "__len__"):
                attributes[name] = value
        for container, before in contents.values():
            _refill(container, before)

    try:
        yield
    finally:
        surely(restore)


def _containers(value: Any, depth: int) -> Iterator[Any]:
    """Those that may be written to, all the way down."""
    if depth > _DEEPEST or not isinstance(value, (dict, list, tuple, deque)):
        return
    if not isinstance(value, tuple):
        yield value
    for each in list(value.values() if isinstance(value, dict) else value):
        yield from _containers(each, depth + 1)


def _copied(container: Any) -> list[Any]:
    return list(container.items() if isinstance(container, dict) else container)


def _refill(container: Any, before: list[Any]) -> None:
    now = _copied(container)
    if len(now) == len(before) and all(a is b or _is_one_pair(a, b) for a, b in zip(now, before, strict=True)):
        return
    container.clear()
    if isinstance(container, dict):
        container.update(before)
    else:
        container.extend(before)


def _is_one_pair(a: Any, b: Any) -> bool:
    """Are two items of a dictionary one? (Pairs are made whenever they are asked for.)"""
    pairs = type(a) is tuple and type(b) is tuple and len(a) == len(b) == 2
    return pairs and a[0] is b[0] and a[1] is b[1]
