"""Batches: rows of like length explained together, and what each of them got, as plain values.

requires  tokenised rows, and something that explains as an explainer does
ensures   which rows share a batch depends on the rows and the size of batches only; a row that fails fails alone
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from lrp_fx.datasets.rows import IDS, Row, said
from lrp_fx.errors import holding_warnings
from lrp_fx.preprocess.reader import Reader
from lrp_fx.report.explained import ExplainedScore
from lrp_fx.report.relevance import Relevance
from lrp_fx.report.tokens import is_text
from lrp_fx.targets import Target

#: Ids, content and position of one input: for each row, or for each token of one row.
Lists: TypeAlias = tuple[list[Any], list[Any], list[Any]]


class Explains(Protocol):
    """What explains a batch: an explainer, or one that was loaded."""

    def __call__(self, *, target: Any, **inputs: Any) -> Relevance: ...


@dataclass(frozen=True)
class Record:
    """What one row got. All amounts are in units of the score; one entry for each token in ``ids``, ``tokens`` (None
    where nobody knows what they are called), ``content``, ``position``; ``inputs``: how many of them are of each input.
    """

    row: Row
    error: str | None = None
    explained: ExplainedScore | None = None
    inputs: dict[str, int] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)
    tokens: list[str] | None = None
    content: list[float] = field(default_factory=list)
    position: list[float] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)


def planned(rows: Sequence[Row], size: int, at_once: str) -> list[list[Row]]:
    """The rows in batches of at most ``size``, sorted by length; ``at_once``: as `Reader.at_once` has it."""
    batches: list[list[Row]] = []
    for row in sorted(rows, key=lambda r: (r.length, r.number)):
        last = batches[-1] if batches else []
        fits = last and len(last) < (1 if at_once == "none" else size)
        if fits and _alike(last[0], row, at_once):
            last.append(row)
        else:
            batches.append([row])
    return batches


def _alike(first: Row, row: Row, at_once: str) -> bool:
    """May two rows share a batch?"""
    return (at_once != "equal" or first.length == row.length) and (first.target is None) == (row.target is None)


def explained(explain: Explains | None, reader: Reader, rows: Sequence[Row], target: Target, size: int) -> list[Record]:
    """A record for each row, in the order of the rows. ``explain``: None where no row can be explained."""
    found = {row.number: Record(row, row.error) for row in rows if row.error is not None}
    good = [row for row in rows if row.error is None]
    for batch in planned(good, size, reader.at_once):
        assert explain is not None
        found |= {record.row.number: record for record in _explained(explain, reader, batch, target)}
    return [found[row.number] for row in rows]


def _explained(explain: Explains, reader: Reader, rows: Sequence[Row], target: Target) -> list[Record]:
    """Those of one batch; where it fails, of its halves, until what fails is a row by itself."""
    try:
        return _records(called(explain, reader, rows, target), rows)
    except Exception as error:
        if len(rows) == 1:
            return [Record(rows[0], said(error))]
    half = len(rows) // 2
    return [r for part in (rows[:half], rows[half:]) for r in _explained(explain, reader, part, target)]


def arguments_of(reader: Reader, rows: Sequence[Row], target: Target) -> tuple[Any, dict[str, Tensor]]:
    """The target of a batch and the model's arguments for it."""
    goal = [row.target for row in rows] if rows[0].target is not None else target
    return goal, reader.batch([row.arguments or {} for row in rows])


def called(explain: Explains, reader: Reader, rows: Sequence[Row], target: Target) -> Relevance:
    """The result of one batch. (What is warned of is in the columns, for every row.)"""
    goal, inputs = arguments_of(reader, rows, target)
    with holding_warnings():
        return explain(target=goal, **inputs)


def _records(relevance: Relevance, rows: Sequence[Row]) -> list[Record]:
    texts = [n for n, R in relevance.content.items() if R.dim() == 2 and is_text(n, R, relevance.inputs)]
    placed = relevance.per_token("signed", content=False) if texts else {}
    position = placed if isinstance(placed, dict) else {texts[0]: placed}
    lists: dict[str, Lists] = {
        n: (relevance.inputs[n].tolist(), relevance.content[n].tolist(), position[n].tolist()) for n in texts
    }
    ledger = relevance.ledger
    numbers = {
        "score": relevance.score.tolist(),
        "ledger_error": ledger.error.tolist(),
        "cancellation": ledger.cancellation.tolist(),
        "token_cancellation": ledger.token_cancellation.tolist(),
    }
    shares = {name: values.tolist() for name, values in ledger.shares().items()}
    names = relevance.vocabulary.tokens if relevance.vocabulary is not None else {}
    return [
        _record(row, relevance.target[b], _cut(lists, row, b), names, _of(numbers, b), _of(shares, b))
        for b, row in enumerate(rows)
    ]


def _of(values: dict[str, list[float]], b: int) -> dict[str, float]:
    return {name: rows[b] for name, rows in values.items()}


def _cut(lists: dict[str, Lists], row: Row, b: int) -> dict[str, Lists]:
    """Ids, content and position of one row by input, without padding. (What a decoder begins with is of all rows.)"""
    found: dict[str, Lists] = {}
    for number, (name, values) in enumerate(lists.items()):
        own = number == 0 or name in (row.arguments or {})
        kept = len((row.arguments or {}).get(name, (row.arguments or {})[IDS])) if own else len(values[0][b])
        found[name] = (values[0][b][:kept], values[1][b][:kept], values[2][b][:kept])
    return found


def _record(
    row: Row,
    score: ExplainedScore,
    cut: dict[str, Lists],
    names: Any,
    numbers: dict[str, float],
    shares: dict[str, float],
) -> Record:
    ids, content, position = ([x for part in cut.values() for x in part[k]] for k in range(3))
    tokens = [str(names.get(i, i)) for i in ids] if names else None
    inputs = {name: len(part[0]) for name, part in cut.items()}
    return Record(row, None, score, inputs, ids, tokens, content, position, numbers, shares)
