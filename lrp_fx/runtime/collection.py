"""Collection: Python's garbage collector rests while a model is compiled.

Compiling makes hundreds of thousands of objects that all stay to its end; to look through them, again and again, for
what may be freed takes up to a third of its time.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """No collection inside; afterwards as it was, whatever was raised. What was made meanwhile counts as old: it is
    looked at when everything is, not at once.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # else thawing would thaw what somebody has frozen
            gc.freeze()
            gc.unfreeze()
        gc.enable()
