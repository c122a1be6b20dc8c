"""Spared: what torch does beside tracing, and nothing here reads.

Private parts of torch, passed over for the time of a trace by one thread. A version that has them no longer, or asks
otherwise, does the work again and gives the same graphs.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import FunctionType
from typing import Any

from torch import nn
from torch.fx.experimental import proxy_tensor

#: What torch.fx asks a method for, before it replaces it.
_REPLACED = "__fx_already_patched"
#: What notes how an abstract value lies in memory.
_NOTES = "_extract_tensor_metadata"


class _Here:
    """True in the thread that made it: others may trace modules meanwhile."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def __bool__(self) -> bool:
        return threading.get_ident() == self._thread


@contextlib.contextmanager
def methods_left_alone() -> Iterator[None]:
    """What is traced in here is made of operations on tensors: torch.fx need not put methods of its own on
    ``nn.Module`` meanwhile and take them off again. Python tells every subclass of each change, and every graph that
    somebody holds is one: with thousands of them that takes longer than what is traced.
    """
    methods: list[Any] = [nn.Module.__getattr__, nn.Module.__call__]
    mine = [m for m in methods if isinstance(m, FunctionType) and not hasattr(m, _REPLACED)]
    try:
        for method in mine:
            setattr(method, _REPLACED, _Here())
        yield
    finally:
        for method in mine:
            vars(method).pop(_REPLACED, None)


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Beside the abstract value of a node, torch.fx notes how it lies in memory ("prefer using val", it says). With
    symbolic sizes that is an eighth of a trace.
    """
    noting = getattr(proxy_tensor, _NOTES, None)
    if noting is None:
        yield
        return
    mine = threading.get_ident()

    def note(*args: Any, **kwargs: Any) -> Any:
        return None if threading.get_ident() == mine else noting(*args, **kwargs)

    try:
        setattr(proxy_tensor, _NOTES, note)
        yield
    finally:
        setattr(proxy_tensor, _NOTES, noting)
