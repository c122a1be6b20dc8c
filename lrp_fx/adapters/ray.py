"""Ray: the rows of a Ray data set explained by actors, each with the relevance graph from its file.

    import ray
    from lrp_fx.adapters.ray import explain

    explainer.save("graph.lrp")  # once, where the model is
    rows = ray.data.read_parquet("in/")
    explain(rows, "graph.lrp", ids_column="input_ids", id_column="id", actors=4).write_parquet("out/")

Actors load the file once. One that dies is started again, and what it was at is done again: no row is lost, none is
there twice. Needs Ray Data: ``pip install lrp-fx[ray]``. Where there is no Ray, ``explainer.map(share="environment")``
shares a run among processes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lrp_fx.datasets.batches import explained
from lrp_fx.datasets.rows import Columns, Row, read_row, tokenised
from lrp_fx.datasets.settings import Settings, require_one
from lrp_fx.datasets.table import as_table
from lrp_fx.datasets.values import id_of
from lrp_fx.errors import InputError
from lrp_fx.file.container import checksum
from lrp_fx.preprocess.open import load_tokenizer
from lrp_fx.preprocess.words import named_goals
from lrp_fx.runtime.saved import load
from lrp_fx.targets import as_target

try:
    import pyarrow as arrow
    import ray.data
except ImportError as error:
    raise ImportError('lrp_fx.adapters.ray needs Ray Data: pip install "lrp-fx[ray]"') from error


def explain(
    data: Any,
    graph: str | Path,
    *,
    id_column: str,
    text_column: str | tuple[str, str] | None = None,
    ids_column: str | None = None,
    target: Any = None,
    target_column: str | None = None,
    tokenizer: Any = None,
    batch_size: int = 32,
    rows: int = 512,
    threads: int = 1,
    actors: int = 1,
    **options: Any,
) -> Any:
    """A Ray data set with the columns of docs/datasets.md for each row of ``data``.

    data: a `ray.data.Dataset`. graph: a file of `Explainer.save`, where every actor can read it.
    id_column: what a row is called: blocks come in any order, so that its place in the data is not known (``row`` is
        null); a row whose entry there is missing has a null in ``id``, too.
    text_column, ids_column, target, target_column, batch_size, threads: as in `Explainer.map`. rows: those that an
        actor sorts by length, and has in memory, together.
    tokenizer: where rows are texts, or for the names of tokens: the folder or hub name of one, or the tokenizer.
    actors: how many. options: of ``map_batches`` (``num_gpus=``, ``num_cpus=``).

    Raises `InputError` for a file that is none, and settings that cannot be; a row that cannot be explained has its
    error in a column.
    """
    require_one(target, target_column)
    checksum(graph)
    columns = Columns(text_column, ids_column, id_column, target_column)
    settings = Settings(columns, as_target(target), batch_size, rows, threads, actors)
    return data.map_batches(
        Explaining,
        fn_constructor_args=(str(graph), tokenizer, settings),
        batch_size=rows,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors),
        **options,
    )


class Explaining:
    """What an actor holds: the graph, and how rows are read."""

    def __init__(self, graph: str, tokenizer: Any, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        known = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
        if tokenizer is not None and known is None:
            raise InputError(f"cannot load a tokenizer from {tokenizer!r}")
        self.explain, self.settings = load(graph, tokenizer=known), settings
        self.reader = self.explain.for_rows
        (self.target,) = named_goals([settings.target], self.reader)

    def __call__(self, batch: Any) -> Any:
        """A table of Arrow with a row for each row of the one given."""
        read = [self._read(n, value) for n, value in enumerate(batch.to_pylist())]
        rows = [tokenised(row, self.reader) for row in read]
        found = as_table(explained(self.explain, self.reader, rows, self.target, self.settings.batch_size))
        return found.set_column(0, found.schema.field("row"), arrow.nulls(len(rows), arrow.int64()))

    def _read(self, number: int, value: dict[str, Any]) -> Row:
        """A row, which is called as its column says, or nothing: its place in a block is no place in the data."""
        columns = self.settings.columns
        row = read_row(number, value, columns)
        return replace(row, id=None) if id_of(value.get(str(columns.id))) is None else row
