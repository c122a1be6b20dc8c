"""Collection: Python's garbage collector rests while a model is compiled, and makes up for it.

Compiling makes hundreds of thousands of objects that all stay to its end; to look through them, again and again, for
what may be freed takes up to a third of its time. Afterwards they count as old. The collector looks at old objects when
many have grown old before its eyes, which these have not: without being told it would never free an explainer.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

#: So many objects are left to the collector: it was a call that compiled nothing.
_FEW = 10_000
#: With less it is not worth while to look at everything.
_LEAST = 500_000


class _Unseen:
    """``count``: objects that were made since all were looked at; ``limit``: how many may be."""

    count, limit = 0, _LEAST


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """No collection inside; afterwards as it was, whatever was raised. What was made meanwhile counts as old: it is
    looked at when a quarter of all objects has come so, not at once.
    """
    if not gc.isenabled():
        yield
        return
    before = gc.get_count()[0]
    try:
        gc.disable()
        yield
    finally:
        try:
            made = gc.get_count()[0] - before
            if made > _FEW:
                _grown_old(made)
        finally:
            gc.enable()


def _grown_old(made: int) -> None:
    if gc.get_freeze_count():  # thawing would thaw what somebody has frozen
        return
    if _Unseen.count > _Unseen.limit:  # not counting what was made just now, which is likely to stay
        gc.collect()
        _Unseen.count, _Unseen.limit = 0, max(_LEAST, sys.getallocatedblocks() // 8)  # two or three blocks each
    else:
        _Unseen.count += made
    try:
        gc.freeze()
    finally:
        gc.unfreeze()
