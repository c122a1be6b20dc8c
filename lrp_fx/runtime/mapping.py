"""Mapping: an explainer over the rows of a data set, kept in shards or given one by one."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, overload

import torch

from lrp_fx.datasets.batches import Explains
from lrp_fx.datasets.folder import Folder, Shard
from lrp_fx.datasets.names import fingerprint, names_of
from lrp_fx.datasets.result import DataRun
from lrp_fx.datasets.rows import Columns, Row
from lrp_fx.datasets.settings import Settings, require_one, share_of
from lrp_fx.datasets.sources import source_of
from lrp_fx.datasets.table import as_rows
from lrp_fx.datasets.tasks import Task, Tasks, done, written
from lrp_fx.datasets.told import Told
from lrp_fx.datasets.values import whole_number
from lrp_fx.errors import InputError, needed
from lrp_fx.preprocess.reader import Reader
from lrp_fx.preprocess.words import named_goals
from lrp_fx.runtime.progress import is_watched
from lrp_fx.runtime.workers import Start, work
from lrp_fx.targets import Target, as_target


@dataclass(frozen=True)
class Ready:
    """What explains rows: ``explain`` and the ``reader`` that makes batches for it. ``file``: makes a file of the graph
    in the place given, or names the one there is, with what `lrp_fx.load` takes beside it.
    """

    explain: Explains
    reader: Reader
    file: Callable[[Path], tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Mapped:
    """What is mapped: how texts are read, what the manifest says of the model and of how it is explained, and what
    explains rows like the example's.
    """

    reader: Reader
    said: Callable[[], Mapping[str, Any]]
    ready: Callable[[Sequence[Row], Settings], Ready]


class _Mapping(Protocol):
    """What is asked of an explainer."""

    def _mapped(self) -> Mapped: ...


class Maps:
    """An explainer that maps over data sets."""

    @overload
    def map(self: _Mapping, data: Any, *, save: str | Path, **options: Any) -> DataRun: ...
    @overload
    def map(self: _Mapping, data: Any, *, save: None = None, **options: Any) -> Iterator[dict[str, Any]]: ...
    def map(  # type: ignore[misc]
        self: _Mapping,
        data: Any,
        *,
        save: str | Path | None = None,
        resume: bool = True,
        batch_size: int = 32,
        rows: int = 512,
        text_column: str | tuple[str, str] | None = None,
        ids_column: str | None = None,
        id_column: str | None = None,
        target: Any = None,
        target_column: str | None = None,
        processes: int = 1,
        threads: int = 1,
        share: Any = None,
        progress: bool | None = None,
    ) -> DataRun | Iterator[dict[str, Any]]:
        """Explain every row of a data set: sorted by length within each shard, so that little is padded, and written
        shard by shard, so that a run that was killed goes on where it was, and ends with the same files to the bit.

        data: texts, pairs (tuples), ids, or mappings by column, in anything that gives them one after the other; a data
            frame or table; the path of a file (.parquet, .csv, .tsv, .jsonl, .json, .txt) or of a folder of
            Parquet files.
        save: the folder of the run: shards in Parquet (docs/datasets.md has the columns), and a manifest. None: rows
            are given one by one, as mappings by column, in the order of the data, and nothing is kept.
        resume: go on with a run that is in the folder; False refuses that.
        batch_size: rows of a batch. rows: rows of a shard, which are in memory together.
        text_column, ids_column: where texts (two names: pairs) or ids stand; by default ``text``, ``sentence``,
            ``prompt``, else ``input_ids``. id_column: what a row is called, by default its column ``id``, or its place.
        target: what is explained, as in a call, one for all rows, and no function. target_column: a class for each row,
            by number or name (in a CSV, a whole number is a number).
        processes: so many processes write shards, each with the graph from a file; the files are the same.
        threads: of each process. Sums are rounded by how they are shared out, so the number belongs to the run.
        share: (rank, of how many): write every so many-th shard, and leave the others to other machines;
            ``"environment"``: as torchrun (RANK, WORLD_SIZE) or Slurm (SLURM_PROCID, SLURM_NTASKS) say.
        progress: a line on standard error with rows, rate and the expected end; by default where somebody looks.

        A row that cannot be explained (an empty text, one that is too long, an id that there is not, books that do not
        close) has its error in a column. Raises `InputError` for data that cannot be read, for a folder that holds
        another run (other rows or fewer, another model, rules, settings or versions) or that another process writes to,
        `CaptureError` and `TargetError` as a call does; `TargetError`, too, for a target with something for each row.
        """
        columns = Columns(_pair(text_column), ids_column, id_column, target_column)
        require_one(target, target_column)
        if save is not None and not isinstance(save, (str, os.PathLike)):
            raise InputError(f"save={save!r}: give the path of a folder")
        mapped = self._mapped()
        (goal,) = named_goals([as_target(target)], mapped.reader)
        settings = Settings(columns, goal, batch_size, rows, threads, processes, share_of(share))
        if save is None and processes > 1:
            raise InputError("several processes write shards\n    next: say where to, save=")
        source = source_of(data)
        columns.check(source)
        if source.texts and target_column is not None:
            _check_numbers(mapped.reader)
        told = Told(source.count, is_watched(sys.stderr) if progress is None else progress)
        if save is None:
            return _rows(mapped, Tasks(source, settings, mapped.reader, None, told))
        needed("pyarrow.parquet", "data")
        folder = Folder(Path(save), _manifest(mapped, settings))
        with folder.begun(resume, settings.share):
            if source.count is not None:
                folder.check_none_beyond(-(-source.count // rows))
            return _run(mapped, Tasks(source, settings, mapped.reader, folder, told), folder)


def _check_numbers(reader: Reader) -> None:
    """Raise `InputError` where a number in a file of texts might be a class, or the label of another one."""
    labels = {} if reader.forward.tokens else reader.forward.labels
    for index, label in labels.items():
        if whole_number(label) not in (None, index):
            raise InputError(
                f"a file of texts does not say whether {label!r} is class {whole_number(label)} or the label of class "
                f"{index}\n    next: give the rows as JSON lines or Parquet, where classes are numbers and labels texts"
            )


def _pair(text: Any) -> Any:
    return tuple(text) if isinstance(text, list) else text


def _manifest(mapped: Mapped, settings: Settings) -> dict[str, Any]:
    """All that decides on what the shards hold, beside the data, which each shard knows by itself."""
    versions = {"lrp_fx": version("lrp_fx"), "torch": torch.__version__, "pyarrow": version("pyarrow")}
    tokenizer = fingerprint(mapped.reader.tokenizer)
    return {"format": 1, "versions": versions, **mapped.said(), "tokenizer": tokenizer, "settings": settings.lasting}


def _rows(mapped: Mapped, tasks: Tasks) -> Iterator[dict[str, Any]]:
    """The rows of all tasks; the model is captured when there is the first to explain."""
    ready: Ready | None = None
    for task in tasks:
        with _threads(tasks.settings.threads):
            ready = _made(ready, mapped, tasks, task)
            records = done(task, *_parts(ready, mapped), tasks.settings)
        tasks.told.made(len(records), sum(r.error is not None for r in records))
        yield from as_rows(records)
    tasks.told.end()


def _run(mapped: Mapped, tasks: Tasks, folder: Folder) -> DataRun:
    several = tasks.settings.processes > 1
    _place_of_graph(tasks, folder).unlink(missing_ok=True)  # what a killed run may have left
    ready: Ready | None = None
    waiting = iter(tasks)

    def made(shard: Shard) -> None:
        tasks.told.made(shard.rows, shard.errors)

    try:
        for task in waiting:
            with _threads(tasks.settings.threads):
                ready = _made(ready, mapped, tasks, task)
                if several and ready is not None:
                    _in_workers(ready, tasks, chain([task], waiting), folder, made)
                    break
                made(written(task, *_parts(ready, mapped), tasks.settings, folder))
    finally:
        tasks.told.end()
    errors = folder.finish(tasks.rows, tasks.shards)
    return DataRun(folder.path, tasks.rows, errors, tasks.shards)


def _in_workers(
    ready: Ready, tasks: Tasks, waiting: Iterator[Task], folder: Folder, made: Callable[[Shard], None]
) -> None:
    """All that is left, by workers; the file of the graph is there as long as they are."""
    place = _place_of_graph(tasks, folder)
    try:
        file, options = ready.file(place)
        names = names_of(ready.reader.tokenizer)
        work(waiting, Start(file, {**options, "tokenizer": names}, tasks.settings, folder), made)
    finally:
        place.unlink(missing_ok=True)


def _place_of_graph(tasks: Tasks, folder: Folder) -> Path:
    return folder.path / f".graph-{tasks.settings.share[0]}.lrp"


def _made(ready: Ready | None, mapped: Mapped, tasks: Tasks, task: Task) -> Ready | None:
    """What explains, made when the first row asks for it."""
    if ready is not None or not task.readable:
        return ready
    assert tasks.example is not None
    return mapped.ready([row for row in tasks.example if row.error is None], tasks.settings)


def _parts(ready: Ready | None, mapped: Mapped) -> tuple[Explains | None, Reader]:
    return (None, mapped.reader) if ready is None else (ready.explain, ready.reader)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads of torch, for a while."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


def goal_of(rows: Sequence[Row], settings: Settings) -> Target:
    """What stands for the target of all rows where a graph is made: of classes any, where every row has its own."""
    return as_target(rows[0].target) if rows[0].target is not None else settings.target
