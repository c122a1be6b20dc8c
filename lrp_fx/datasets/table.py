"""Table: the columns of a shard, and records as rows of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lrp_fx.datasets.batches import Record
from lrp_fx.errors import needed


@dataclass(frozen=True)
class Column:
    """A column: its ``name``, its ``type`` as `docs/datasets.md` has it, what is in it, and how it is read of a record
    (of one in error only where it is there ``always``).
    """

    name: str
    type: str
    about: str
    read: Callable[[Record], Any]
    always: bool = False


COLUMNS = (
    Column("row", "int64", "the place of the row in the data, counted from 0", lambda r: r.row.number, True),
    Column("id", "string", "what the row is called: its column `id`, or its place", lambda r: r.row.id, True),
    Column("error", "string", "why the row could not be explained; null where it was", lambda r: r.error, True),
    Column(
        "score",
        "float64",
        "the number that is explained, in units of the output (logits)",
        lambda r: r.numbers["score"],
    ),
    Column(
        "target_indices",
        "list<int64>",
        "the classes or tokens whose outputs are read",
        lambda r: list(_said(r).indices),
    ),
    Column(
        "target_labels", "list<string>", "what they are called, null where nobody said", lambda r: list(_said(r).labels)
    ),
    Column(
        "target_positions", "list<int64>", "the rows of the output that are read", lambda r: list(_said(r).positions)
    ),
    Column(
        "probabilities",
        "list<float64>",
        "of each of them; empty where not known",
        lambda r: list(_said(r).probabilities),
    ),
    Column("inputs", "map<string, int64>", "how many of the tokens are of which input", lambda r: r.inputs),
    Column("input_ids", "list<int64>", "the ids of the row, without padding", lambda r: r.ids),
    Column("tokens", "list<string>", "what they are called; null without a tokenizer", lambda r: r.tokens),
    Column("content", "list<float64>", "content relevance of each token", lambda r: r.content),
    Column("position", "list<float64>", "position relevance of each token, signed", lambda r: r.position),
    Column(
        "ledger_error",
        "float64",
        "what the books are off by, relative to the score",
        lambda r: r.numbers["ledger_error"],
    ),
    Column("cancellation", "float64", "absolute parts over the score", lambda r: r.numbers["cancellation"]),
    Column("token_cancellation", "float64", "the same among tokens", lambda r: r.numbers["token_cancellation"]),
    Column("shares", "map<string, float64>", "each leaf's and sink's share of the score", lambda r: r.shares),
)


def _said(record: Record) -> Any:
    return record.explained


def schema() -> Any:
    """The Arrow schema."""
    arrow = needed("pyarrow", "data")
    plain = {"string": arrow.string, "int64": arrow.int64, "float64": arrow.float64}

    def type_of(name: str) -> Any:
        if name.startswith("list<"):
            return arrow.list_(type_of(name[5:-1]))
        if name.startswith("map<"):
            return arrow.map_(*(type_of(part.strip()) for part in name[4:-1].split(",")))
        return plain[name]()

    return arrow.schema([arrow.field(c.name, type_of(c.type)) for c in COLUMNS])


def as_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Records as mappings by column."""
    return [{c.name: c.read(r) if c.always or r.error is None else None for c in COLUMNS} for r in records]


def as_table(records: Sequence[Record]) -> Any:
    """Records as a table of Arrow."""
    rows = [{n: list(v.items()) if isinstance(v, dict) else v for n, v in row.items()} for row in as_rows(records)]
    return needed("pyarrow", "data").Table.from_pylist(rows, schema=schema())
