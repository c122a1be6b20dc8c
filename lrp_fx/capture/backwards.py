"""Backwards: derivatives that a model's code defines itself, of which the operations of its forward say nothing.

``torch.autograd.Function`` with a backward of its own, hooks of tensors, backward hooks of modules: autograd runs them,
a graph of forward has none of them. A ruleset that follows gradients says so.

requires  a model that is run, or traced, while it is watched
ensures   outside of `watching`, and in other threads, nothing is changed
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.errors import is_ours
from lrp_fx.ir.source import TORCH_FOLDER
from lrp_fx.ir.undo import surely

_APPLY, _HOOK = "apply", "register_hook"


def hooked(model: nn.Module) -> list[str]:
    """The modules that have hooks for gradients."""
    return [
        f"backward hooks of {name or type(model).__name__}"
        for name, module in model.named_modules()
        if module._backward_hooks or module._backward_pre_hooks
    ]


@contextlib.contextmanager
def watching() -> Iterator[list[str]]:
    """Notes what this thread's code calls in here that has a derivative of its own, each once."""
    found: list[str] = []
    thread, function, tensor = threading.get_ident(), torch.autograd.Function, Tensor
    apply: Any = vars(function).get(_APPLY)
    register: Any = vars(tensor).get(_HOOK)

    def note(what: str) -> None:
        if threading.get_ident() == thread and what not in found:
            found.append(what)

    def applied(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not cls.__module__.startswith("torch."):
            note(cls.__qualname__)
        return apply.__func__(cls, *args, **kwargs)

    def registered(self: Tensor, hook: Callable[[Tensor], Any]) -> Any:
        if place := _users_place(sys._getframe(1)):
            note(f"a hook of a tensor at {place}")
        return register(self, hook)

    def restore() -> None:
        if isinstance(apply, classmethod):
            setattr(function, _APPLY, apply)
        if register is not None:
            setattr(tensor, _HOOK, register)

    try:
        if isinstance(apply, classmethod):  # else a version of torch that has it elsewhere: nothing is noted
            setattr(function, _APPLY, classmethod(applied))
        if register is not None:
            setattr(tensor, _HOOK, registered)
        yield found
    finally:
        surely(restore)


def _users_place(frame: Any) -> str:
    """The file and line of a call, empty where torch makes it, or passes it on by way of this package."""
    file = frame.f_code.co_filename.replace("\\", "/")
    return "" if TORCH_FOLDER in file or is_ours(file) else f"{file.rsplit('/', 1)[-1]}:{frame.f_lineno}"
