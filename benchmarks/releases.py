"""Releases: with which versions of Python, torch and the rest it installs, explains and passes a short selection of
tests: ``python -m benchmarks releases [--only oldest-3.11 ...]``.

Each combination gets a fresh environment in a temporary folder (some GB, a few minutes).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare import ANY, TEXT, Noise
from benchmarks.page import ROOT, Page, table

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: The extras that are installed beside the core.
EXTRAS = ("cli", "hf", "plot")
_CLAIMED = [*PROJECT["dependencies"], *(d for extra in EXTRAS for d in PROJECT["optional-dependencies"][extra])]
_ORDER = ("torch", "transformers", "networkx", "numpy", "safetensors", "rich", "typer", "matplotlib")
#: The direct dependencies, each with the oldest release that is claimed.
FLOORS: dict[str, str] = dict(sorted((d.split(">=") for d in _CLAIMED), key=lambda d: _ORDER.index(d[0])))
#: What the selection needs beside the package.
TOOLS = ("pytest", "hypothesis")
#: A decoder, an encoder, images, two kinds of T5, a mixture of experts; trained models; books that close at every
#: site; files; a model that decides by values; torch.compile.
TESTS = (
    "test_models.py::test_float32_equals_the_model_and_closes[bert-sdpa]",
    "test_models.py::test_float32_equals_the_model_and_closes[llama-sdpa]",
    "test_models.py::test_float32_equals_the_model_and_closes[vit-sdpa]",
    "test_models.py::test_float32_equals_the_model_and_closes[mixtral-sdpa]",
    "test_models.py::test_float64_closes_at_every_site_and_attention_spellings_agree[t5]",
    "test_known_answers.py::test_hit_and_mass[synth_learned-pa-lrp-sdpa]",
    "test_known_answers.py::test_hit_and_mass[synth_t5-pa-lrp-eager]",
    "test_conservation.py::test_every_tampered_coefficient_is_named[True]",
    "test_saved.py::test_models_of_the_library[llama]",
    "test_saved.py::test_it_runs_without_transformers_and_without_the_models_source",
    "test_capture.py::test_a_model_that_decides_by_values_is_recorded_call_by_call[branching]",
    "test_compile.py::test_compiled_graphs_give_the_same[True]",
)
FAULT = "failed"


@dataclass(frozen=True)
class Combination:
    """A Python, and what pip is asked for by exact version; the rest is the newest that pip takes."""

    name: str
    python: str
    pins: dict[str, str]


def floors(*names: str) -> dict[str, str]:
    return {name: FLOORS[name] for name in names or FLOORS}


COMBINATIONS = (
    Combination("oldest-3.11", "3.11", floors()),
    Combination("oldest-3.12", "3.12", floors()),
    Combination("oldest-3.13", "3.13", floors("torch", "transformers")),
    Combination("between-3.12", "3.12", {"torch": "2.11.0", "transformers": "5.17.0"}),
    Combination("newest-3.11", "3.11", {}),
    Combination("newest-3.12", "3.12", {}),
    Combination("newest-3.13", "3.13", {}),
)


class Failed(Exception):
    """A step failed; says which, and the end of what it printed."""


def run(step: str, command: list[str], folder: Path) -> str:
    """What a command prints."""
    own = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=kept | own, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{FAULT}: {step}", f"{done.stdout}\n{done.stderr}"[-6000:])
    return done.stdout


def interpreter(python: str) -> str:
    """The Python of a version: this one, or one that is on the path."""
    own = "{}.{}".format(*sys.version_info) == python
    found = sys.executable if own else shutil.which(f"python{python}")
    if found is None:
        raise Failed(f"{FAULT}: there is no python{python}", "")
    return found


def install(combination: Combination, folder: Path) -> tuple[Path, float]:
    """The interpreter of a fresh environment with the package alone, and the GB that it takes; then the tools."""
    run("venv", [interpreter(combination.python), "-m", "venv", str(folder / "venv")], folder)
    python = folder / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", *(f"{n}=={v}" for n, v in combination.pins.items())]
    run("install", [*pip, f"{ROOT}[{','.join(EXTRAS)}]"], folder)
    size = sum(f.lstat().st_size for f in (folder / "venv").rglob("*") if f.is_file()) / 1e9
    run("install", [*pip, *TOOLS], folder)
    return python, size


def versions(python: Path, folder: Path) -> list[str]:
    """Of Python and of each direct dependency."""
    listed = run("list", [str(python), "-m", "pip", "list", "--format=json"], folder)
    found = {entry["name"].lower(): entry["version"] for entry in json.loads(listed)}
    own = run("version", [str(python), "-c", "import platform; print(platform.python_version())"], folder)
    return [own.strip(), *(found[name] for name in FLOORS)]


def explain(python: Path, folder: Path) -> None:
    """The demo of the README, with the installed command."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.search(r'lrp-fx explain \S+ --text "(.*?)"', readme)
    assert text is not None
    model = str(ROOT / "examples" / "models" / "stories260k")
    command = [str(python.with_name("lrp-fx")), "explain", model, "--text", text[1], "--html", "story.html"]
    run("demo", command, folder)
    if "Ledger" not in (folder / "story.html").read_text(encoding="utf-8"):
        raise Failed(f"{FAULT}: demo", "no ledger on the page")


def check(python: Path) -> str:
    """How many tests passed."""
    named = [f"tests/{test}" for test in TESTS]
    said = run("tests", [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *named], ROOT)
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    return f"demo and {passed[1]} tests passed"


def measure(combination: Combination) -> list[str]:
    """A row of the page."""
    start = time.monotonic()
    row = ["-"] * (len(FLOORS) + 2)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        try:
            python, size = install(combination, folder)
            installed = time.monotonic() - start
            row = [*versions(python, folder), f"{size:.1f}"]
            explain(python, folder)
            result = check(python)
        except Failed as failed:
            result, printed = failed.args
            print(printed, file=sys.stderr)
        else:
            print(
                f"{combination.name}: {installed:.0f} s to install, {time.monotonic() - start - installed:.0f} s to run"
            )
    return [combination.name, *row, result, str(datetime.datetime.now(tz=datetime.UTC).date())]


def about(options: argparse.Namespace) -> str:
    del options
    return """
Each row is a fresh environment: `pip install` of the checkout with the extras `cli`, `hf` and `plot`, with the
versions that `pyproject.toml` claims as the oldest or with none named (the newest that pip took that day), then the
demo of the README and a short selection of tests (`TESTS` in `benchmarks/releases.py`), on a CPU. On Python 3.13, for
which not all of the oldest releases were built, torch and transformers alone are the oldest. All tests are run with
the versions in `constraints.txt`. GB: what the environment takes with the package and all that it needs; on Linux,
torch from PyPI brings CUDA. A Python is looked for on the path, as `python3.12`.
"""


def body(options: argparse.Namespace) -> Iterator[str]:
    rows: list[list[str]] = []
    for combination in COMBINATIONS:
        if options.only is None or combination.name in options.only:
            rows.append(measure(combination))
            print("|", " | ".join(rows[-1]), "|", flush=True)
            yield table(["combination", "Python", *FLOORS, "GB", "result", "date"], rows)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=[c.name for c in COMBINATIONS], help="these combinations")


BENCHMARK = Page(
    "releases",
    "With which versions of Python, torch and the rest it installs, explains and passes a selection of tests",
    "releases.md",
    "Releases",
    about,
    body,
    add_options,
    selects=("only",),
    noise={TEXT: ANY, "date": ANY, "GB": Noise(relative=0.1)},
    fault=FAULT,
)
