"""Undo: what was set for a while is put back, whatever interrupts.

An interrupt may come behind any call. So what is to be undone is set inside of the ``try`` that undoes it.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.fx import _symbolic_trace

from lrp_fx.errors import is_out_of_memory

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
def process_as_before() -> Iterator[None]:
    """Where something is raised inside, what is set in the process to trace is put back: an interrupt may come while
    torch or Python do so themselves.
    """
    broken_off = _of_python()
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
    except BaseException as error:
        surely(restore)
        if not isinstance(error, Exception) or is_out_of_memory(error):
            surely(broken_off)
        raise


def _of_python() -> Callable[[], None]:
    """What puts back the process's filters of warnings, its threshold of logging and its standard error."""
    filters, shown = warnings.filters, warnings.showwarning
    silent, stream = logging.root.manager.disable, sys.stderr

    def restore() -> None:
        if warnings.filters is not filters:
            warnings.resetwarnings()  # which says that they are others
            warnings.filters, warnings.showwarning = filters, shown
        logging.root.manager.disable = silent
        sys.stderr = stream

    return restore
