"""Progress: one line that says what is being compiled, while it is.

The same is said, when it is done, at INFO by the logger ``lrp_fx``.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from lrp_fx.ir.passes import Step, listening


def is_watched(stream: TextIO) -> bool:
    """Does somebody look at it: a terminal, or the cell of a notebook?"""
    kernel = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return stream.isatty() or hasattr(kernel, "kernel")


@contextlib.contextmanager
def progress(shown: bool | None, stream: TextIO | None = None) -> Iterator[None]:
    """Show the pass that runs inside, and the seconds so far, in one line that is gone at the end.

    shown: None for where somebody looks at ``stream`` (standard error).
    """
    out = stream if stream is not None else sys.stderr
    if not (is_watched(out) if shown is None else shown):
        yield
        return
    line = _Line(out)
    try:
        with listening(line):
            yield
    finally:
        line.clear()


class _Line:
    def __init__(self, stream: TextIO) -> None:
        self.stream, self.start, self.width = stream, time.monotonic(), 0

    def __call__(self, name: str, done: Step | None) -> None:
        if done is None:
            self._write(f"lrp_fx: {name.replace('_', ' ')}, {time.monotonic() - self.start:.0f} s so far")

    def clear(self) -> None:
        if self.width:
            self._write("")
            self.stream.write("\r")
            self.stream.flush()

    def _write(self, text: str) -> None:
        self.stream.write("\r" + text.ljust(self.width))
        self.stream.flush()
        self.width = max(self.width, len(text))
