"""The tour of docs/tour.md and the tutorial: code is run in order, and what each block prints is put behind it."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import tempfile
from pathlib import Path

from benchmarks.page import ROOT, Command

PAGE, TUTORIAL = ROOT / "docs" / "tour.md", ROOT / "docs" / "tutorial.md"
_BLOCKS = re.compile(r"```python\n(.*?)```\n(\n```text\n)?(.*?)(?=```|\Z)", re.S)


def followed(page: str) -> str:
    """The page with what its code prints now."""
    names: dict[str, object] = {"__name__": "tour"}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "tour.py"  # a file, so that source lines can be told
        written = ""

        def run(found: re.Match[str]) -> str:
            nonlocal written
            lines = written.count("\n")
            written += found[1]
            script.write_text(written, encoding="utf-8")
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile("\n" * lines + found[1], str(script), "exec"), names)
            told = f"\n```text\n{out.getvalue()}" if found[2] else ""
            return f"```python\n{found[1]}```\n{told}{'' if found[2] else found[3]}"

        return _BLOCKS.sub(run, page)


def main(arguments: list[str] | None = None) -> int:
    """Print the pages; with ``--write`` write them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tour", description=BENCHMARK.purpose)
    parser.add_argument("--write", action="store_true", help="write docs/tour.md and docs/tutorial.md")
    write = parser.parse_args(arguments).write
    for path in (PAGE, TUTORIAL):
        page = followed(path.read_text(encoding="utf-8"))
        if write:
            path.write_text(page, encoding="utf-8")
        print(f"wrote {path}" if write else page)
    return 0


BENCHMARK = Command("tour", "The tour and the tutorial: what their code prints is put in again.", main)
