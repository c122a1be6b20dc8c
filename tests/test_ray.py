"""Ray: a local cluster of two workers, one of which is killed, explains every row once."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import lrp_fx
from testing.rows import Classifier, Tokenizer, texts

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")


@pytest.mark.slow
def test_every_row_is_there_once_though_a_worker_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lrp_fx.adapters import ray as adapter

    explainer = lrp_fx.convert(Classifier().eval(), tokenizer=Tokenizer())
    explainer.trace(texts(4))
    explainer.save(tmp_path / "graph.lrp")
    given = [{"name": f"n{n}", "ids": Tokenizer()(text)["input_ids"]} for n, text in enumerate([*texts(30), "a" * 99])]
    mark = str(tmp_path / "killed")

    class Doomed(adapter.Explaining):
        def __call__(self, batch: Any) -> Any:
            if "n17" in batch["name"].to_pylist() and not os.path.exists(mark):
                open(mark, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    monkeypatch.setattr(adapter, "Explaining", Doomed)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        options = {"ids_column": "ids", "id_column": "name", "rows": 4, "batch_size": 2}
        data = ray.data.from_items(given, override_num_blocks=4)
        found = adapter.explain(data, tmp_path / "graph.lrp", actors=2, **options).take_all()
    finally:
        ray.shutdown()
    assert os.path.exists(mark)
    assert sorted(row["id"] for row in found) == sorted(row["name"] for row in given)
    alone = list(lrp_fx.load(tmp_path / "graph.lrp").map(given, **options))
    wanted = {row["id"]: row for row in alone}
    assert sum(row["error"] is not None for row in found) == 1
    for row in found:
        assert row["row"] is None
        if row["error"] is None:
            assert row["score"] == pytest.approx(wanted[row["id"]]["score"], rel=1e-5)
            assert row["content"] == pytest.approx(wanted[row["id"]]["content"], rel=1e-3, abs=1e-5)


def test_a_file_that_is_none_is_refused_before_anything_starts(tmp_path: Path) -> None:
    from lrp_fx.adapters.ray import explain

    (tmp_path / "graph.lrp").write_text("none")
    with pytest.raises(lrp_fx.InputError, match="no relevance graph"):
        explain(None, tmp_path / "graph.lrp", id_column="id")


def test_rows_in_error_keep_their_names_and_nameless_rows_get_none(tmp_path: Path) -> None:
    """A place in a block is no place in the data."""
    import pyarrow as arrow

    from lrp_fx.adapters.ray import Explaining
    from lrp_fx.datasets.rows import Columns
    from lrp_fx.datasets.settings import Settings
    from lrp_fx.targets import as_target

    explainer = lrp_fx.convert(Classifier().eval(), tokenizer=Tokenizer())
    explainer.trace(texts(4))
    explainer.save(tmp_path / "graph.lrp")
    given = [{"name": "doc-3", "text": None}, {"name": None, "text": "abc"}, {"name": "0", "text": ""}]
    settings = Settings(Columns("text", None, "name"), as_target(None))
    found = Explaining(str(tmp_path / "graph.lrp"), Tokenizer(), settings)(arrow.Table.from_pylist(given)).to_pylist()
    assert [row["id"] for row in found] == ["doc-3", None, "0"]
    assert [row["error"] is None for row in found] == [False, True, False]
