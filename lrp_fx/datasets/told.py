"""Told: one line that says how far a run is, how fast, and when it will have ended."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

_LEAST = 0.2


class Told:
    """Rows done so far, of ``count`` (None: not known); ``shown``: is a line written at all?"""

    def __init__(self, count: int | None, shown: bool, stream: TextIO | None = None) -> None:
        self.count, self.shown = count, shown
        self.stream = sys.stderr if stream is None else stream
        self.done = self.there = self.errors = self._width = 0
        self._begun, self._last, self._lock = time.monotonic(), 0.0, threading.Lock()

    def found(self, rows: int, errors: int) -> None:
        """Rows of a shard that was there."""
        with self._lock:
            self.there, self.errors = self.there + rows, self.errors + errors

    def made(self, rows: int, errors: int) -> None:
        """Rows of a shard that was written now."""
        with self._lock:
            self.done, self.errors = self.done + rows, self.errors + errors
            self._write(self.line())

    def line(self, now: float | None = None) -> str:
        """What is written: ``1024 of 2000 rows, 310 rows/s, ends about 14:02:10``."""
        passed = max((time.monotonic() if now is None else now) - self._begun, 1e-9)
        rate, so_far = self.done / passed, self.done + self.there
        parts = [f"{so_far} of {self.count} rows" if self.count is not None else f"{so_far} rows"]
        parts.append(f"{rate:.3g} rows/s")
        if self.count is not None and rate:
            rest = max(self.count - so_far, 0) / rate
            parts.append(f"ends about {time.strftime('%H:%M:%S', time.localtime(time.time() + rest))}")
        if self.errors:
            parts.append(f"{self.errors} in error")
        return "lrp_fx: " + ", ".join(parts)

    def end(self) -> None:
        """Take the line away."""
        if self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self.stream.flush()

    def _write(self, text: str) -> None:
        now = time.monotonic()
        if not self.shown or now - self._last < _LEAST:
            return
        self._last = now
        self.stream.write("\r" + text.ljust(self._width))
        self.stream.flush()
        self._width = max(self._width, len(text))
