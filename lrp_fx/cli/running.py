"""``run``: every row of a data set explained, in shards of Parquet that a run which was killed goes on with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrp_fx.cli.checks import Refusal, check_transformers, one_of
from lrp_fx.cli.options import Dtype, Rules, Type
from lrp_fx.cli.plain import plain_errors

if TYPE_CHECKING:
    from lrp_fx.datasets.result import DataRun

_COLUMNS, _WORK = "Columns", "How it is run"
_NO_NUMBER = "environment"


def run(
    model: Annotated[str, typer.Argument(help="Folder of a saved model, hub name, or file of a relevance graph.")],
    data: Annotated[
        Path, typer.Argument(help="Rows: .parquet, .csv, .tsv, .jsonl, .txt, or a folder of Parquet files.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the run; one that was begun with the same settings goes on.")],
    text_column: Annotated[
        list[str] | None, typer.Option(help="Column of the texts; two of them for pairs.", rich_help_panel=_COLUMNS)
    ] = None,
    ids_column: Annotated[str | None, typer.Option(help="Column of token ids.", rich_help_panel=_COLUMNS)] = None,
    id_column: Annotated[
        str | None, typer.Option(help="What a row is called [default: id, or its place].", rich_help_panel=_COLUMNS)
    ] = None,
    target_column: Annotated[
        str | None, typer.Option(help="Class to explain, by row.", rich_help_panel=_COLUMNS)
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Class (number or label) to explain in all rows; default: the prediction.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or hub name of the tokenizer, for the file of a relevance graph.")
    ] = None,
    rules: Rules = "pa-lrp",
    dtype: Type = Dtype.float32,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a batch.", rich_help_panel=_WORK)] = 32,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a shard.", rich_help_panel=_WORK)] = 512,
    processes: Annotated[int, typer.Option(min=1, help="Processes that write shards.", rich_help_panel=_WORK)] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each.", rich_help_panel=_WORK)] = 1,
    share: Annotated[
        str | None,
        typer.Option(
            help="RANK/COUNT: every COUNT-th shard only; environment: as torchrun or Slurm say.", rich_help_panel=_WORK
        ),
    ] = None,
) -> None:
    """Explain every row of a data set; what was killed goes on where it was. Exit code 1 when all rows are in error."""
    with plain_errors():
        one_of(text_column=text_column, ids_column=ids_column)
        one_of(target=target, target_column=target_column)
        if not data.exists():
            raise Refusal(f"DATA {data}: there is no such file")
        if importlib.util.find_spec("pyarrow") is None:
            raise Refusal('shards are written with pyarrow: pip install "lrp-fx[data]"')
        if not Path(model).is_file() or tokenizer is not None:
            check_transformers()
        options = {
            "text_column": _columns(text_column),
            "ids_column": ids_column,
            "id_column": id_column,
            "target": _target(target),
            "target_column": target_column,
            "batch_size": batch_size,
            "rows": rows,
            "processes": processes,
            "threads": threads,
            "share": _share(share),
        }
        found = _run(model, tokenizer, data, out, rules=rules, dtype=dtype.value, options=options)
        typer.echo(_said(found))
        if found.rows and found.errors == found.rows:
            raise Refusal(f"all {found.rows} rows are in error, the first of them by {_first_error(found)}")


def _target(text: str | None) -> int | str | None:
    """A class by number, as in a CSV, or by name."""
    from lrp_fx.datasets.values import whole_number

    number = whole_number(text) if text is not None else None
    if number is not None and number < 0:
        raise Refusal(f"--target {text}: there is no such class, they are counted from 0")
    return text if number is None else number


def _first_error(found: DataRun) -> str:
    from lrp_fx.errors import needed

    table = needed("pyarrow.parquet", "data").read_table(found.folder / "part-000000.parquet", columns=["error"])
    return str(table["error"][0].as_py())


def _columns(names: list[str] | None) -> Any:
    if not names:
        return None
    if len(names) > 2:
        raise Refusal("--text-column is given once, or twice for pairs")
    return names[0] if len(names) == 1 else tuple(names)


def _share(text: str | None) -> Any:
    if text is None or text == _NO_NUMBER:
        return text
    rank, slash, count = text.partition("/")
    if not slash or not rank.isdecimal() or not count.isdecimal():
        raise Refusal(f"--share {text}: give RANK/COUNT, such as 0/4, or {_NO_NUMBER}")
    return int(rank), int(count)


def _run(
    model: str, tokenizer: str | None, data: Path, out: Path, *, rules: str, dtype: str, options: dict[str, Any]
) -> DataRun:
    from lrp_fx.preprocess.open import load_model, load_tokenizer
    from lrp_fx.runtime.convert import convert
    from lrp_fx.runtime.saved import load

    if Path(model).is_file():
        known = load_tokenizer(tokenizer) if tokenizer is not None else None
        return load(model, tokenizer=known).map(data, save=out, **options)
    explainer = convert(load_model(model, dtype), tokenizer=load_tokenizer(tokenizer or model), rules=rules)
    return explainer.map(data, save=out, **options)


def _said(found: DataRun) -> str:
    """What came out, in one line."""
    if not found.complete:
        return f"{found.folder}: this share is written; others have shards to write"
    wrong = f", {found.errors} in error" if found.errors else ""
    return f"{found.folder}: {found.rows} rows in {found.shards} shards{wrong}"
