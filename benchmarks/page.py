"""What a benchmark is: a command with one line of purpose, most with a page of figures in ``docs/measured/``."""

from __future__ import annotations

import argparse
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.compare import Noise, differences

ROOT = Path(__file__).resolve().parents[1]
WRAP = textwrap.TextWrapper(width=120, break_long_words=False, break_on_hyphens=False)
MEASURED = ROOT / "docs" / "measured"


@dataclass(frozen=True)
class Command:
    """A benchmark without a page. ``main(arguments)`` gives the exit status."""

    name: str
    purpose: str
    main: Callable[[list[str]], int | None]


def _no_options(parser: argparse.ArgumentParser) -> None:
    del parser


@dataclass(frozen=True)
class Page:
    """A benchmark with a page.

    ``about(options)``: the text under the title. ``body(options)``: measures, and yields all that stands below so far:
    the page is written after each, so that a long run that is stopped has not been for nothing. ``options``: adds those
    of the command. ``selects``: which of them leave rows of the page out.
    ``noise``: how far figures may be off, by the heading of their column. ``fault``: words in the body that make the
    command fail. ``arguments``: what the command that is named on the page is called with, beside ``--write``.
    ``notes``: a page beside it, written by hand.
    """

    name: str
    purpose: str
    file: str
    title: str
    about: Callable[[argparse.Namespace], str]
    body: Callable[[argparse.Namespace], Iterator[str]]
    options: Callable[[argparse.ArgumentParser], None] = _no_options
    selects: tuple[str, ...] = ()
    noise: Mapping[str, Noise] = field(default_factory=dict)
    fault: str = ""
    arguments: tuple[str, ...] = ()
    notes: str = ""

    @property
    def path(self) -> Path:
        return MEASURED / self.file

    @property
    def command(self) -> str:
        return " ".join(["python -m benchmarks", self.name, *self.arguments, "--write"])

    def parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks {self.name}", description=self.purpose)
        self.options(parser)
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--write", action="store_true", help=f"write docs/measured/{self.file}")
        what.add_argument(
            "--check", action="store_true", help="measure, and fail if the page would change beyond noise"
        )
        parser.add_argument("--page", type=Path, default=self.path, help="another file to write, or to check")
        return parser

    def head(self, options: argparse.Namespace) -> str:
        """Title and text, its paragraphs in lines of 120 columns."""
        paragraphs = [f"Written by `{self.command}`; do not edit by hand.", *self.about(options).strip().split("\n\n")]
        return "\n\n".join([f"# {self.title}", *(WRAP.fill(" ".join(p.split())) for p in paragraphs)]) + "\n"

    def text(self, options: argparse.Namespace, body: str) -> str:
        return f"{self.head(options)}\n{body.strip()}\n"

    def main(self, arguments: list[str]) -> int:
        """Measure; then write the page, or check it, or neither. 1 where it would change, or its body tells a fault."""
        parser = self.parser()
        options = parser.parse_args(arguments)
        whole = all(getattr(options, name) == parser.get_default(name) for name in self.selects)
        if options.write and not whole and options.page == self.path:
            parser.error("the page would lose the rows that are not measured; name another file with --page")
        warnings.simplefilter("ignore")  # of cancellation in random models
        body = ""
        for body in self.body(options):
            if options.write:
                options.page.write_text(self.text(options, body), encoding="utf-8")
        if options.write:
            print(f"wrote {options.page}")
        changed = self.check(options, body, whole) if options.check else []
        return int(bool(changed) or (bool(self.fault) and self.fault in body))

    def check(self, options: argparse.Namespace, body: str, whole: bool) -> list[str]:
        """What would change; said in a line each."""
        old = options.page.read_text(encoding="utf-8") if options.page.exists() else ""
        changed = differences(old, self.text(options, body), self.noise, whole=whole)
        said = f"{len(changed)} would change" if changed else "as measured"
        print(*changed, f"{options.page}: {said}" + ("" if whole else " (of what was measured)"), sep="\n")
        return changed


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in markdown."""
    lines = [f"| {' | '.join(row)} |" for row in (headings, *rows)]
    return "\n".join([lines[0], "|---" * len(headings) + "|", *lines[1:]])
