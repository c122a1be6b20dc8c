"""Records: a result as rows of a table, and relevance by depth."""

from __future__ import annotations

import contextlib
import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lrp_fx.cli.checks import STDOUT
from lrp_fx.render.data import Tokens
from lrp_fx.report.relevance import Relevance
from lrp_fx.report.view import examples

COLUMNS = ("example", "input", "place", "text", "content", "position", "relevance")


def write_table(path: Path, heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Comma-separated values into a file, or to standard output (``-``)."""
    with contextlib.ExitStack() as stack:
        to_file = str(path) != STDOUT
        file = stack.enter_context(path.open("w", newline="", encoding="utf-8")) if to_file else sys.stdout
        csv.writer(file).writerows([heading, *rows])


def rows_of(relevance: Relevance) -> Iterator[tuple[Any, ...]]:
    """A row for each token and patch, as `Relevance.to_frame` has them, and for each place of inputs that have neither
    (``3,4`` in a map), in the order of `COLUMNS`.
    """
    for number, example in enumerate(relevance.to_dict()["examples"]):
        yield from ((number, *(row[name] for name in COLUMNS[1:])) for row in example["tokens"])
        told = {row["input"] for row in example["tokens"]}
        for name, values in example["maps"].items():
            for place, value in _flat(values) if name not in told else ():
                yield number, name, ",".join(map(str, place)), "", value, "", value


def _flat(values: Any, place: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every number in nested lists, with its place."""
    if not isinstance(values, list):
        yield place, values
        return
    for i, value in enumerate(values):
        yield from _flat(value, (*place, i))


def as_dict(relevance: Relevance, with_depth: bool) -> dict[str, Any]:
    """What `Relevance.to_dict` gives, and for each example ``depth``: input -> a row for each depth, on request."""
    found = relevance.to_dict()
    for number, name, _, values in depths(relevance) if with_depth else ():
        found["examples"][number].setdefault("depth", {})[name] = [v.tolist() for v in values]
    return found


def depths(relevance: Relevance) -> Iterator[tuple[int, str, list[str], list[Tensor]]]:
    """For each example and residual stream: their number and name, the tokens, and (T,) for each depth.

    Raises `lrp_fx.InputError` where no residual stream was recognised.
    """
    found = relevance.depth
    names = relevance.vocabulary.tokens if relevance.vocabulary is not None else None
    views = examples(relevance, names)
    for name, values in {"": found}.items() if isinstance(found, Tensor) else found.items():
        owner = name or relevance.streams[0].owner
        for number, view in enumerate(views):
            row = values[:, number].cpu()
            part = next((p for p in view.parts if isinstance(p, Tokens) and p.name == owner), None)
            if part is None:
                words = [str(i) for i in range(row.shape[-1])]
            else:
                row, words = row[:, list(part.index)], list(part.text)
            yield number, owner or "residual stream", words, list(row)
