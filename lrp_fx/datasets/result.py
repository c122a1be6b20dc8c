"""Result: what a run over a data set has come to, and its rows as a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrp_fx.datasets.table import schema
from lrp_fx.errors import InputError, needed


@dataclass(frozen=True)
class DataRun:
    """What `Explainer.map` has written to a ``folder``: how many ``rows`` the data has, how many of them are in error
    (``errors``; None while other processes have shards to write), and in how many ``shards`` they are.
    """

    folder: Path
    rows: int
    errors: int | None
    shards: int

    @property
    def complete(self) -> bool:
        """Is every shard there?"""
        return self.errors is not None

    def table(self) -> Any:
        """All rows as one `pyarrow.Table`, in the order of the data. (Large runs are read shard by shard.)

        Raises `InputError` where shards are missing or damaged.
        """
        files, parquet = self._files(), needed("pyarrow.parquet", "data")
        try:
            return parquet.read_table(files, schema=schema())
        except (OSError, ValueError) as error:
            raise damaged_shard(next((f for f in files if not _reads(parquet, f)), self.folder), error) from error

    def to_frame(self) -> Any:
        """The same as a `pandas.DataFrame`."""
        return self.table().to_pandas()

    def _files(self) -> list[str]:
        found = [str(path) for path in sorted(self.folder.glob("part-*.parquet"))]
        if not self.complete or len(found) != self.shards:
            raise InputError(
                f"{self.folder} holds {len(found)} of {self.shards} shards\n    next: run again, and it goes on"
            )
        return found


def damaged_shard(path: Path | str, error: Exception) -> InputError:
    """What to say of a shard that cannot be read."""
    return InputError(f"{path} is damaged ({' '.join(str(error).split())})\n    next: delete it, and run again")


def _reads(parquet: Any, file: str) -> bool:
    """Can a shard be read to its end?"""
    try:
        parquet.read_table(file, schema=schema())
    except (OSError, ValueError):
        return False
    return True
