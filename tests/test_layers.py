"""Layers: a package imports from packages below it only, whatever the form of the import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "lrp_fx"
ORDER = (
    "errors aggregation kernels ir rule targets guards capture canonicalize analysis recognize rewrite structure "
    "dictionaries optimize transpose render report file preprocess generation datasets runtime evaluation similarity "
    "adapters api cli __main__"
).split()
FILES = [
    f for f in sorted(ROOT.rglob("*.py")) if "rules" not in f.relative_to(ROOT).parts and f != ROOT / "__init__.py"
]


def layer(module: str) -> str:
    return module.split(".")[1]


def name_of(file: Path) -> str:
    return ".".join(["lrp_fx", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


def imports(file: Path) -> Iterator[str]:
    """Every module of the package that a file imports, at its head, in functions, or for types only."""
    known = {name_of(f) for f in FILES}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield "relative.import"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lrp_fx"):
            for alias in node.names:
                if node.module == "lrp_fx" and alias.name == "__version__":
                    continue  # the package itself, which imports nothing before it is asked for a name
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("lrp_fx"))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_downwards(file: Path) -> None:
    own = layer(name_of(file))
    for module in imports(file):
        if module == "lrp_fx.rules":  # the compiler fills the registry
            assert own == "runtime"
            continue
        assert ORDER.index(layer(module)) <= ORDER.index(own), f"{name_of(file)} imports {module}"


def test_no_circles() -> None:
    """Inside a package, too: files can be read in an order in which each needs only what was read before."""
    needs = {
        name_of(f): {m for m in imports(f) if m != "lrp_fx.rules"} & {name_of(g) for g in FILES} - {name_of(f)}
        for f in FILES
    }
    while ready := [m for m, needed in needs.items() if not needed & needs.keys()]:
        for module in ready:
            del needs[module]
    assert not needs, f"import each other: {', '.join(needs)}"


def test_rules_need_the_vocabulary_only() -> None:
    for file in sorted((ROOT.parent / "rules").glob("*.py")):
        others = {m for m in imports(file) if layer(m) not in ("kernels", "rules")}
        assert others <= {"lrp_fx.rule", "lrp_fx.aggregation"}, file.name


def test_few_files_at_the_top() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 6
