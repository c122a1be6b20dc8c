"""Sources: the rows of a data set, whatever holds it, one after the other and never all at once.

requires  a file (Parquet, CSV, JSON by the line, plain lines), a folder of Parquet files, or anything that gives rows
ensures   rows in their own order, each a text, a pair, or a mapping by column; how many there are, where that is known
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lrp_fx.datasets.texts import check_text, csv_rows, json_rows, lines_of
from lrp_fx.errors import InputError, needed

PARQUET, CSV, JSON, LINES = (".parquet",), (".csv", ".tsv"), (".jsonl", ".ndjson", ".json"), (".txt",)
_KNOWN = ", ".join((*PARQUET, *CSV, *JSON, *LINES))
_ROWS_AT_ONCE = 1024


@dataclass
class Source:
    """``rows`` to be read once; ``count``: how many, None where that is not known; ``fields``: the columns, where all
    rows have the same; ``texts``: are all entries texts, numbers too?
    """

    rows: Iterator[Any]
    count: int | None = None
    fields: tuple[str, ...] | None = None
    texts: bool = False

    def without_columns(self) -> bool:
        """Is the first row a text, a pair or ids by itself? (It is given again.)"""
        if self.fields is not None:
            return False
        first = list(islice(self.rows, 1))
        self.rows = chain(first, self.rows)
        return bool(first) and not isinstance(first[0], (Mapping, Exception))


def source_of(data: Any) -> Source:
    """What holds the rows, opened.

    data: the path of a file or folder, a data frame, a table of Arrow, columns by name, or rows: texts, pairs, ids,
        mappings by column.

    Raises `InputError` for a single text, for a file that is not there, and for one of an unknown kind.
    """
    if isinstance(data, (str, Path)):
        return _of_path(Path(data), data)
    if isinstance(data, Mapping):
        return _of_columns({str(n): v for n, v in data.items()})
    found = _of_frame(data) or _of_arrow(data)
    if found is not None:
        return found
    if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
        raise InputError(
            f"a {type(data).__name__} holds no rows\n    next: give texts, rows by column, or a file ({_KNOWN})"
        )
    count = len(data) if hasattr(data, "__len__") else None
    fields = getattr(data, "column_names", None)
    return Source(iter(data), count, tuple(fields) if isinstance(fields, (list, tuple)) else None)


def _of_frame(data: Any) -> Source | None:
    """Of a data frame: pandas' and others' by column, polars' by row."""
    if hasattr(data, "collect_schema") and not hasattr(data, "iter_rows"):
        raise InputError(f"a {type(data).__name__} holds no rows yet\n    next: give data.collect()")
    if not hasattr(data, "columns"):
        return None
    if hasattr(data, "itertuples"):
        return _of_columns({str(n): data[n] for n in data.columns})
    if hasattr(data, "iter_rows"):
        return Source(data.iter_rows(named=True), len(data), tuple(map(str, data.columns)))
    return None


def _of_arrow(data: Any) -> Source | None:
    """Of what speaks Arrow: tables, batches, readers, files."""
    if not hasattr(data, "schema") or not hasattr(data.schema, "names"):
        return None
    fields = tuple(data.schema.names)
    if hasattr(data, "iter_batches"):
        return _of_batches(data.iter_batches(_ROWS_AT_ONCE), None, fields)
    if hasattr(data, "to_batches"):
        return _of_batches(data.to_batches(_ROWS_AT_ONCE), getattr(data, "num_rows", None), fields)
    if hasattr(data, "read_next_batch"):
        return _of_batches(data, None, fields)
    return _of_batches([data], data.num_rows, fields) if hasattr(data, "to_pylist") else None


def _of_path(path: Path, given: str | Path) -> Source:
    """Of a file, or of all Parquet files of a folder in the order of their names."""
    if path.is_dir():
        files = sorted(path.glob("*.parquet"))
        if not files:
            raise InputError(f"the folder {path} holds no .parquet file")
        return _of_parquet(files)
    suffix = path.suffix.lower()
    if not path.is_file():
        what = f"there is no file {given}" if suffix and " " not in suffix else f"{str(given)[:40]!r} is a single text"
        raise InputError(f"{what}\n    next: give a list of texts, or a file ({_KNOWN})")
    if suffix in PARQUET:
        return _of_parquet([path])
    if suffix in (*CSV, *JSON, *LINES):
        check_text(path)
    if suffix in CSV:
        return Source(*csv_rows(path, "\t" if suffix == ".tsv" else ","), texts=True)
    if suffix in JSON:
        return Source(json_rows(path))
    if suffix in LINES:
        return Source(lines_of(path))
    raise InputError(f"{path}: rows are read from files that end in {_KNOWN}")


def _of_parquet(files: Sequence[Path]) -> Source:
    parquet = needed("pyarrow.parquet", "data")
    try:
        opened = [parquet.ParquetFile(file) for file in files]
    except Exception as error:
        raise InputError(f"{files[0].parent} cannot be read as Parquet: {error}") from error
    batches = (batch for file in opened for batch in file.iter_batches(_ROWS_AT_ONCE))
    return _of_batches(batches, sum(f.metadata.num_rows for f in opened), tuple(opened[0].schema_arrow.names))


def _of_batches(batches: Iterable[Any], count: int | None, fields: tuple[str, ...]) -> Source:
    return Source((row for batch in batches for row in batch.to_pylist()), count, fields)


def _of_columns(columns: Mapping[str, Any]) -> Source:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise InputError(f"the columns are not of one length: {', '.join(f'{n} {k}' for n, k in lengths.items())}")
    names = tuple(columns)
    rows = (dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True))
    return Source(rows, next(iter(lengths.values())), names)
