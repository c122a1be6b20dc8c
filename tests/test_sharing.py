"""Who may import whom outside the package: tests and benchmarks share ``testing/`` and do not import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Folder -> what its files may import of the others.
MAY = {
    "testing": {"testing"},
    "benchmarks": {"testing", "benchmarks"},
    "tests": {"testing", "tests"},
    "examples": set(),
}
OURS = set(MAY)
FILES = [file for folder in MAY for file in sorted((ROOT / folder).rglob("*.py"))]


def imported(file: Path) -> set[str]:
    """The folders beside the package that a file imports from, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0] if not node.level else file.relative_to(ROOT).parts[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found & OURS


def is_the_test_of_a_benchmark(file: Path) -> bool:
    """Named after a module of the benchmarks, or after them all."""
    stem = file.stem.removeprefix("test_")
    return stem == "benchmarks" or any((ROOT / "benchmarks" / name).exists() for name in (f"{stem}.py", stem))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_what_is_shared_lies_in_testing(file: Path) -> None:
    folder = file.relative_to(ROOT).parts[0]
    allowed = MAY[folder] | ({"benchmarks"} if folder == "tests" and is_the_test_of_a_benchmark(file) else set())
    assert imported(file) <= allowed


@pytest.mark.parametrize("file", sorted((ROOT / "lrp_fx").rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_the_package_needs_none_of_it(file: Path) -> None:
    assert not imported(file)
