"""Transforms: does a forward map functions, or take their gradients (`torch.func`), inside?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lrp_fx.capture.compare import ran
from lrp_fx.capture.flex import flex_written_out


class _Watch(TorchFunctionMode):
    """Notes whether a function of torch is called inside of a transform."""

    inside = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.inside = self.inside or torch._C._functorch.peek_interpreter_stack() is not None
        return func(*args, **(kwargs or {}))


def calls_transforms(model: nn.Module, inputs: dict[str, Any]) -> bool:
    """The model is run once. False also where it refuses the inputs."""
    with flex_written_out(), _Watch() as watch:  # whose masks are mapped, to no purpose
        ran(model, inputs)
    return bool(watch.inside)


@contextlib.contextmanager
def ended_transforms() -> Iterator[None]:
    """Whatever fails inside: no transform is left running, in which the next call would be made."""
    torch_functions: Any = torch._C._functorch
    depth = torch_functions.get_dynamic_layer_stack_depth()
    try:
        yield
    finally:
        if torch_functions.get_dynamic_layer_stack_depth() > depth:
            torch_functions.pop_dynamic_layer_stack_and_undo_to_depth(depth)
