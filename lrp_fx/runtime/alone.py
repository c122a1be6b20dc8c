"""Alone: one compilation at a time in a process, in a mode of its own.

torch.export, the caches, and what is set in the process and in the model meanwhile are not for several threads at once.
Nor are they for a child: a process waits with forking itself until nobody compiles.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import torch

from lrp_fx.ir.devices import own_device
from lrp_fx.ir.undo import process_as_before
from lrp_fx.runtime.collection import no_collection
from lrp_fx.runtime.progress import progress

#: Held while anything is compiled, and while a model's switches are set to run it. (A lock of C: no interrupt comes
#: between taking it and the block that gives it back.)
ALONE = threading.RLock()
#: Seconds that forking waits at most: somebody may compile who waits for the child.
_LONGEST_WAIT = 120.0
_by_fork = threading.local()


@contextlib.contextmanager
def compiling(shown: bool | None) -> Iterator[None]:
    """What is made and kept is the same whatever mode the caller is in. To be entered behind `ALONE`.

    shown: is it said what is being compiled (`lrp_fx.runtime.progress`)?
    """
    with (
        progress(shown),
        no_collection(),
        process_as_before(),
        own_device(),
        torch.inference_mode(False),
        torch.autograd.set_detect_anomaly(False),
    ):
        yield


def _before_fork() -> None:
    _by_fork.held = ALONE.acquire(timeout=_LONGEST_WAIT)


def _after_fork() -> None:
    if _by_fork.held:
        ALONE.release()


def _in_child() -> None:
    if _by_fork.held:
        ALONE.release()
    else:  # it is held by a thread that there is not in the child
        ALONE._at_fork_reinit()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
