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
        """All rows as one `pyarrow.Table`, in the order of the data. (Large runs are read shard by shard.)"""
        return needed("pyarrow.parquet", "data").read_table(self._files(), schema=schema())

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
