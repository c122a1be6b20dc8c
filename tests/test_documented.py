"""Every public name is documented: docstrings, the API reference, the pages of the site."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lrp_fx
from lrp_fx import targets

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PUBLIC = {name: getattr(lrp_fx, name) for name in lrp_fx.__all__} | {
    f"targets.{name}": getattr(targets, name) for name in targets.__all__
}


def function_of(member: Any) -> Any:
    """The function behind a property, a class method or a cached property."""
    for name in ("fget", "__func__", "func"):
        member = getattr(member, name, None) or member
    return member


def documented(name: str, thing: Any) -> Iterator[tuple[str, str | None]]:
    """(name, docstring) of a class and its public methods, or of a function."""
    if inspect.isclass(thing):
        made_up = f"{thing.__name__}("  # what a dataclass writes for itself
        own = thing.__dict__.get("__doc__") or ""
        yield name, None if own.startswith(made_up) else own
        for part, member in vars(thing).items():
            function = function_of(member)
            if not part.startswith("_") and inspect.isfunction(function):
                yield f"{name}.{part}", function.__doc__
    elif inspect.isfunction(thing):
        yield name, thing.__doc__


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_says_what_it_is(name: str) -> None:
    missing = [n for n, text in documented(name, PUBLIC[name]) if not text or len(text.split()) < 3]
    assert not missing


def test_results_and_targets_give_shapes_and_units() -> None:
    """What holds numbers says how they are arranged, and what they are amounts of."""
    for name in ("Relevance", "Ledger", "PositionSite", "Generation", "Explained"):
        thing = getattr(lrp_fx, name, None)
        if thing is not None:
            assert re.search(r"\(B\b|\(B,\)|\(n\b", thing.__doc__ or ""), name
    assert "units" in (DOCS / "api.md").read_text(encoding="utf-8")


def reference() -> list[str]:
    return re.findall(r"^::: ([\w.]+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_api_reference_has_every_public_name() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    listed = {path.rsplit(".", 1)[-1] for path in reference()} | set(re.findall(r"\w+Error", page))
    assert {n for n in lrp_fx.__all__ if n != "targets"} <= listed
    assert {
        n for n in targets.__all__ if isinstance(getattr(targets, n), type) and n not in ("Index", "Names")
    } <= listed


@pytest.mark.parametrize("path", reference())
def test_what_the_api_reference_names_is_there(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert path == "lrp_fx.errors" or hasattr(importlib.import_module(module), name)


def test_the_site_lists_every_page() -> None:
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    pages = {str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md") if p.parent != DOCS / "measured"}
    assert listed == pages | {"measured/README.md"}
