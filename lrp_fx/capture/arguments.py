"""Arguments: the tensors of a forward call by name, however they are nested, and the way back to the call.

Tensors in dictionaries, lists, tuples, dataclasses and other objects get dotted names: ``batch.input_ids``,
``views.0``.

Their roles (content, position, segment, mask or cached) are read from name and type, and always printed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.capture.trees import is_object, leaves, own, rebuilt
from lrp_fx.ir.program import CACHED_ROLE

#: A dot cannot be part of a Python name, and the tracer wants Python names.
_DOT = "__"


def flatten(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Every tensor of a call by its dotted name, and the plain values beside them."""
    return {name: value for argument, tree in arguments.items() for name, value in leaves(argument, tree)}


def is_nested(arguments: Mapping[str, Any]) -> bool:
    """Is there a tensor inside a container, or anything that the model could write to?"""
    written = (v for v in arguments.values() if isinstance(v, (list, dict, set)) or is_object(v))
    return next(written, None) is not None or any(name not in arguments for name in flatten(arguments))


def last_word(name: str) -> str:
    """The part of a dotted name that says what the value is: numbers in lists say nothing."""
    parts = [p for p in name.split(".") if not p.isdigit()]
    return parts[-1] if parts else name


class Flattened(nn.Module):
    """A model called with the flat names of a nested call; its own forward is given copies of the containers that it
    expects, so that what it writes to them (a cache) is the caller's no more.
    """

    def __init__(self, model: nn.Module, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.template = dict(arguments)
        self.names = {
            traceable_name(name): name for name, value in flatten(arguments).items() if isinstance(value, Tensor)
        }
        self.train(model.training)

        def forward(**values: Any) -> Any:
            given = {self.names.get(n, n): v for n, v in values.items() if isinstance(v, Tensor)}
            return self.model(**{n: rebuilt(n, tree, given, clone=True) for n, tree in self.template.items()})

        # The tracer reads the names from the signature.
        forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in self.names]
        )
        self.forward = forward

    def with_own_values(self) -> Flattened:
        """The same, with plain values that nobody else changes."""
        return Flattened(self.model, {n: own(tree) for n, tree in self.template.items()})


def traceable_name(name: str) -> str:
    """The name as a Python name."""
    return name.replace(".", _DOT)


#: Words of argument names, in order of precedence. Overridden by ``convert(model, roles={...})``.
_WORDS = (
    ({"mask"}, "mask"),
    ({"position", "positions", "pos", "grid", "sizes", "shapes", "bbox", "aspect"}, "position"),
    ({"segment", "segments"}, "segment"),
)


#: What was computed for earlier tokens is given in a container whose name has one of these words.
_CACHES = {"cache", "caches", "cached", "past", "mems"}


def role_of(name: str, value: Tensor) -> str:
    """The role that an argument's name (by its words) and type suggest."""
    words = set(last_word(name).lower().split("_"))
    if {"token", "type"} <= words:
        return "segment"
    for known, role in _WORDS:
        if words & known:
            return role
    if value.dtype == torch.bool:
        return "mask"
    if "." in name and set(name.lower().replace(".", "_").split("_")) & _CACHES:
        return CACHED_ROLE if value.is_floating_point() else "position"  # whole numbers count what is there
    return "content"


def role_given(name: str, roles: Mapping[str, str]) -> str | None:
    """The role that the caller gave to an argument, or to the container that it is in."""
    parts = name.split(".")
    return next((roles[n] for i in range(len(parts), 0, -1) if (n := ".".join(parts[:i])) in roles), None)
