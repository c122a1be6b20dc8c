"""History: an earlier commit of this repository, unpacked beside it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.page import ROOT


@contextlib.contextmanager
def unpacked(commit: str) -> Iterator[Path]:
    """The folder that holds a commit's tree, while inside."""
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-xf", "-", "-C", folder], input=packed, check=True)
        yield Path(folder)


class TreeError(Exception):
    """A measurement failed in its process; the last line that it wrote."""


def measured_in(tree: Path, module: str, *arguments: str) -> Any:
    """What ``measure(*arguments)`` of this tree's module gives (as JSON) with the lrp_fx of a tree, in a fresh process
    with one thread. Raises `TreeError` where it fails.
    """
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); import lrp_fx; sys.path[0] = sys.argv[2]; "
        f"from {module} import measure; print(json.dumps(measure(*sys.argv[3:])))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", code, str(tree), str(ROOT), *arguments]
    run = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, cwd=tree)
    if run.returncode:
        raise TreeError(run.stderr.splitlines()[-1] if run.stderr else f"exit status {run.returncode}")
    return json.loads(run.stdout.splitlines()[-1])
