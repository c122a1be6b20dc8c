"""All benchmarks, found by being here, and the index of their pages."""

from __future__ import annotations

import importlib
import pkgutil

import benchmarks
from benchmarks.compare import ANY, OTHERS, TEXT, differences, parse
from benchmarks.page import MEASURED, WRAP, Command, Page, table

INDEX = MEASURED / "README.md"
INTRO = """\
Every page is written by its command. With `--check` in place of `--write` a command measures, and fails if its page
would change by more than the noise that it states. `python -m benchmarks --check` measures nothing: it says whether
this list, and the text around the figures of each page, is what the commands would write."""


def discover() -> dict[str, Page | Command]:
    """Every ``BENCHMARK`` of a module in this folder, by its name."""
    names = sorted(m.name for m in pkgutil.walk_packages(benchmarks.__path__, "benchmarks."))
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    found = [module.BENCHMARK for module in modules if hasattr(module, "BENCHMARK")]
    if len({b.name for b in found}) < len(found):
        raise ValueError(f"two benchmarks of one name: {', '.join(sorted(b.name for b in found))}")
    return {b.name: b for b in sorted(found, key=lambda b: b.name)}


def index(found: dict[str, Page | Command]) -> str:
    """The page that lists all others."""
    pages = [b for b in found.values() if isinstance(b, Page)]
    others = [b for b in found.values() if isinstance(b, Command)]
    notes = {b.name: f" ([notes]({b.notes}))" if b.notes else "" for b in pages}
    rows = [[f"[{b.title}]({b.file}){notes[b.name]}", b.purpose, f"`{b.command}`"] for b in pages]
    commands = [[f"`python -m benchmarks {b.name}`", b.purpose] for b in others]
    parts = [
        "# Measured",
        "Written by `python -m benchmarks --write`; do not edit by hand.",
        WRAP.fill(" ".join(INTRO.split())),
        table(["page", "what", "command"], rows),
        "Commands without a page:",
        table(["command", "what"], commands),
    ]
    return "\n\n".join(parts) + "\n"


def form(page: Page) -> list[str]:
    """What on the page is not as its command would write it now, figures and tables apart; nothing is measured."""
    options = page.parser().parse_args([])
    old = page.path.read_text(encoding="utf-8") if page.path.exists() else ""
    own = "\n\n".join(parse(old).prose[: len(parse(page.head(options)).prose)])
    return differences(own, page.head(options), {OTHERS: ANY, TEXT: ANY})


def stale(found: dict[str, Page | Command]) -> list[str]:
    """What is not as it would be written, of the index and of the texts of all pages; nothing is measured."""
    changed = [] if INDEX.exists() and INDEX.read_text(encoding="utf-8") == index(found) else [f"{INDEX.name} is stale"]
    for page in found.values():
        if isinstance(page, Page):
            changed += [f"{page.file}: {line}" for line in form(page)]
    known = {"README.md", *(n for b in found.values() if isinstance(b, Page) for n in (b.file, b.notes))}
    return changed + [
        f"{p.name} is written by no command" for p in sorted(MEASURED.glob("*.md")) if p.name not in known
    ]
