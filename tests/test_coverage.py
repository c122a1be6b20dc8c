"""The sweep over model types: what it calls closed is closed, and a rule that loses relevance makes it say so."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.coverage import heads, sweep, workers
from benchmarks.coverage.examine import CLOSED, examine
from benchmarks.coverage.page import cells, summary, table
from benchmarks.coverage.row import Row
from lrp_fx.rule import registry
from testing import zoo

pytestmark = pytest.mark.usefixtures("quiet")
CASE = ("MASKED_LM", "fnet")


def row() -> Row:
    saved: list[str] = []
    found = examine(*CASE, lambda r: saved.append(r.stage))
    assert saved[0] == "no forward", "what is known is saved before each stage that may not return"
    return found


def test_a_type_that_closes() -> None:
    found = row()
    assert found.stage == "closed", found.reason
    assert 0.0 < found.site <= max(CLOSED.values()), "every site was balanced: rounding shows"
    assert found.ledger <= 1e-9 and found.forward <= 1e-6
    assert found.shares[2] == 0 and found.method == "dynamic" and found.positions
    assert Row.from_json(found.to_json()).to_json() == found.to_json(), "but for digits of errors"


def test_a_rule_that_loses_relevance_is_seen(monkeypatch: Any) -> None:
    rule = registry.rules["linear.zero"]
    monkeypatch.setitem(
        registry.rules, rule.name, dataclasses.replace(rule, surrogate=lambda call: rule.surrogate(call) * 0.99)
    )
    found = row()
    assert found.stage == "open"
    assert "ledger off" in found.reason and "a site off" in found.reason


def test_the_page_counts_what_the_rows_say() -> None:
    closed = Row(
        "a", "CAUSAL_LM", stage="closed", method="dynamic", shares=(3, 1, 0), ledger=1e-16, site=1e-16, forward=0.0
    )
    narrow = dataclasses.replace(
        closed, model_type="b", dtype="float32", shares=(1, 0, 2), approximated={"aten.odd": 2}
    )
    missing = Row("c", "CAUSAL_LM", stage="not captured", reason="concrete: draws random numbers")
    text = summary([closed, narrow, missing], types=4)
    assert "3 model types of 4 (the sweep was stopped" in text and "3 run forward here: 2 captured" in text
    assert "(1 of them only in float32" in text and "1 of these with nothing approximated" in text
    assert len(table([closed, narrow, missing])) == 5
    assert "draws random numbers" in cells(missing)[-1] and "2 x aten.odd" in cells(narrow)[-1]


def test_every_model_type_has_a_task() -> None:
    types = {model_type for _, model_type in zoo.iter_architectures()}
    assert len(types) > 300


def test_every_head_comes_once() -> None:
    jobs = sweep.jobs("all")
    names = {(model_type, zoo.head_name(task, model_type)) for model_type, (task,) in jobs}
    assert len(names) == len(jobs) > 1000
    assert sweep.jobs("all") == jobs, "a stopped sweep goes on in the same order"
    types = [model_type for model_type, _ in jobs]
    changes = sum(a != b for a, b in pairwise(types)) + 1
    assert changes == len(set(types)), "heads of one type follow each other"


def test_rows_are_kept_and_those_of_other_versions_measured_again(tmp_path: Path) -> None:
    store = sweep.Store(tmp_path / "rows.jsonl", by_head=True)
    late = Row("b", "CTC", stage="closed", shares=(3, 1, 0), versions=sweep.versions())
    early = dataclasses.replace(late, model_type="a", versions="torch 1.0, transformers 4.0", site=1.23456e-16)
    for row in (late, early, late):
        store.add(row)
    store.tidy()
    lines = store.path.read_text().splitlines()
    assert len(lines) == 2 and "expected" not in lines[0] and "1.23e-16" in lines[0]
    assert [r.model_type for r in store.rows()] == ["a", "b"]
    options = argparse.Namespace(stored=False, names=[], again=None)
    assert [sweep.wanted(r.model_type, options, r) for r in store.rows()] == [True, False]


def test_what_a_stopped_job_left_is_its_row(tmp_path: Path) -> None:
    job, limits = ("a", ["CTC"]), workers.Limits(seconds=7, gigabytes=1.0)
    part = workers.part_of(tmp_path, job)
    assert "crash" in workers.left_by(part, job, 1, limits).reason
    part.write_text(json.dumps(Row("a", "CTC", stage="not captured").to_json()))
    stopped = workers.left_by(part, job, -signal.SIGXCPU, limits)
    assert (stopped.stage, stopped.reason, stopped.seconds) == ("not captured", "stopped after 7 s", 7.0)
    assert workers.left_by(part, job, 0, limits).reason == ""


def test_the_page_of_heads_says_what_is_short_and_why() -> None:
    closed = Row("a", "CAUSAL_LM", stage="closed", shares=(3, 1, 0), gradient=1e-17, padding="right ok, left ok")
    rows = [
        closed,
        dataclasses.replace(closed, task="MASKED_LM", gradient=1e-3, reason="gradient off by 1e-03"),
        Row("musicgen", "CAUSAL_LM", "MusicgenForCausalLM", stage="open", reason="ledger off by 1e-01"),
        Row("c", "CTC", stage="not built", reason="ImportError: no timm"),
    ]
    assert heads.counts(rows) == ["3", "3", "2", "2", "1 of 2", "2 of 2"]
    text = heads.summary(rows, heads=9)
    assert "4 heads (3 types) of 9: the sweep was stopped" in text and "66.7% of those that run" in text
    short = heads.shortfalls(rows)
    assert "gradient off by 1e-03" in short and "one for each codebook" in short and "| a | CAUSAL" not in short
    assert heads.not_run(rows)[1] == "1 needs a package that is not installed: c (ctc)."
