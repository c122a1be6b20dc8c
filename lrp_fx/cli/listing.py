"""Lists and tables on the terminal."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lrp_fx.recognize.recognisers import RECOGNISERS
from lrp_fx.rewrite.refuse import approximations
from lrp_fx.runtime.explainer import Explainer
from lrp_fx.runtime.pipeline import PIPELINE
from lrp_fx.runtime.settings import rulesets
from lrp_fx.structure.sites import Site

INPUT = "input"


def wide_console() -> Console:
    """The terminal's width, or enough for the tables where output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def print_passes() -> None:
    """Every pass, what it keeps and what it is for."""
    table = Table("pass", "keeps", "purpose", box=None, pad_edge=False)
    for step in PIPELINE:
        table.add_row(step.name + ("*" if step.optional else ""), step.keeps.value, step.purpose)
    console = wide_console()
    console.print(table)
    console.print("* can be left out: convert(model, without=(NAME, ...))", highlight=False)


def print_rules() -> None:
    """Every preset."""
    table = Table("preset", "what it is", box=None, pad_edge=False)
    for name, about in rulesets().items():
        table.add_row(name, about)
    Console().print(table)


def print_recognisers() -> None:
    """Every recogniser, in the order in which they are asked."""
    table = Table("recogniser", "gives", "what it recognises", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for recogniser in RECOGNISERS:
        gives = ", ".join(recogniser.kinds) if len(recogniser.kinds) < 4 else "any kind"
        table.add_row(recogniser.name, gives, escape(recogniser.purpose))
    wide_console().print(table)


def print_sites(console: Console, sites: list[Site]) -> None:
    """One table per kind; places that differ only in numbers (layers) and share everything else are one row."""
    for kind, members in groupby(sorted(sites, key=lambda s: (s.kind != INPUT, s.kind)), key=lambda s: s.kind):
        rows: dict[tuple[str, ...], list[str]] = {}
        for site in members:
            place = ".".join("*" if part.isdecimal() else part for part in site.module.split("."))
            rows.setdefault((place, site.variant, site.rule, site.source.split(": ")[0]), []).append(site.module)
        table = Table(
            title=f"{kind}",
            title_justify="left",
            title_style="bold",
            box=None,
            pad_edge=False,
            padding=(0, 2, 0, 0),
            header_style="dim",
        )
        for heading in ("where", "how", "rule", "times", "source"):
            table.add_column(heading, overflow="fold", justify="right" if heading == "times" else "left")
        for (place, variant, rule, source), modules in rows.items():
            table.add_row(
                escape(place or ("" if kind == "input" else "model")),
                escape(variant),
                rule,
                str(len(modules)),
                escape(source),
            )
        console.print(table)
        console.print()


def print_coverage(console: Console, explainer: Explainer) -> None:
    """Operations by how they were found and by rule."""
    table = Table(
        title="coverage",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    for heading in ("how", "rule", "operations"):
        table.add_column(heading, justify="right" if heading == "operations" else "left")
    for how, rules in explainer.coverage.items():
        for rule, count in sorted(rules.items(), key=lambda kv: -kv[1]):
            table.add_row(how, rule, str(count))
    console.print(table)


def print_approximations(console: Console, explainer: Explainer, most: int = 5) -> None:
    """The first operations that no rule serves exactly: why, what they came nearest to, and what to do."""
    problems = approximations(explainer.rewritten)
    for problem in problems[:most]:
        console.print(str(problem), highlight=False, markup=False, soft_wrap=True)
    if len(problems) > most:
        console.print(f"  and {len(problems) - most} more", highlight=False)
