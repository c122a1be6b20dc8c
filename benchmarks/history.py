"""History: an earlier commit of this repository, unpacked beside it."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.page import ROOT


@contextlib.contextmanager
def unpacked(commit: str) -> Iterator[Path]:
    """The folder that holds a commit's tree, while inside."""
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-xf", "-", "-C", folder], input=packed, check=True)
        yield Path(folder)
