"""Devices: where tensors are made that do not say where, by this library and by the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch

#: The caller's default device, while ours is another.
_theirs: ContextVar[torch.device | None] = ContextVar("default device of the caller", default=None)


@contextlib.contextmanager
def own_device() -> Iterator[None]:
    """On the CPU, whatever `torch.set_default_device` says: what belongs elsewhere is put there."""
    device = torch.get_default_device()
    if device.type == "cpu":
        yield
        return
    token = _theirs.set(device)
    try:
        with torch.device("cpu"):
            yield
    finally:
        _theirs.reset(token)


@contextlib.contextmanager
def callers_device() -> Iterator[None]:
    """Where the caller has them: for the model's code, and for functions that the caller gave."""
    device = _theirs.get()
    with torch.device(device) if device is not None else contextlib.nullcontext():
        yield


def default_device() -> str:
    """Of the caller, as text."""
    return str(_theirs.get() or torch.get_default_device())
