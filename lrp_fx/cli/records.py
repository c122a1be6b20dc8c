"""Records: a result as rows of a table and as plain data for JSON."""

from __future__ import annotations

import contextlib
import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lrp_fx.cli.checks import STDOUT
from lrp_fx.render.data import Raster, Tokens
from lrp_fx.report.relevance import Relevance
from lrp_fx.report.view import examples

COLUMNS = ("example", "input", "place", "id", "token", "content", "position", "relevance")


def write_table(path: Path, heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Comma-separated values into a file, or to standard output (``-``)."""
    with contextlib.ExitStack() as stack:
        to_file = str(path) != STDOUT
        file = stack.enter_context(path.open("w", newline="", encoding="utf-8")) if to_file else sys.stdout
        csv.writer(file).writerows([heading, *rows])


def rows_of(relevance: Relevance) -> Iterator[tuple[Any, ...]]:
    """A row for each token, or for each patch or pixel of an image, in the order of `COLUMNS`."""
    for number, view in enumerate(examples(relevance, _names(relevance))):
        for part in view.parts:
            if isinstance(part, Tokens):
                yield from ((number, part.name, *row) for row in _tokens(relevance, number, part))
            elif isinstance(part, Raster):
                values = part.heat
                for (i, j), value in ((place, float(values[place])) for place in _places(values.shape)):
                    yield number, part.name, f"{i},{j}", "", "", value, "", value
            else:
                for i, value in enumerate(part.heat.tolist()):
                    yield number, part.name, i, "", "", value, "", value


def _places(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(shape[0]) for j in range(shape[1]))


def _tokens(relevance: Relevance, number: int, part: Tokens) -> Iterator[tuple[Any, ...]]:
    ids = relevance.inputs[part.name][number].tolist()
    for i, token, content, position, total in zip(
        part.index, part.text, part.content.tolist(), part.position.tolist(), part.total.tolist(), strict=True
    ):
        yield i, ids[i], token, content, position, total


def _names(relevance: Relevance) -> Any:
    return relevance.vocabulary.tokens if relevance.vocabulary is not None else None


def as_dict(relevance: Relevance, with_depth: bool) -> dict[str, Any]:
    """The whole result as JSON takes it: for each example the target, its inputs token by token, and its ledger."""
    found = [_example(relevance, number, view) for number, view in enumerate(examples(relevance, _names(relevance)))]
    if with_depth:
        for title, _, values in depths(relevance):
            number, name = title.split(", ", 1)
            found[int(number.removeprefix("example "))].setdefault("depth", {})[name] = [v.tolist() for v in values]
    return {"rules": relevance.ruleset, "target": str(relevance.target), "examples": found}


def _example(relevance: Relevance, number: int, view: Any) -> dict[str, Any]:
    target, ledger = relevance.target[number], relevance.ledger
    inputs: dict[str, Any] = {}
    for part in view.parts:
        if isinstance(part, Tokens):
            inputs[part.name] = [dict(zip(COLUMNS[2:], row, strict=True)) for row in _tokens(relevance, number, part)]
        else:
            inputs[part.name] = part.heat.tolist()
    return {
        "target": {
            "title": target.title,
            "index": target.index,
            "label": target.label,
            "position": target.position,
            "probability": target.probability,
        },
        "score": float(relevance.score[number]),
        "inputs": inputs,
        "ledger": {
            "leaves": {name: float(v[number]) for name, v in ledger.leaves.items()},
            "sinks": {name: float(v[number]) for name, v in ledger.sinks.items()},
            "error": float(ledger.error[number]),
            "cancellation": float(ledger.cancellation[number]),
        },
    }


def depths(relevance: Relevance) -> Iterator[tuple[str, list[str], list[Tensor]]]:
    """For each example and residual stream: a title, the tokens, and (T,) for each depth.

    Raises `lrp_fx.InputError` where no residual stream was recognised.
    """
    found = relevance.depth
    views = examples(relevance, _names(relevance))
    for name, values in {"": found}.items() if isinstance(found, Tensor) else found.items():
        owner = name or relevance.streams[0].owner
        for number, view in enumerate(views):
            row = values[:, number].cpu()
            part = next((p for p in view.parts if isinstance(p, Tokens) and p.name == owner), None)
            if part is None:
                names = [str(i) for i in range(row.shape[-1])]
            else:
                row, names = row[:, list(part.index)], list(part.text)
            yield f"example {number}, {owner or 'residual stream'}", names, list(row)
