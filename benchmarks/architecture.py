"""The tree of docs/architecture.md: one line for each file of the package, taken from its docstring."""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path

from benchmarks.page import ROOT, Command

PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- the tree: python -m benchmarks architecture --write -->\n", "<!-- end of the tree -->\n"
#: From the lowest layer to the highest; tests/test_layers.py holds the order.
PACKAGES = (
    "kernels ir guards capture canonicalize analysis recognize rewrite structure optimize transpose render report file "
    "runtime cli"
).split()


def purpose(file: Path) -> str:
    """The first sentence of a file's docstring, without the name that it may begin with."""
    text = " ".join((ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    words = re.sub(r"^[A-Z][\w ]{2,24}: ", "", text)
    return words[:1].upper() + words[1:]


def tree(root: Path = ROOT) -> str:
    """Every file of the package, by layer, and those of the rules."""
    top = [f for f in sorted((root / "lrp_fx").glob("*.py")) if f.name != "__init__.py"]
    parts = [_section("lrp_fx/", "Vocabulary and errors, used by all.", top, root / "lrp_fx")]
    for name in PACKAGES:
        folder = root / "lrp_fx" / name
        files = [f for f in sorted(folder.rglob("*.py")) if f != folder / "__init__.py"]
        parts.append(_section(f"lrp_fx/{name}/", purpose(folder / "__init__.py"), files, folder))
    rules = [f for f in sorted((root / "rules").glob("*.py")) if f.name != "__init__.py"]
    parts.append(_section("rules/", "The knowledge: one file for each family of rules.", rules, root / "rules"))
    return "\n".join(parts)


def _section(title: str, about: str, files: list[Path], folder: Path) -> str:
    lines = [f"* `{f.relative_to(folder)}`: {purpose(f)}" for f in files if purpose(f)]
    return "\n".join([f"### `{title}`", "", about, "", *lines, ""])


def written(page: str) -> str:
    """The page with the tree as it is now."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{tree()}\n{END}{rest.split(END)[1]}"


def main(arguments: list[str] | None = None) -> int:
    """Print the tree; with ``--write`` put it into the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks architecture", description=BENCHMARK.purpose)
    parser.add_argument("--write", action="store_true", help="put the tree into docs/architecture.md")
    if parser.parse_args(arguments).write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"wrote {PAGE}")
    else:
        print(tree())
    return 0


BENCHMARK = Command("architecture", "The tree of docs/architecture.md: one line for each file.", main)
