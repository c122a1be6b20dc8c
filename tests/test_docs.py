"""The documentation is followed to the letter."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import lrp_fx
from lrp_fx.rule import registry

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def test_adding_a_rule_as_the_page_says() -> None:
    use, rule_file, again, preset = blocks("adding_a_rule.md")
    names: dict[str, object] = {"__name__": "following_the_page"}
    sys.modules["following_the_page"] = types.ModuleType("following_the_page")
    exec(use, names)
    before = names["before"]
    assert isinstance(before, lrp_fx.Ledger)
    assert float(before.sinks["unexplained"].abs().max()) > 0
    known = set(registry.rules)
    try:
        exec(rule_file, {"__name__": "rules_soft_maximum"})
        (added,) = set(registry.rules) - known
        check_laws(added)
        exec(again, names)
        after = names["after"]
        assert isinstance(after, lrp_fx.Ledger)
        assert "unexplained" not in after.sinks
        assert float(after.sinks["entropy"].abs().max()) > 0
        exec(preset, names)
    finally:
        for name in set(registry.rules) - known:
            del registry.rules[name]
        del sys.modules["following_the_page"]


def check_laws(name: str) -> None:
    """The laws that tests/test_laws.py holds every registered rule to."""
    from tests import test_laws

    rule = registry.rules[name]
    for call in rule.samples():
        test_laws.check_value(rule, call)
        test_laws.check_balance(rule, call)
        test_laws.check_linearity(rule, call)
        test_laws.check_reference(rule, call)


def test_pages_name_files_that_exist() -> None:
    for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        for path in re.findall(
            r"`((?:rules|examples|tests|testing|lrp_fx|docs|benchmarks)/[\w/.]+)`", page.read_text()
        ):
            if path != "rules/soft_maximum.py":
                assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)} links to {link}"


def test_every_citation_is_in_the_bibliography() -> None:
    keys = set(re.findall(r"@\w+\{(\w+),", (ROOT / "docs" / "bibliography.bib").read_text()))
    for rule in registry.rules.values():
        assert set(rule.cites) <= keys, rule.name
