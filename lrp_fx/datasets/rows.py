"""Rows: what a row of a data set says, as plain values, and its tokens.

requires  a row as its source gave it, the columns that are read, and a reader where texts have to be tokenised
ensures   the same row gives the same values; a row that cannot be read says why, and stops nobody
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from lrp_fx.datasets.sources import Source
from lrp_fx.datasets.values import Texts, id_of, numbers_of, target_of, writable
from lrp_fx.errors import InputError, LrpError
from lrp_fx.preprocess.reader import Reader

#: Columns that are looked for where none is named.
TEXTS, IDS, ID = ("text", "sentence", "prompt"), "input_ids", "id"
_MASK = "attention_mask"


@dataclass(frozen=True)
class Columns:
    """Which columns of a row are read: its ``text`` (or two of them, for a pair), or its ``ids``; what it is called
    (``id``), and the ``target`` that is explained. None: the usual names are looked for.
    """

    text: str | tuple[str, str] | None = None
    ids: str | None = None
    id: str | None = None
    target: str | None = None

    def __post_init__(self) -> None:
        pair = isinstance(self.text, tuple) and len(self.text) == 2 and all(isinstance(n, str) for n in self.text)
        if not (self.text is None or isinstance(self.text, str) or pair):
            raise InputError(f"text_column={self.text!r}: give the name of a column, or two names for pairs")
        for name in ("ids", "id", "target"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise InputError(f"{name}_column={value!r}: give the name of a column")
        if self.text is not None and self.ids is not None:
            raise InputError("give a column of texts or one of ids, not both")

    @property
    def named(self) -> list[str]:
        texts = [self.text] if isinstance(self.text, str) else list(self.text or ())
        return [*texts, *(name for name in (self.ids, self.id, self.target) if name is not None)]

    def check(self, source: Source) -> None:
        """Raise `InputError` for columns that a source does not have, and where there is none that is looked for."""
        fields = source.fields
        if self.named and source.without_columns():
            raise without_column(self.named[0])
        missing = [name for name in self.named if fields is not None and name not in fields]
        if missing:
            raise InputError(f"there is no column {missing[0]!r}; there are {', '.join(fields or ()) or 'none'}")
        if fields is not None and self.text is None and self.ids is None and not {*TEXTS, IDS} & set(fields):
            raise InputError(
                f"which column holds the texts? There are {', '.join(fields)}\n"
                "    next: say text_column= or ids_column="
            )


def without_column(name: str) -> InputError:
    """What to say where a column is asked for, and rows are texts or ids by themselves."""
    return InputError(
        f"there is no column {name!r}: these rows are texts, pairs or ids by themselves\n"
        f"    next: give rows by column, such as [{{'text': ..., {name!r}: ...}}], or a file with columns"
    )


@dataclass(frozen=True)
class Row:
    """Row ``number`` of the data, called ``id`` (None where nobody knows): its ``text`` (or the two of a pair), or
    ``arguments`` of the model by name, one number for each token; the ``target`` to explain. ``error``: why it cannot
    be explained.
    """

    number: int
    id: str | None
    text: str | tuple[str, ...] | None = None
    arguments: Mapping[str, Sequence[int]] | None = None
    target: int | str | None = None
    error: str | None = None

    @property
    def length(self) -> int:
        """How many tokens it has."""
        return max((len(values) for values in (self.arguments or {}).values()), default=0)


@dataclass(frozen=True)
class Window:
    """Rows that follow each other, which become one shard."""

    number: int
    rows: tuple[Row, ...]

    @property
    def digest(self) -> str:
        """Of all that the rows say: the same for the same rows, in this run or another."""
        values = [(r.number, r.id, r.text, dict(r.arguments or {}), r.target, r.error) for r in self.rows]
        return hashlib.sha256(json.dumps(values, ensure_ascii=True).encode()).hexdigest()


def windows_of(rows: Iterator[Any], columns: Columns, size: int) -> Iterator[Window]:
    """The rows in windows of ``size``, the last as long as it is; no more than one is held."""
    numbered = enumerate(rows)
    number = 0
    while part := tuple(read_row(n, value, columns) for n, value in islice(numbered, size)):
        yield Window(number, part)
        number += 1


def read_row(number: int, value: Any, columns: Columns) -> Row:
    """A row as plain values; one that cannot be read says why in ``error``, and keeps what it is called."""
    row = Row(number, str(number))
    try:
        if isinstance(value, Mapping):
            row = _called(row, value, columns)
            return _of_mapping(row, value, columns)
        if isinstance(value, Exception):
            raise value
        if columns.named:
            raise without_column(columns.named[0])
        return _by_itself(row, value)
    except LrpError as error:
        return replace(row, error=said(error))


def _by_itself(row: Row, value: Any) -> Row:
    """A row that is a text, a pair or ids."""
    if isinstance(value, str):
        return replace(row, text=value)
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, str) for v in value):
        return replace(row, text=tuple(value))
    if isinstance(value, (tuple, list)) or hasattr(value, "tolist"):
        return replace(row, arguments={IDS: numbers_of(value, IDS)})
    raise InputError(f"neither a text, a pair, ids nor a mapping by column: {type(value).__name__}")


def _called(row: Row, value: Mapping[str, Any], columns: Columns) -> Row:
    """With the id that stands in its column, if there is one."""
    own = columns.id or (ID if ID in value else None)
    name = id_of(_entry(value, own)) if own is not None else None
    missing = name is None or (isinstance(value, Texts) and not name)
    return row if missing else replace(row, id=name)


def _of_mapping(row: Row, value: Mapping[str, Any], columns: Columns) -> Row:
    if columns.target is not None:
        row = replace(row, target=target_of(_entry(value, columns.target), isinstance(value, Texts)))
    if isinstance(columns.text, tuple):
        return replace(row, text=tuple(_text(value, name) for name in columns.text))
    text = columns.text or next((n for n in TEXTS if n in value), None)
    if columns.ids is None and text is not None:
        return replace(row, text=_text(value, text))
    ids = columns.ids or IDS
    others = {n: v for n, v in value.items() if n in (_MASK, "token_type_ids") and v is not None}
    found = {IDS: _entry(value, ids), **others}
    return replace(row, arguments=_as_long(_without_padding({n: numbers_of(v, n) for n, v in found.items()}), ids))


def _entry(value: Mapping[str, Any], name: str) -> Any:
    if name not in value:
        raise InputError(f"there is no column {name!r}; there are {', '.join(map(str, value)) or 'none'}")
    return value[name]


def _text(value: Mapping[str, Any], name: str) -> str:
    found = _entry(value, name)
    if not isinstance(found, str):
        raise InputError(f"{name} is no text but {type(found).__name__}")
    return found


def _as_long(arguments: dict[str, list[int]], ids: str) -> dict[str, list[int]]:
    """The arguments; raises `InputError` where they do not have a number for each id."""
    count = len(arguments[IDS])
    other = [n for n, v in arguments.items() if len(v) != count]
    if other:
        raise InputError(f"{other[0]} has {len(arguments[other[0]])} numbers, and {ids} has {count}")
    return arguments


def _without_padding(arguments: dict[str, list[int]]) -> dict[str, list[int]]:
    """Without the places at the end that the mask hides."""
    mask = arguments.get(_MASK)
    if not mask or mask[-1] != 0:
        return arguments
    kept = max((i + 1 for i, m in enumerate(mask) if m), default=0)
    return {n: v[:kept] if len(v) == len(mask) else v for n, v in arguments.items()}


def tokenised(row: Row, reader: Reader) -> Row:
    """The row with the model's arguments in the place of its text, and the number of its target; or why not."""
    if row.error is not None:
        return row
    try:
        arguments = dict(reader.rows(row.text) if row.text is not None else row.arguments or {})
        if not arguments.get(IDS):
            raise InputError("the row has no token: there is nothing to explain")
        if reader.forward.takes(_MASK):
            arguments.setdefault(_MASK, [1] * len(arguments[IDS]))
        target = reader.output_index(row.target) if isinstance(row.target, str) else row.target
        return replace(row, text=None, arguments=arguments, target=target)
    except Exception as error:  # whatever is wrong with one row is said of it, and the others go on
        return replace(row, text=None, arguments=None, error=said(error))


def said(error: BaseException) -> str:
    """An error as the column has it: what, and its sentence."""
    return writable(f"{type(error).__name__}: {error}")
