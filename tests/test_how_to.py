"""Every how-to runs offline and prints what its page says; the pages are their scripts."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from benchmarks import how_to

#: What each how-to prints whatever the rounding of a machine.
HOW_TO = {
    "batches": "3 texts, v0 (class 0)",
    "classify": "predicted v6 (class 6), p = 1",
    "concepts": "neurons of block 3",
    "contrast": "Lily (class 317) rather than Tim (class 326)",
    "datasets": "41 rows in 3 shards, 1 in error",
    "encoder_decoder": "decoder_input_ids  +",
    "evaluate": "later tokens first",
    "generation": "written: girl named Lily.",
    "image": "3 (class 3), p = .88",
    "image_and_text": "patches (1, 4, 6)",
    "inside": "depth: (6, 1, 14)",
    "edges": "induction heads: [0, 2]",
    "pruning": "40 examples with scores",
    "latents": "activations; the dictionary explains",
    "pairs": "Pairs(cosine",
    "patch": "without mlp.1: -8.67, expected -8.45",
    "save": "graph: True",
    "sound": "by time (1, 200)",
    "train": "of relevance on it; captures: 1",
}


#: Of those that are run every time; the others are run with the slow tests, and whenever their pages are written.
ALWAYS = ("classify", "contrast", "datasets", "evaluate", "generation", "image", "save")
NAMES = [pytest.param(n, marks=[] if n in ALWAYS else [pytest.mark.slow]) for n in how_to.NAMES]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_how_to_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: what takes longest is to load torch and transformers."""
    monkeypatch.syspath_prepend(how_to.SCRIPTS)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", str(tmp_path)])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runpy.run_path(str(how_to.SCRIPTS / f"{name}.py"), run_name="__main__")
    assert HOW_TO[name] in capsys.readouterr().out


def test_pages_of_how_tos_are_their_scripts() -> None:
    """Written again by ``python -m benchmarks how_to --write``."""
    assert {p.stem for p in how_to.SCRIPTS.glob("*.py")} == {*how_to.NAMES, "shipped"} == {*HOW_TO, "shipped"}
    assert (how_to.PAGES / "index.md").read_text(encoding="utf-8") == how_to.index()
    for name in how_to.NAMES:
        page = (how_to.PAGES / f"{name}.md").read_text(encoding="utf-8")
        printed = page.split("It prints:\n\n```text\n")[1].split("\n```")[0]
        assert page == how_to.page(name, printed), name
        assert HOW_TO[name] in printed
