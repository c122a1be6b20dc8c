"""Every example runs offline, from the repository's root, and prints what it promises."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import how_to

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(p.name for p in (ROOT / "examples").glob("*.py"))
PROMISED = {
    "contrast.py": "the most relevant token is A, B or the question in",
    "image.py": "heatmap (1, 28, 28)",
    "next_token.py": "in leaves and sinks",
    "own_rule.py": "sink damped",
    "unseen_architecture.py": "only approximated: nothing",
}

#: What each how-to prints whatever the rounding of a machine.
HOW_TO = {
    "batches": "3 texts, v0 (class 0)",
    "classify": "predicted v6 (class 6), p = 1",
    "contrast": "Lily (class 317) rather than Tim (class 326)",
    "datasets": "40 lines; captures: 1",
    "encoder_decoder": "decoder_input_ids  +",
    "evaluate": "later tokens first",
    "generation": "written: girl named Lily.",
    "image": "3 (class 3), p = .88",
    "image_and_text": "patches (1, 4, 6)",
    "inside": "depth: (6, 1, 14)",
    "save": "graph: True",
    "sound": "by time (1, 200)",
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", how_to.NAMES)
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


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name: str) -> None:
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONIOENCODING": "utf-8",
    }
    done = subprocess.run(
        [sys.executable, f"examples/{name}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert PROMISED[name] in done.stdout


def test_models_are_small_and_say_where_they_come_from() -> None:
    models = [p for p in (ROOT / "examples" / "models").iterdir() if p.is_dir()]
    assert sum(f.stat().st_size for m in models for f in m.rglob("*")) < 10_000_000
    for model in models:
        about = (model / "README.md").read_text(encoding="utf-8")
        assert "**Origin" in about and "icence" in about
