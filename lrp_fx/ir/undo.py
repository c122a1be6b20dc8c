"""Undo: what was set for a while is put back, whatever interrupts."""

from __future__ import annotations

from collections.abc import Callable


def surely(undo: Callable[[], None]) -> None:
    """Run ``undo`` and, where it is interrupted, run it again before the interrupt goes on: it may be run twice."""
    try:
        undo()
    except BaseException:
        undo()
        raise
