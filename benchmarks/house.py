"""How is the house built? Lines, imports, and what is known of operators outside their table.

    python -m benchmarks house [--against COMMIT]

Counted from the source by its syntax trees, for this tree and for a commit of its history.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.history import unpacked
from benchmarks.page import ROOT, Command

PACKAGE = "lrp_fx"


@dataclass
class House:
    """What is counted of one tree."""

    lines: dict[str, int] = field(default_factory=dict)
    top_files: int = 0
    circles: int = 0
    floors: int = 0
    rooms: int = 0
    sets: list[str] = field(default_factory=list)
    mentions: int = 0
    ignores: int = 0

    def rows(self) -> dict[str, int]:
        return {
            "lines": sum(self.lines.values()),
            "files directly in lrp_fx/": self.top_files,
            "import circles": self.circles,
            "longest chain of files": self.floors,
            "longest chain of packages": self.rooms,
            "sets of operator names": len(self.sets),
            "ATen names mentioned": self.mentions,
            "type: ignore": self.ignores,
        }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks house", description=BENCHMARK.purpose)
    parser.add_argument("--against", metavar="COMMIT", help="a commit of this repository to count as well")
    parser.add_argument("--sets", action="store_true", help="say where the sets of operator names are")
    options = parser.parse_args(arguments)
    trees = {"now": counted(ROOT)}
    if options.against:
        with unpacked(options.against) as folder:
            trees = {options.against: counted(folder), **trees}
    print(f"{'':<28}" + "".join(f"{name:>12}" for name in trees))
    for row in next(iter(trees.values())).rows():
        print(f"{row:<28}" + "".join(f"{house.rows()[row]:>12}" for house in trees.values()))
    for package in dict.fromkeys(name for house in trees.values() for name in house.lines):
        print(f"  lines of {package:<17}" + "".join(f"{house.lines.get(package, 0):>12}" for house in trees.values()))
    if options.sets:
        print(*trees["now"].sets, sep="\n")
    return 0


def counted(root: Path) -> House:
    """The counts of one tree; rules are data of their own, and not counted."""
    house = House()
    folder = root / PACKAGE
    files = [f for f in sorted(folder.rglob("*.py")) if "rules" not in f.relative_to(folder).parts]
    house.top_files = sum(f.parent == folder for f in files)
    for file in files:
        text = file.read_text()
        package = file.relative_to(folder).parts[0].removesuffix(".py")
        house.lines[package] = house.lines.get(package, 0) + len(text.splitlines())
        house.ignores += text.count("# type: ignore")
        tree = ast.parse(text)
        house.sets += [f"{file.relative_to(root)}:{line}: {names}" for line, names in operator_sets(tree)]
        house.mentions += sum(1 for _ in mentions(tree))
    needs = {_module(f, root): _imports(f, root) for f in files}
    needs = {m: {_known(n, needs) for n in named} - {m, ""} for m, named in needs.items()}
    house.circles = sum(len(c) > 1 for c in _components(needs))
    house.floors = _longest(needs)
    rooms = {_room(m): set[str]() for m in needs}
    for m, named in needs.items():
        rooms[_room(m)] |= {_room(n) for n in named} - {_room(m)}
    house.rooms = _longest(rooms)
    return house


# ---------------------------------------------------------------------------------------------------- operators
def operator_sets(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, names) of every collection that lists two operators or more, however it is written; a collection inside
    another is part of it. The arguments of a call are none.
    """
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        names = _listed(node)
        if len(names) > 1:
            yield getattr(node, "lineno", 0), " ".join(names)
        elif not (isinstance(node, ast.Dict | ast.Set | ast.List | ast.Tuple) and names):
            stack.extend(ast.iter_child_nodes(node))


def _listed(node: ast.AST) -> list[str]:
    """The operators that a literal collection (or a string that is split, or read word by word) lists."""
    if isinstance(node, ast.Set | ast.List | ast.Tuple):
        found: list[str] = []
        for e in node.elts:
            found += _listed(e.value if isinstance(e, ast.Starred) else e) or _names(e)
        return found
    if isinstance(node, ast.Dict):
        return [
            n for k, v in zip(node.keys, node.values, strict=True) for n in (_listed(v) if k is None else _names(k))
        ]
    if isinstance(node, ast.Call):
        split = isinstance(node.func, ast.Attribute) and node.func.attr == "split"
        collects = isinstance(node.func, ast.Name) and node.func.id in ("frozenset", "set", "tuple", "Operator")
        if split:
            return _names(node.func.value) if isinstance(node.func, ast.Attribute) else []
        if collects or (isinstance(node.func, ast.Attribute) and node.func.attr == "fromkeys"):
            return [n for a in node.args[:1] for n in _listed(a) or _names(a)]
    return []


def _names(node: ast.AST) -> list[str]:
    """The operators that an expression names: in a string, or as ``aten.name[.overload]``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [w for w in node.value.split() if w.startswith(("aten.", "aten::"))]
    while isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == "aten":
            return [f"aten.{node.attr}"]
        node = node.value
    return []


def mentions(tree: ast.AST) -> Iterator[str]:
    """Every mention of an ATen operator in code (not in docstrings)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
            yield from _names(node)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "aten":
            yield f"aten.{node.attr}"


# ---------------------------------------------------------------------------------------------------- imports
def _module(file: Path, root: Path) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _imports(file: Path, root: Path) -> set[str]:
    """Modules of the package that a file imports when it is read, or in a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            found |= {f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith(PACKAGE)}
    return found


def _known(name: str, modules: dict[str, set[str]]) -> str:
    """The module that a name is of; none for the package itself (which holds the rules, and imports everything)."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return "" if name == PACKAGE else name


def _room(module: str) -> str:
    """The package below `lrp_fx` that a module stands in, or its own name."""
    return ".".join(module.split(".")[:2])


def _components(needs: dict[str, set[str]]) -> list[set[str]]:
    """Modules that import each other, directly or not."""
    above = {m: _reached(m, needs) for m in needs}
    found: list[set[str]] = []
    for m in needs:
        if not any(m in c for c in found):
            found.append({m} | {n for n in above[m] if m in above[n]})
    return found


def _reached(module: str, needs: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    stack = [module]
    while stack:
        for other in needs[stack.pop()] - found:
            found.add(other)
            stack.append(other)
    return found


def _longest(needs: dict[str, set[str]]) -> int:
    """Modules on the longest chain of imports (circles counted as one)."""
    circle = {m: i for i, c in enumerate(_components(needs)) for m in c}
    below: dict[int, set[int]] = {i: set() for i in circle.values()}
    for m, named in needs.items():
        below[circle[m]] |= {circle[n] for n in named} - {circle[m]}
    heights: dict[int, int] = {}

    def height(i: int) -> int:
        if i not in heights:
            heights[i] = 1 + max((height(j) for j in below[i]), default=0)
        return heights[i]

    return max((height(i) for i in below), default=0)


BENCHMARK = Command("house", "How the code is built: lines, imports, sets of operator names, for two commits.", main)
