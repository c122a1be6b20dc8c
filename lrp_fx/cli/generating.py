"""``generate``: what a model writes after a text, each token with what it was written from."""

from __future__ import annotations

import json as jsons
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrp_fx.cli.checks import STDOUT
from lrp_fx.cli.records import write_table
from lrp_fx.generation.generation import Generation
from lrp_fx.preprocess.open import load_model, load_processor, load_tokenizer
from lrp_fx.runtime.convert import convert

COLUMNS = ("step", "written", "source", "input", "place", "token", "content", "position", "relevance")


@dataclass(frozen=True)
class Wanted:
    """What the command line asks to be explained, and where it is to be written."""

    text: str
    then: str | None
    against: str | None
    max_new_tokens: int
    words: bool
    hops: int | None
    json: bool
    html: Path | None
    png: Path | None
    csv: Path | None


def run_generate(name: str, wanted: Wanted, *, rules: str, dtype: str) -> None:
    """Generate, explain, print and write."""
    model = load_model(name, dtype)
    explainer = convert(model, tokenizer=load_tokenizer(name), processor=load_processor(name), rules=rules)
    if wanted.then is None:
        found: Any = explainer.generate(wanted.text, max_new_tokens=wanted.max_new_tokens)
    else:
        found = explainer.continuation(wanted.text, wanted.then, against=wanted.against)
    found = found.hops(wanted.hops) if wanted.hops else found
    found = found.words() if wanted.words else found
    wrote = list(_written(found, wanted))
    quiet = wanted.json or str(wanted.csv) == STDOUT
    if not quiet:
        found.show()
    for path in wrote:
        print(f"wrote {path}", file=sys.stderr if quiet else sys.stdout)
    if wanted.json:
        print(jsons.dumps({"model": name, **found.to_dict()}, ensure_ascii=False, indent=1))


def _written(found: Generation, wanted: Wanted) -> Iterator[Path]:
    """Write the files that are asked for."""
    if wanted.html is not None:
        found.to_html(wanted.html)
        yield wanted.html
    if wanted.png is not None:
        found.plot().savefig(wanted.png, dpi=150)
        yield wanted.png
    if wanted.csv is not None:
        write_table(wanted.csv, COLUMNS, _rows(found))
        if str(wanted.csv) != STDOUT:
            yield wanted.csv


def _rows(found: Generation) -> Iterator[tuple[Any, ...]]:
    """A row for each step and source."""
    for k, target in enumerate(found.targets):
        for j, source in enumerate(found.sources):
            content, position = float(found.content[k, j]), float(found.position[k, j])
            yield k, target.text, j, source.input, source.start, source.text, content, position, content + position
