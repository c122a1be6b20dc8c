"""Undo: what was set for a while is put back, whatever interrupts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.fx import _symbolic_trace

#: Of every module, set by torch while it traces.
_METHODS = ("__call__", "__getattr__")
_FLAGS = ("_is_compiling_flag", "_is_exporting_flag")


def surely(undo: Callable[[], None]) -> None:
    """Run ``undo`` and, where it is interrupted, run it again before the interrupt goes on: it may be run twice."""
    try:
        undo()
    except BaseException:
        undo()
        raise


@contextlib.contextmanager
def torch_as_before() -> Iterator[None]:
    """Where something is raised inside, what torch has set in the process to trace is put back: an interrupt may come
    while torch does so itself.
    """
    patcher = getattr(_symbolic_trace, "CURRENT_PATCHER", None)
    methods = {name: vars(nn.Module)[name] for name in _METHODS}
    flags = {name: getattr(torch.compiler, name) for name in _FLAGS if hasattr(torch.compiler, name)}

    def restore() -> None:
        left = getattr(_symbolic_trace, "CURRENT_PATCHER", None)
        if left is not patcher and left is not None:
            left.revert_all_patches()
            _symbolic_trace.CURRENT_PATCHER = patcher
        for name, method in methods.items():
            if vars(nn.Module)[name] is not method:
                setattr(nn.Module, name, method)
        for name, flag in flags.items():
            setattr(torch.compiler, name, flag)

    try:
        yield
    except BaseException:
        surely(restore)
        raise
