"""Texts: rows of files that people write: CSV, JSON, plain lines.

requires  a file of text in UTF-8, with a mark at its beginning or without
ensures   its rows in their order; a row that cannot be read is an `InputError` in its place, and the others go on
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from lrp_fx.datasets.values import Texts
from lrp_fx.errors import InputError

#: UTF-8; the mark that some programs begin a file with is no part of it.
_ENCODING = "utf-8-sig"
_PIECE = 1 << 20


def check_text(path: Path) -> None:
    """Raise `InputError` for a file that is not UTF-8, before hours of work are lost."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with path.open("rb") as file:
        while True:
            piece = file.read(_PIECE)
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                raise InputError(
                    f"{path} is not UTF-8 (line {line})\n    next: save it as UTF-8, for example "
                    f"iconv -f latin1 -t utf-8 {path.name} > utf8{path.suffix}, with the encoding that it has"
                ) from None
            if not piece:
                return
            line += piece.count(b"\n")


def _opened(path: Path, newline: str | None = None) -> TextIO:
    return path.open(encoding=_ENCODING, newline=newline)


# ------------------------------------------------------------------------------------------------ CSV
def csv_rows(path: Path, delimiter: str) -> tuple[Iterator[Any], None, tuple[str, ...]]:
    """The rows of a CSV file, how many there are (not known), and its columns."""
    with _opened(path, "") as file:
        head = next(_records(file, path, delimiter), None)
    if isinstance(head, InputError):
        raise head
    if not head:
        raise InputError(f"{path} is empty: its first line has to name the columns")
    return _csv_rows(path, delimiter), None, tuple(head)


def _csv_rows(path: Path, delimiter: str) -> Iterator[Any]:
    """Each row by column; entries that a short row lacks are None."""
    with _opened(path, "") as file:
        records = _records(file, path, delimiter)
        head = next(records)
        for record in records:
            if isinstance(record, InputError):
                yield record
            elif record:
                yield Texts(zip(head, chain(record, [None] * (len(head) - len(record))), strict=False))


def _records(file: TextIO, path: Path, delimiter: str) -> Iterator[Any]:
    """Lists of entries, of any length."""
    reader = csv.reader(file, delimiter=delimiter)
    while True:
        try:
            with _long_entries():
                record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield InputError(f"line {reader.line_num} of {path.name} is no row: {error}")
        else:
            yield record


@contextlib.contextmanager
def _long_entries() -> Iterator[None]:
    """Entries may be of any length for a while. (The limit is one for all that reads CSV in this process.)"""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


# ------------------------------------------------------------------------------------------------ JSON
def json_rows(path: Path) -> Iterator[Any]:
    """A row for each line, or for each object of an array."""
    with _opened(path) as file:
        lines = (line for line in file if line.strip())
        first, more = next(lines, ""), next(lines, None) is not None
    if more and _is_json(first):
        return _json_lines(path)
    whole = _whole(path) if first.strip() else []
    if isinstance(whole, list) and (more or all(isinstance(row, dict) for row in whole)):
        return iter(whole)
    return iter([whole]) if more and isinstance(whole, dict) else _json_lines(path)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return False
    return True


def _whole(path: Path) -> Any:
    """What the file holds as one value; None where it is none."""
    try:
        with _opened(path) as file:
            return json.load(file)
    except (json.JSONDecodeError, RecursionError):
        return None


def _json_lines(path: Path) -> Iterator[Any]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    yield InputError(f"line {number} is not JSON: {error.msg}")
                except RecursionError:
                    yield InputError(f"line {number} is JSON of too many levels")


def lines_of(path: Path) -> Iterator[str]:
    """Each line as a text."""
    with _opened(path) as file:
        for line in file:
            yield line.rstrip("\n")
