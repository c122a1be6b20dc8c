"""Folders of runs: one process at a time for each share, whatever ended the last one; and damage is named."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lrp_fx
from lrp_fx.datasets import lock
from lrp_fx.targets import Contrast, Direction
from testing.rows import Classifier, Tokenizer, texts

parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> lrp_fx.SavedExplainer:
    explainer = lrp_fx.convert(Classifier().eval(), tokenizer=Tokenizer())
    path = tmp_path_factory.mktemp("graph") / "graph.lrp"
    explainer.trace(texts(4))
    explainer.save(path)
    return lrp_fx.load(path, tokenizer=Tokenizer())


# ------------------------------------------------------------------------------------------------ one at a time
@pytest.fixture(params=["by the system", "by number"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How locks are kept: on some file systems the system knows none."""
    if request.param == "by number":
        monkeypatch.setattr(lock, "fcntl", None)


def holder(folder: Path, share: tuple[int, int]) -> int:
    """A process that holds a share until it is killed; its number."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with lock.locked(folder, share):
                os.write(told, b"1")
                signal.pause()
        finally:
            os._exit(1)
    os.close(told)
    assert os.read(ready, 1) == b"1"
    os.close(ready)
    return child


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("kept")
def test_a_second_run_is_refused_until_the_first_has_ended(loaded: lrp_fx.SavedExplainer, tmp_path: Path) -> None:
    """kill -9 frees the folder."""
    given, out = texts(6), tmp_path / "run"
    loaded.map(given, save=out, rows=2, share=(0, 2))
    before = sorted(path.name for path in out.iterdir())
    child = holder(out, (0, 1))
    try:
        for share in ((0, 1), (1, 2)):
            with pytest.raises(lrp_fx.InputError, match=rf"is being written by process {child} on .*\n +next: wait"):
                loaded.map(given, save=out, rows=2, share=share)
        assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".lock")) == before
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert list(out.glob(".lock-*")), "it had no time to tidy up"
    assert loaded.map(given, save=out, rows=2).complete
    assert not [path.name for path in out.iterdir() if path.name == ".lock-0-of-1"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("kept")
def test_ranks_work_in_one_folder_at_once(loaded: lrp_fx.SavedExplainer, tmp_path: Path) -> None:
    given, out = texts(6), tmp_path / "run"
    loaded.map(given, save=out, rows=2, share=(2, 4))
    child = holder(out, (0, 2))
    try:
        loaded.map(given, save=out, rows=2, share=(1, 2))
        for share in ((0, 2), (0, 4), (2, 4), (0, 3), (0, 1)):
            with pytest.raises(lrp_fx.InputError, match="is being written"):
                loaded.map(given, save=out, rows=2, share=share)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_number_that_another_process_has_now_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    said = {"process": os.getpid(), "machine": "elsewhere", "begun": "1"}
    for other in (said, {**said, "process": 2**22 + 1}, {}, []):
        (tmp_path / ".lock-0-of-1").write_text(json.dumps(other))
        with lock.locked(tmp_path, (0, 1)):
            pass
    assert not list(tmp_path.iterdir())


def test_two_threads_are_two_runs(loaded: lrp_fx.SavedExplainer, tmp_path: Path) -> None:
    """The first holds the folder while it waits for its rows."""
    waits, goes, found = threading.Event(), threading.Event(), []

    def slow() -> Iterator[str]:
        waits.set()
        goes.wait(60)
        yield from texts(3)

    def first() -> None:
        found.append(loaded.map(slow(), save=tmp_path / "run"))

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert waits.wait(60)
        with pytest.raises(lrp_fx.InputError, match=f"is being written by process {os.getpid()}"):
            loaded.map(texts(3), save=tmp_path / "run")
    finally:
        goes.set()
        thread.join()
    assert found[0].complete


# ------------------------------------------------------------------------------------------------ other rows, damage
def test_fewer_rows_are_other_rows(loaded: lrp_fx.SavedExplainer, tmp_path: Path) -> None:
    given, out = texts(6), tmp_path / "run"
    loaded.map(given, save=out, rows=2)
    for fewer in (given[:4], iter(given[:4]), []):
        with pytest.raises(lrp_fx.InputError, match=r"holds part-.*the run was begun with more rows\n +next:"):
            loaded.map(fewer, save=out, rows=2)
    assert loaded.map(given, save=out, rows=2).table().num_rows == 6


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_a_manifest_that_is_none_is_named(loaded: lrp_fx.SavedExplainer, tmp_path: Path, text: str) -> None:
    loaded.map(texts(2), save=tmp_path / "run")
    (tmp_path / "run" / "_manifest.json").write_text(text)
    with pytest.raises(lrp_fx.InputError, match=r"_manifest.json is damaged"):
        loaded.map(texts(2), save=tmp_path / "run")


def test_a_shard_that_is_damaged_inside_is_named(loaded: lrp_fx.SavedExplainer, tmp_path: Path) -> None:
    """Its end says that all is well; and it is written again when it is gone."""
    given, out = texts(4), tmp_path / "run"
    run = loaded.map(given, save=out, rows=2)
    place = out / "part-000001.parquet"
    whole = place.read_bytes()
    place.write_bytes(whole[:4] + bytes(200) + whole[204:])
    with pytest.raises(lrp_fx.InputError, match=r"part-000001.parquet is damaged .*\n +next: delete it"):
        run.table()
    place.unlink()
    assert loaded.map(given, save=out, rows=2).table().num_rows == 4 and place.read_bytes() == whole


def test_a_run_that_is_refused_leaves_nothing(loaded: lrp_fx.SavedExplainer, tmp_path: Path) -> None:
    """The next one may ask for something else in the same folder."""
    out = tmp_path / "run"
    explainer = lrp_fx.convert(Classifier().eval(), tokenizer=Tokenizer())
    explainer(texts(1)[0], target=0)
    explainer.save(tmp_path / "classes.lrp")
    goals: tuple[Any, ...] = (Direction(torch.ones(4)), "no such label", -5, 99, Contrast(0, 99))
    for explain in (explainer, loaded, lrp_fx.load(tmp_path / "classes.lrp", tokenizer=Tokenizer())):
        for target in goals:
            with pytest.raises(lrp_fx.TargetError):
                explain.map(texts(2), save=out, target=target)
            assert not out.exists()
    assert loaded.map(texts(2), save=out).complete
