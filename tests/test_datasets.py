"""Data sets: rows of any kind in, shards out, the same to the bit whoever was killed meanwhile."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.datasets import folder as folders
from lrp_fx.datasets.batches import planned
from lrp_fx.datasets.names import names_of
from lrp_fx.datasets.rows import Columns, Row, read_row
from lrp_fx.datasets.settings import share_of
from lrp_fx.datasets.sources import source_of
from lrp_fx.datasets.table import COLUMNS
from lrp_fx.datasets.told import Told
from lrp_fx.runtime import prepared, workers
from testing.handmade import V
from testing.rows import PLACES, Classifier, Tokenizer, texts

parquet = pytest.importorskip("pyarrow.parquet")
arrow = pytest.importorskip("pyarrow")
pytestmark = pytest.mark.usefixtures("quiet")
DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def explainer() -> lrp_fx.Explainer:
    return lrp_fx.convert(Classifier().eval(), tokenizer=Tokenizer())


@pytest.fixture(scope="module")
def graph(explainer: lrp_fx.Explainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "graph.lrp"
    explainer.trace(texts(4))
    explainer.save(path)
    return path


@pytest.fixture
def loaded(graph: Path) -> lrp_fx.SavedExplainer:
    return lrp_fx.load(graph, tokenizer=Tokenizer())


def files(folder: Path) -> dict[str, bytes]:
    """All that a finished run has left, hidden leftovers too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(folder).to_pylist()  # as anybody reads a folder of Parquet
    return found


# ------------------------------------------------------------------------------------------------ what is in a row
def test_rows_have_what_a_call_gives_and_the_books_close(explainer: lrp_fx.Explainer, tmp_path: Path) -> None:
    given = texts(11)
    run = explainer.map(given, save=tmp_path / "run", rows=4, batch_size=3)
    assert (run.rows, run.errors, run.shards, run.complete) == (11, 0, 3, True)
    rows = run.table().to_pylist()
    assert [row["row"] for row in rows] == list(range(11)) and rows == rows_of(tmp_path / "run")
    for text, row in zip(given, rows, strict=True):
        alone = explainer(text)
        assert row["score"] == pytest.approx(float(alone.score), rel=1e-5)
        assert row["input_ids"] == Tokenizer()(text)["input_ids"] and row["tokens"] == [
            f"<{i}>" for i in row["input_ids"]
        ]
        both = torch.tensor(row["content"]) + torch.tensor(row["position"])
        torch.testing.assert_close(both, alone.tokens[0], rtol=1e-4, atol=1e-5)
        assert row["target_indices"] == [alone.target[0].index] and row["error"] is None
        shares = dict(row["shares"])
        assert sum(shares.values()) == pytest.approx(1, abs=1e-4) and row["ledger_error"] < 1e-5
        sinks = sum(share for name, share in shares.items() if name not in ("content", "position"))
        assert sum(row["content"]) + sum(row["position"]) + sinks * row["score"] == pytest.approx(
            row["score"], rel=1e-4
        )


def test_rows_come_one_by_one_without_a_folder(loaded: lrp_fx.SavedExplainer, tmp_path: Path) -> None:
    given = texts(9)
    rows = list(loaded.map(iter(given), rows=4, batch_size=3))
    loaded.map(given, save=tmp_path / "run", rows=4, batch_size=3)
    kept = rows_of(tmp_path / "run")
    assert [row["content"] for row in rows] == [row["content"] for row in kept]
    with pytest.raises(lrp_fx.InputError, match="save="):
        loaded.map(given, processes=2)


def test_a_row_in_error_stops_nobody(loaded: lrp_fx.SavedExplainer, tmp_path: Path) -> None:
    """Nothing, too long, ids that there are not, a number, a column that is missing; beside a row that is well."""
    given = [
        {"text": "abc"},
        {"text": ""},
        {"text": "a" * (PLACES + 1)},
        {"input_ids": [1, V + 5]},
        {"text": 3},
        {"other": "x"},
        {"input_ids": [2, 3, 0, 0], "attention_mask": [1, 1, 0, 0]},
        {"input_ids": [1.5]},
        {"text": "fgh", "id": "a name"},
    ]
    run = loaded.map(given, save=tmp_path / "run")
    rows = run.table().to_pylist()
    assert run.errors == 6
    assert [row["error"] is None for row in rows] == [True, False, False, False, False, False, True, False, True]
    for number, said in {1: "empty", 2: "index", 3: "index", 4: "no text", 5: "no column", 7: "whole"}.items():
        assert said in rows[number]["error"] and rows[number]["score"] is None
    assert rows[6]["input_ids"] == [2, 3] and rows[8]["id"] == "a name" and rows[0]["id"] == "0"
    well = loaded.map([given[0], given[6], given[8]], save=tmp_path / "well").table().to_pylist()
    assert [row["score"] for row in well] == pytest.approx([rows[n]["score"] for n in (0, 6, 8)], rel=1e-5)


def test_all_rows_may_be_in_error(explainer: lrp_fx.Explainer, tmp_path: Path) -> None:
    assert explainer.map(["", ""], save=tmp_path / "run").errors == 2
    assert explainer.map([], save=tmp_path / "none").rows == 0


def test_a_target_for_each_row(explainer: lrp_fx.Explainer, loaded: lrp_fx.SavedExplainer, tmp_path: Path) -> None:
    given = [{"text": text, "label": n % 3} for n, text in enumerate(texts(5))]
    rows = explainer.map(given, save=tmp_path / "run", target_column="label").table().to_pylist()
    assert [row["target_indices"] for row in rows] == [[n % 3] for n in range(5)]
    with pytest.raises(lrp_fx.TargetError, match="none of the targets"):
        list(loaded.map(given, target_column="label"))


class Unmasked(nn.Module):
    """Takes ids alone: rows of one length share a batch, and no others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(V, 4), nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(ids)).mean(1))  # type: ignore[no-any-return]


def test_a_model_without_a_mask(tmp_path: Path) -> None:
    explain = lrp_fx.convert(Unmasked().eval())
    given = [[1, 2, 3], [4, 5], [6, 7, 8], [9, 3]]
    rows = explain.map(given, save=tmp_path / "run").table().to_pylist()
    assert [row["error"] for row in rows] == [None] * 4 and rows[0]["tokens"] is None
    assert rows[1]["score"] == pytest.approx(float(explain(torch.tensor([[4, 5]])).score), rel=1e-5)


class Decides(nn.Module):
    """Looks at numbers in Python: every call is captured by itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(V, 4), nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.tanh(self.words(ids))
        return self.head((2 * x if int(ids.sum()) % 2 else x).mean(1))  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_model_that_is_captured_for_every_call(tmp_path: Path) -> None:
    """In one process; others have no model to capture."""
    explain = lrp_fx.convert(Decides().eval())
    given = [[1, 2, 3], [4, 5], [6, 7]]
    rows = explain.map(given, save=tmp_path / "run", batch_size=1).table().to_pylist()
    alone = [float(explain(torch.tensor([ids])).score) for ids in given]
    assert [row["score"] for row in rows] == pytest.approx(alone, rel=1e-5)
    with pytest.raises(lrp_fx.InputError, match="no model to capture"):
        explain.map(given, save=tmp_path / "other", batch_size=1, processes=2)


# ------------------------------------------------------------------------------------------------ where rows come from
def test_files_and_tables_give_the_same_rows(tmp_path: Path) -> None:
    given = [{"sentence": text, "id": str(n)} for n, text in enumerate(texts(5))]
    table = arrow.Table.from_pylist(given)
    parquet.write_table(table, tmp_path / "in.parquet")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    with (tmp_path / "in.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["sentence", "id"])
        writer.writeheader()
        writer.writerows(given)
    (tmp_path / "folder").mkdir()
    for n in range(2):
        parquet.write_table(table.slice(3 * n, 3), tmp_path / "folder" / f"{n}.parquet")
    columns = {"sentence": [row["sentence"] for row in given], "id": [row["id"] for row in given]}
    sources = [*(tmp_path / name for name in ("in.parquet", "in.jsonl", "in.csv", "folder")), table, columns, given]
    for source in sources:
        opened = source_of(source)
        assert list(opened.rows) == given, source
        assert opened.count in (5, None)
    (tmp_path / "in.txt").write_text("one\ntwo\n")
    assert list(source_of(str(tmp_path / "in.txt")).rows) == ["one", "two"]


def test_data_that_cannot_be_read_is_refused_at_once(loaded: lrp_fx.SavedExplainer, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")
    for data, options, said in (
        ("a single text", {}, "single text"),
        (tmp_path / "none.parquet", {}, "no file"),
        (tmp_path, {}, "no .parquet file"),
        (7, {}, "holds no rows"),
        (tmp_path / "in.csv", {"text_column": "text"}, "no column 'text'; there are a, b"),
        (tmp_path / "in.csv", {}, "which column holds the texts"),
        (["a"], {"text_column": "text", "ids_column": "ids"}, "not both"),
        (["a"], {"batch_size": 0}, "batch_size=0"),
    ):
        with pytest.raises(lrp_fx.InputError, match=said):
            loaded.map(data, save=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    (tmp_path / "in.jsonl").write_text('{"text": "ab"}\nnot JSON\n')
    assert "line 2 is not JSON" in loaded.map(tmp_path / "in.jsonl", save=tmp_path / "run").table()["error"][1].as_py()


def test_pairs_and_columns() -> None:
    assert read_row(0, ("a", "b"), Columns()).text == ("a", "b")
    row = read_row(3, {"p": "a", "q": "b", "name": 7, "gold": "x"}, Columns(("p", "q"), None, "name", "gold"))
    assert row == Row(3, "7", ("a", "b"), None, "x")
    assert read_row(0, {"ids": torch.tensor([1, 2])}, Columns(ids="ids")).arguments == {"input_ids": [1, 2]}
    assert "3 numbers" in str(read_row(0, {"input_ids": [1], "token_type_ids": [0, 0, 0]}, Columns()).error)


# ------------------------------------------------------------------------------------------------ batches and progress
def test_batches_pad_little_and_do_not_depend_on_the_order() -> None:
    draw = random.Random(0)
    rows = [Row(n, str(n), arguments={"input_ids": [1] * draw.randint(5, 60)}) for n in range(256)]
    batches = planned(rows, 16, "any")
    assert sorted(r.number for b in batches for r in b) == list(range(256)) and max(map(len, batches)) == 16
    padded = sum(max(r.length for r in b) * len(b) for b in batches)
    assert padded < 1.1 * sum(r.length for r in rows)
    assert planned(rows[::-1], 16, "any") == batches
    assert all(len({r.length for r in b}) == 1 for b in planned(rows, 16, "equal"))
    assert all(len(b) == 1 for b in planned(rows, 16, "none"))


def test_progress_says_how_far_how_fast_and_when() -> None:
    told = Told(100, False)
    told.found(20, 1)
    told.made(30, 0)
    assert (
        told.line().startswith("lrp_fx: 50 of 100 rows, ")
        and "ends about" in told.line()
        and "1 in error" in told.line()
    )
    assert "of" not in Told(None, False).line().split("rows")[0]


# ------------------------------------------------------------------------------------------------ the same to the bit
@pytest.fixture
def doomed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first worker that is asked for shard 1 is killed; its number."""
    killed: list[int] = []

    class Doomed(workers._Child):
        def ask(self, task: Any) -> None:
            if task.number == 1 and not killed:
                killed.append(self.process.pid)
                os.kill(self.process.pid, signal.SIGKILL)
            super().ask(task)

    monkeypatch.setattr(workers, "_Child", Doomed)
    return killed


@pytest.fixture
def without_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts now and reads transformers fails."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "transformers.py").write_text("raise RuntimeError('a worker has read transformers')\n")
    monkeypatch.syspath_prepend(str(hidden))


@pytest.mark.slow
@pytest.mark.usefixtures("without_transformers")
def test_workers_with_the_graph_alone_write_the_same_though_one_is_killed(
    explainer: lrp_fx.Explainer, doomed: list[int], tmp_path: Path
) -> None:
    """One shard is left for them: the first worker is killed over it, the second writes it."""
    given, options = [*texts(8), "", "a" * 99], {"rows": 5, "batch_size": 2}
    whole = explainer.map(given, save=tmp_path / "whole", **options)
    assert not explainer.map(given, save=tmp_path / "run", share=(0, 2), **options).complete
    run = explainer.map(given, save=tmp_path / "run", processes=2, **options)
    assert doomed and run.complete and run.errors == whole.errors == 2
    assert files(tmp_path / "run") == files(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.usefixtures("without_transformers")
def test_two_workers_share_a_run_though_one_is_killed(
    loaded: lrp_fx.SavedExplainer, doomed: list[int], tmp_path: Path
) -> None:
    given = texts(40)
    loaded.map(given, save=tmp_path / "whole", rows=4)
    run = loaded.map(given, save=tmp_path / "run", rows=4, processes=2)
    assert doomed and run.complete and files(tmp_path / "run") == files(tmp_path / "whole")


def test_a_shard_that_ends_every_worker_is_named(
    loaded: lrp_fx.SavedExplainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the shards that are there stay."""
    monkeypatch.setattr(workers, "_COMMAND", ("-c", "raise SystemExit(1)"))
    loaded.map(texts(4), save=tmp_path / "run", rows=2, share=(0, 2))
    with pytest.raises(lrp_fx.LrpError, match=r"rows 2 to 3 \(shard 1\) ended 3 times"):
        loaded.map(texts(4), save=tmp_path / "run", rows=2, processes=2)
    assert [path.name for path in (tmp_path / "run").glob("part-*")] == ["part-000000.parquet"]


def in_child(action: Callable[[], object]) -> int:
    """A process that does something and ends; its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return child


def ended_by(child: int) -> int:
    """The signal that ended a process, 0 where none did and all went well."""
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@pytest.fixture
def whole(loaded: lrp_fx.SavedExplainer, tmp_path: Path) -> dict[str, bytes]:
    """What a run that nobody kills leaves."""
    loaded.map(texts(48), save=tmp_path / "whole", rows=3, batch_size=2)
    return files(tmp_path / "whole")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_loses_and_doubles_nothing(
    loaded: lrp_fx.SavedExplainer, whole: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    """kill -9, ten times, each time after the shard that it came to, or a moment later."""
    out, draw = tmp_path / "run", random.Random(seed)

    def run() -> None:
        loaded.map(texts(48), save=out, rows=3, batch_size=2)

    signals = []
    for moment in range(10):
        child = in_child(run)
        until = time.monotonic() + 60
        while len(list(out.glob("part-*"))) <= moment and time.monotonic() < until and not finished(child):
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        signals.append(ended_by(child))
        assert set(files(out)) - {n for n in files(out) if n.startswith(".")} <= set(whole)
    assert signals.count(signal.SIGKILL) >= 8, "they were killed before they had ended"
    assert ended_by(in_child(run)) == 0
    assert files(out) == whole
    assert [row["row"] for row in rows_of(out)] == list(range(48))


def finished(child: int) -> bool:
    """Has a process ended? (It stays to be asked how.)"""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("moment", ["before it is written", "half written", "before it is in place", "in place"])
def test_a_run_killed_while_a_shard_is_written(
    loaded: lrp_fx.SavedExplainer, whole: dict[str, bytes], tmp_path: Path, moment: str
) -> None:
    place, out = folders._place, tmp_path / "run"

    def dying(path: Path, content: bytes, *, replace: bool) -> None:
        if path.name == "part-000002.parquet":
            if moment == "in place":
                place(path, content, replace=replace)
            elif moment != "before it is written":
                kept = content if moment == "before it is in place" else content[: len(content) // 2]
                path.with_name(f".{path.name}.ab").write_bytes(kept)
            os.kill(os.getpid(), signal.SIGKILL)
        place(path, content, replace=replace)

    def killed() -> None:
        folders._place = dying
        loaded.map(texts(48), save=out, rows=3, batch_size=2)

    assert ended_by(in_child(killed)) == signal.SIGKILL
    assert len(list(out.glob("part-*"))) == (3 if moment == "in place" else 2)
    assert not (out / "_done.json").exists()
    run = loaded.map(texts(48), save=out, rows=3, batch_size=2)
    assert run.complete and files(out) == whole


# ------------------------------------------------------------------------------------------------ what does not go on
def test_another_run_is_not_gone_on_with(explainer: lrp_fx.Explainer, tmp_path: Path) -> None:
    """Other rows, settings, rules, weights: refused in one sentence, and all stays as it was."""
    given, out = texts(6), tmp_path / "run"
    explainer.map(given, save=out, rows=3)
    before = files(out)
    other = Classifier()
    with torch.no_grad():
        other.head.bias += 1
    model = explainer.model
    attempts: list[tuple[str, Callable[[], object]]] = [
        ("made of other rows than rows 3 to 5", lambda: explainer.map([*given[:5], "zz"], save=out, rows=3)),
        ("another settings.rows: 3 there, 2 now", lambda: explainer.map(given, save=out, rows=2)),
        ("another settings.target", lambda: explainer.map(given, save=out, rows=3, target=1)),
        ("another settings.threads", lambda: explainer.map(given, save=out, rows=3, threads=2)),
        (
            "another rules",
            lambda: lrp_fx.convert(model, tokenizer=Tokenizer(), rules="attnlrp").map(given, save=out, rows=3),
        ),
        ("another model", lambda: lrp_fx.convert(other.eval(), tokenizer=Tokenizer()).map(given, save=out, rows=3)),
        ("another tokenizer", lambda: lrp_fx.convert(model).map(given, save=out, rows=3)),
        ("holds a run", lambda: explainer.map(given, save=out, rows=3, resume=False)),
    ]
    for said, attempt in attempts:
        with pytest.raises(lrp_fx.InputError, match=said):
            attempt()
    assert files(out) == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "_trace", None)  # nothing is captured where nothing is left to do
        assert explainer.map(given, save=out, rows=3).complete
    (out / "part-000001.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(lrp_fx.InputError, match="damaged"):
        explainer.map(given, save=out, rows=3)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(lrp_fx.InputError, match=r"not empty \(letter.txt\)"):
        explainer.map(given, save=tmp_path / "full")


def test_ranks_share_a_run(loaded: lrp_fx.SavedExplainer, tmp_path: Path) -> None:
    given, out = texts(14), tmp_path / "run"
    loaded.map(given, save=tmp_path / "whole", rows=3)
    runs = [loaded.map(given, save=out, rows=3, share=(rank, 2)) for rank in (1, 0)]
    assert [run.complete for run in runs] == [False, True] and files(out) == files(tmp_path / "whole")
    with pytest.raises(lrp_fx.InputError, match="run again"):
        runs[0].table()


def test_the_share_of_the_environment() -> None:
    assert share_of(None) == (0, 1) and share_of((1, 4)) == (1, 4)
    assert share_of("environment", {"RANK": "2", "WORLD_SIZE": "3"}) == (2, 3)
    assert share_of("environment", {"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}) == (0, 2)
    for share in ((2, 2), "one", (0,), ("a", "b")):
        with pytest.raises(lrp_fx.InputError, match="share="):
            share_of(share)
    with pytest.raises(lrp_fx.InputError, match="torchrun or srun"):
        share_of("environment", {})


def test_memory_does_not_grow_with_the_rows(loaded: lrp_fx.SavedExplainer, tmp_path: Path) -> None:
    """No more than two windows of rows are alive at once, however many rows there are."""
    alive, most = 0, 0

    class Text(str):
        def __new__(cls, text: str) -> Text:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return super().__new__(cls, text)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def rows() -> Iterator[str]:
        yield from (Text(text) for text in texts(80))

    assert loaded.map(rows(), save=tmp_path / "run", rows=4).rows == 80
    assert most <= 3 * 4


# ------------------------------------------------------------------------------------------------ command line and docs
def test_the_command_line_writes_the_same(graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("typer")
    from lrp_fx.cli.app import app

    given = [{"ids": Tokenizer()(text)["input_ids"]} for text in texts(7)]
    parquet.write_table(arrow.Table.from_pylist(given), tmp_path / "in.parquet")
    lrp_fx.load(graph).map(tmp_path / "in.parquet", save=tmp_path / "api", ids_column="ids", rows=4)
    arguments = ["run", str(graph), str(tmp_path / "in.parquet"), str(tmp_path / "out"), "--ids-column", "ids"]

    def command(*more: str) -> int:
        with pytest.raises(SystemExit) as ended:
            app([*arguments, *more])
        return int(ended.value.code or 0)

    assert command("--rows", "4", "--share", "1/2") == 0 and "others have shards to write" in capsys.readouterr().out
    assert command("--rows", "4") == 0 and "7 rows in 2 shards" in capsys.readouterr().out
    assert files(tmp_path / "out") == files(tmp_path / "api")
    assert command("--rows", "5") == 1 and "another settings.rows" in capsys.readouterr().err
    assert command("--share", "two") == 1 and "RANK/COUNT" in capsys.readouterr().err


def test_the_page_has_the_columns() -> None:
    page = (DOCS / "datasets.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert [row[:3] for row in rows[: len(COLUMNS)]] == [[f"`{c.name}`", f"`{c.type}`", c.about] for c in COLUMNS]


def test_names_stand_for_the_tokenizer() -> None:
    names = names_of(Tokenizer())
    assert names is not None and names.convert_ids_to_tokens([3, 99]) == ["<3>", None]
    assert (names.pad_token_id, names.eos_token_id, len(names)) == (0, 1, V) and names_of(None) is None
