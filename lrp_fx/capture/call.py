"""Calls: the arguments of one call by name, and what a program is captured for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.capture.arguments import Flattened, flatten, is_nested, role_given, role_of
from lrp_fx.capture.checks import run_model
from lrp_fx.errors import InputError, warn_user
from lrp_fx.guards.guard import Arguments
from lrp_fx.ir.devices import default_device


@dataclass(frozen=True)
class ModelCall(Arguments):
    """One call, and the model that is called with the arguments by these names."""

    model: nn.Module

    @cached_property
    def result(self) -> Any:
        """What the model gives, run once; raises `InputError` where its own forward refuses the inputs."""
        return run_model(self.model, self.bound)

    def forget(self) -> None:
        """Let go of what the model gave: it may be large."""
        vars(self).pop("result", None)

    @property
    def key(self) -> Any:
        """What a program is captured for: names, types and ranks of tensors, the plain values, autocast's state, and
        what tensors are that do not say their type or their device.
        """
        types = {v.device.type for v in self.bound.values() if isinstance(v, Tensor)}
        autocast = tuple((t, str(torch.get_autocast_dtype(t))) for t in sorted(types) if torch.is_autocast_enabled(t))
        return (
            autocast,
            (str(torch.get_default_dtype()), default_device()),
            *(
                (n, (v.dtype, v.dim(), str(v.device)) if isinstance(v, Tensor) else self.plain[n])
                for n, v in sorted(self.bound.items())
            ),
        )


def forward_parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The parameters of a model's forward; those of the module inside where a wrapper passes on all it is given."""
    own = inspect.signature(model.forward).parameters
    inside = list(model.children())
    return forward_parameters(inside[0]) if takes_anything(own) and len(inside) == 1 else own


def takes_anything(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Has forward no names of its own, but ``*args, **kwargs``?"""
    kinds = [p.kind for p in parameters.values()]
    return kinds == [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]


def bind(model: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names that forward has for them; raises `InputError` for those that it has not."""
    parameters = forward_parameters(model)
    names = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(args) > len(names):
        if any(p.kind is p.VAR_POSITIONAL for p in parameters.values()):
            raise InputError(
                f"{type(model).__name__}.forward takes any arguments (*args), so that those given by position have no "
                "names\n    next: give them by name, as in explainer(input_ids=...), or explain the model that it wraps"
            )
        raise InputError(f"{len(args)} positional arguments, but forward takes {len(names)}")
    bound = {**dict(zip(names, args, strict=False)), **inputs}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    # Many forwards take **kwargs without using them: an unknown tensor is a slip of the pen, not an option.
    unknown = [
        n for n, v in bound.items() if n not in parameters and names and (isinstance(v, Tensor) or not takes_any)
    ]
    if names and "position" in bound and "position" not in parameters:
        warn_user(
            f"position={bound['position']!r} goes to the **kwargs of {type(model).__name__}.forward\n"
            "    next: which row of the output is explained is part of the target, as in target=Class(1, position=2)"
        )
    if unknown:
        raise InputError(f"forward has no argument {', '.join(unknown)}; it takes {', '.join(names)}")
    return {
        n: v
        for n, v in bound.items()
        if v is not None or (n in parameters and parameters[n].default is inspect.Parameter.empty)
    }


def _plain(value: Any) -> Any:
    """A tensor made in inference mode cannot be traced: a copy of it can."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def as_call(model: nn.Module, bound: dict[str, Any], roles: Mapping[str, str]) -> ModelCall:
    """Tensors inside dictionaries, lists, dataclasses and other objects become arguments of their own; ``roles``: those
    that the names do not tell.
    """
    flat = {n: _plain(v) for n, v in flatten(bound).items()}
    told = {n: role_given(n, roles) or role_of(n, v) for n, v in flat.items() if isinstance(v, Tensor)}
    # The tracer knows axes by the names of a signature, which a wrapper's forward has not.
    unnamed = takes_anything(inspect.signature(model.forward).parameters)
    return ModelCall(flat, told, Flattened(model, bound) if unnamed or is_nested(bound) else model)
