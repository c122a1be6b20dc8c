"""Tasks: the shards that a run has to write, one after the other, with the rows that each takes.

requires  the rows of the data, and (where results are kept) the folder of the run
ensures   which rows are a shard depends on the data and the settings only; what is there is not done again
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lrp_fx.datasets.batches import Explains, Record, explained
from lrp_fx.datasets.folder import Folder, Shard
from lrp_fx.datasets.rows import Row, Window, tokenised, windows_of
from lrp_fx.datasets.settings import Settings
from lrp_fx.datasets.sources import Source
from lrp_fx.datasets.told import Told
from lrp_fx.preprocess.reader import Reader


@dataclass(frozen=True)
class Task:
    """Shard ``number``: its rows, tokenised, and the digest of what they were made of."""

    number: int
    digest: str
    rows: tuple[Row, ...]

    @property
    def readable(self) -> bool:
        """Is there a row that can be explained?"""
        return any(row.error is None for row in self.rows)


@dataclass
class Tasks:
    """Iterates over the shards that are to be written. ``rows``, ``shards``: how many there were so far, done or not;
    ``example``: the rows of the first shard that has any to explain: by these the model is captured, whatever of the
    run is there, so that it is captured alike.
    """

    source: Source
    settings: Settings
    reader: Reader
    folder: Folder | None
    told: Told
    rows: int = 0
    shards: int = 0
    example: tuple[Row, ...] | None = None
    _first: Window | None = field(default=None, repr=False)

    def __iter__(self) -> Iterator[Task]:
        rank, world = self.settings.share
        for window in windows_of(self.source.rows, self.settings.columns, self.settings.rows):
            self.rows, self.shards = self.rows + len(window.rows), window.number + 1
            read = self._read(window) if self.example is None else None
            if window.number % world == rank and not self._is_there(window):
                yield Task(window.number, window.digest, read or self._read(window))

    def _is_there(self, window: Window) -> bool:
        if self.folder is None:
            return False
        shard = self.folder.has(window)
        if shard is None:
            self.folder.tidy(window.number)
            return False
        self.told.found(shard.rows, shard.errors)
        return True

    def _read(self, window: Window) -> tuple[Row, ...]:
        rows = tuple(tokenised(row, self.reader) for row in window.rows)
        if self.example is None and any(row.error is None for row in rows):
            self.example = rows
        return rows


def done(task: Task, explain: Explains | None, reader: Reader, settings: Settings) -> Sequence[Record]:
    """The records of a task, in the order of its rows."""
    return explained(explain, reader, task.rows, settings.target, settings.batch_size)


def written(task: Task, explain: Explains | None, reader: Reader, settings: Settings, folder: Folder) -> Shard:
    """The shard of a task, on the disk."""
    return folder.write(task.number, task.digest, done(task, explain, reader, settings))
