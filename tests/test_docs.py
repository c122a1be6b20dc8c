"""The documentation is followed to the letter."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import lrp_fx
from lrp_fx.rule import KINDS, registry

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


PAGE = "adding_a_rule.md"


def test_adding_a_rule_as_the_page_says() -> None:
    use, rule_file, again, preset = blocks(PAGE)
    names: dict[str, object] = {"__name__": "following_the_page"}
    sys.modules["following_the_page"] = types.ModuleType("following_the_page")
    exec(use, names)
    before = names["before"]
    assert isinstance(before, lrp_fx.Ledger)
    assert float(before.sinks["unexplained"].abs().max()) > 0
    known = set(registry.rules)
    try:
        exec(rule_file, {"__name__": "rules_soft_maximum"})
        exec(again, names)
        after = names["after"]
        assert isinstance(after, lrp_fx.Ledger)
        assert "unexplained" not in after.sinks
        assert float(after.sinks["entropy"].abs().max()) > 0
        exec(preset, names)
    finally:
        registry.remove(*(registry.rules[name] for name in set(registry.rules) - known))
        del sys.modules["following_the_page"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a contributor has: the package, its rules, the tests and what they need."""
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "lrp_fx", copy / "lrp_fx", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("rules", "tests", "testing"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "docs").mkdir()
    for file in ("pyproject.toml", "docs/bibliography.bib"):
        shutil.copy(ROOT / file, copy / file)
    return copy


def follow(checkout: Path, *edits: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    """Put the page's rule where it says, and run the command it gives."""
    text = (ROOT / "docs" / PAGE).read_text()
    (place,) = re.findall(r"^Put this into `(rules/\w+\.py)`", text, re.MULTILINE)
    (command,) = re.findall(r"```bash\npython (.*?)\n```", text)
    rule_file = blocks(PAGE)[1]
    for old, new in edits:
        assert old in rule_file
        rule_file = rule_file.replace(old, new)
    (checkout / place).write_text(rule_file)
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
    return subprocess.run(
        [sys.executable, *shlex.split(command)],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_pages_command_passes_with_the_file_alone(checkout: Path) -> None:
    done = follow(checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) >= 10 and "skipped" not in done.stdout.splitlines()[-1]


def test_the_pages_command_fails_with_a_broken_rule(checkout: Path) -> None:
    """Every law that the rule breaks is named, each by a test of its own."""
    broken = {
        "a `freeze` is missing": (
            "p = freeze(torch.sigmoid((a - b) * math.log(2.0)))",
            "p = torch.sigmoid((a - b) * math.log(2.0))",
        ),
        "value off by": ("return y + sink(", "return 1.001 * y + sink("),
        "route.soft_maximum: off by": ("part / y * R_y", "0.5 * part / y * R_y"),
        "declares": ('sinks=("entropy",)', "sinks=()"),
        "without a call in `samples`": ('"aten", "logaddexp2"', '"aten", "logaddexp2 logaddexp"'),
        "nobody1999": ('cites=("montavon2019",)', 'cites=("nobody1999",)'),
    }
    done = follow(checkout, *broken.values())
    assert done.returncode == 1, done.stdout + done.stderr
    for message in broken:
        assert message in done.stdout


def test_the_page_explains_every_kind() -> None:
    """The page's table is what the code says of the kinds."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (\w+) \|$", (ROOT / "docs" / PAGE).read_text(), re.MULTILINE)
    assert rows == [(name, kind.about, kind.example, kind.surrogate) for name, kind in KINDS.items()]


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
