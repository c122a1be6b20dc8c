"""Every example runs offline, from the repository's root, and prints what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(p.name for p in (ROOT / "examples").glob("*.py"))
PROMISED = {
    "contrast.py": "the most relevant token is A, B or the question in",
    "image.py": "heatmap (1, 28, 28)",
    "next_token.py": "in leaves and sinks",
    "own_rule.py": "sink damped",
    "unseen_architecture.py": "only approximated: nothing",
}


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
