"""The how-to pages of docs/how_to/: each is a script of examples/how_to/, and what it prints."""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from benchmarks.page import ROOT, Command

SCRIPTS, PAGES = ROOT / "examples" / "how_to", ROOT / "docs" / "how_to"
#: In the order of the list of pages.
NAMES = (
    "classify batches contrast generation encoder_decoder image image_and_text sound inside patch edges concepts "
    "latents pairs datasets evaluate pruning train save"
).split()


def printed(name: str) -> str:
    """What a script prints, in a folder of its own; raises RuntimeError where it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    environment |= {"COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(SCRIPTS / f"{name}.py"), folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"examples/how_to/{name}.py fails:\n{done.stderr}")
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def parts(name: str) -> tuple[str, str, str]:
    """(title, text, code) of a script: the first line of its docstring, what follows, and the rest of the file."""
    source = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
    title, _, text = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    return title.rstrip("."), text.strip(), source.split('"""\n', 2)[-1].strip()


def page(name: str, output: str) -> str:
    title, text, code = parts(name)
    about = f"Written by `python -m benchmarks how_to --write` from `examples/how_to/{name}.py`; do not edit by hand."
    shown = f"```python\n{code}\n```\n\nIt prints:\n\n```text\n{output}\n```"
    helper = ""
    if re.search(r"^from shipped import", code, re.MULTILINE):
        helper = f"`shipped.py` beside it loads the small model:\n\n```python\n{parts('shipped')[2]}\n```\n"
    return "\n\n".join(p for p in (f"# {title}", f"<!-- {about} -->", text, shown, helper.rstrip()) if p) + "\n"


def index() -> str:
    rows = "\n".join(f"* [{parts(name)[0]}]({name}.md)" for name in NAMES)
    about = "Each is a script of `examples/how_to/` that runs offline in seconds, and what it prints."
    note = "<!-- Written by `python -m benchmarks how_to --write`; do not edit by hand. -->"
    return f"# How to\n\n{note}\n\n{about}\n\n{rows}\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the scripts and print the pages; with ``--write`` write them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks how_to", description=BENCHMARK.purpose)
    parser.add_argument("--write", action="store_true", help="write docs/how_to/")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES, help="some of them (default: all)")
    options = parser.parse_args(arguments)
    with ThreadPoolExecutor(max_workers=2) as pool:
        pages = {n: page(n, output) for n, output in zip(options.only, pool.map(printed, options.only), strict=True)}
    pages["index"] = index()
    for name, text in pages.items():
        if options.write:
            PAGES.mkdir(exist_ok=True)
            (PAGES / f"{name}.md").write_text(text, encoding="utf-8")
            print(f"wrote {(PAGES / f'{name}.md').relative_to(ROOT)}")
        else:
            print(text)
    return 0


BENCHMARK = Command("how_to", "The how-to pages: scripts of examples/how_to/ and what they print.", main)
