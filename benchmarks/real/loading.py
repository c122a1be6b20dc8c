"""Language models from GGUF files: dequantised to float32 once, and read from that copy afterwards.

Dequantising takes two packages more: ``pip install gguf accelerate``.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import torch

from benchmarks.real.shipped import FILE, fetched

NEEDED = ("gguf", "accelerate")
COPY = "float32"


def load(name: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a language model in `SHIPPED`: float32, in evaluation mode, without gradients."""
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise SystemExit(
            f"reading a GGUF file takes {' and '.join(missing)}\n    next: pip install {' '.join(missing)}"
        )
    import transformers

    logging: Any = transformers.utils.logging
    logging.disable_progress_bar()
    folder = fetched(name)
    if not (folder / COPY).exists():
        _dequantise(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / COPY)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder / COPY, dtype=torch.float32)
    return model.eval().requires_grad_(False), tokenizer


def _dequantise(folder: Path) -> None:
    """The same model in float32, beside its GGUF file: reading that takes a minute, and a copy of it a second."""
    import transformers

    part = folder / f"{COPY}.part"
    shutil.rmtree(part, ignore_errors=True)
    transformers.AutoTokenizer.from_pretrained(folder, gguf_file=FILE).save_pretrained(part)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    model.save_pretrained(part)
    part.rename(folder / COPY)
