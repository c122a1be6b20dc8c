"""Arguments: the tensors of a forward call by name, however they are nested, and the way back to the call.

Tensors in dictionaries, lists, tuples and dataclasses get dotted names: ``batch.input_ids``, ``views.0``.

Their roles (content, position, segment or mask) are read from name and type, and always printed.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

#: A dot cannot be part of a Python name, and the tracer wants Python names.
_DOT = "__"


def flatten(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Every tensor of a call by its dotted name, and the plain values beside them."""
    return {name: value for argument, tree in arguments.items() for name, value in _leaves(argument, tree)}


def is_nested(arguments: Mapping[str, Any]) -> bool:
    """Is there a tensor inside a container?"""
    return any(name not in arguments for name in flatten(arguments))


def last_word(name: str) -> str:
    """The part of a dotted name that says what the value is: numbers in lists say nothing."""
    parts = [p for p in name.split(".") if not p.isdigit()]
    return parts[-1] if parts else name


class Flattened(nn.Module):
    """A model called with the flat names of a nested call; its own forward is given the containers it expects."""

    def __init__(self, model: nn.Module, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.template = dict(arguments)
        self.names = {
            traceable_name(name): name for name, value in flatten(arguments).items() if isinstance(value, Tensor)
        }
        self.train(model.training)

        def forward(**values: Any) -> Any:
            flat = {self.names.get(name, name): value for name, value in values.items()}
            return self.model(**{argument: _rebuild(argument, tree, flat) for argument, tree in self.template.items()})

        # The tracer reads the names from the signature.
        forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in self.names]
        )
        self.forward = forward


def traceable_name(name: str) -> str:
    """The name as a Python name."""
    return name.replace(".", _DOT)


def _children(tree: Any) -> list[tuple[str, Any]] | None:
    """Named children of a container, None for a leaf."""
    if isinstance(tree, Mapping):
        return [(str(k), v) for k, v in tree.items()]
    if isinstance(tree, (list, tuple)):
        return list(zip(getattr(tree, "_fields", map(str, range(len(tree)))), tree, strict=True))
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [(f.name, getattr(tree, f.name)) for f in dataclasses.fields(tree)]
    return None


def _holds_tensor(tree: Any) -> bool:
    return isinstance(tree, Tensor) or any(_holds_tensor(v) for _, v in _children(tree) or ())


def _leaves(name: str, tree: Any) -> Iterator[tuple[str, Any]]:
    if not _holds_tensor(tree) or isinstance(tree, Tensor):
        yield name, tree  # a plain value stays whole: it is part of the call, not an input
        return
    for key, value in _children(tree) or ():
        if _holds_tensor(value):
            yield from _leaves(f"{name}.{key}", value)


def _rebuild(name: str, tree: Any, flat: Mapping[str, Any]) -> Any:
    """The container again, with the flat values in the tensors' places."""
    if name in flat:
        return flat[name]
    if not _holds_tensor(tree):
        return tree
    changed = {key: _rebuild(f"{name}.{key}", value, flat) for key, value in _children(tree) or ()}
    return _builder(tree)(changed)


def _builder(tree: Any) -> Callable[[dict[str, Any]], Any]:
    if isinstance(tree, Mapping):
        return lambda changed: _assigned(
            tree, changed, lambda new, key, value: new.__setitem__(next(k for k in tree if str(k) == key), value)
        )
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return lambda changed: type(tree)(*changed.values())
    if isinstance(tree, (list, tuple)):
        return lambda changed: type(tree)(changed.values())
    return lambda changed: _assigned(tree, changed, object.__setattr__)  # frozen dataclasses too


def _assigned(tree: Any, changed: dict[str, Any], assign: Callable[[Any, str, Any], None]) -> Any:
    new = copy.copy(tree)
    for key, value in changed.items():
        assign(new, key, value)
    return new


#: Words of argument names, in order of precedence. Overridden by ``convert(model, roles={...})``.
_WORDS = (
    ({"mask"}, "mask"),
    ({"position", "positions", "pos", "grid", "sizes", "shapes", "bbox", "aspect"}, "position"),
    ({"segment", "segments"}, "segment"),
)


def role_of(name: str, value: Tensor) -> str:
    """The role that an argument's name (by its words) and type suggest."""
    words = set(last_word(name).lower().split("_"))
    if {"token", "type"} <= words:
        return "segment"
    for known, role in _WORDS:
        if words & known:
            return role
    return "mask" if value.dtype == torch.bool else "content"
