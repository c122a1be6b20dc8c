"""Language models from GGUF files: dequantised to float32 once, and read from that copy afterwards.

Dequantising takes two packages more: ``pip install gguf accelerate``.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
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
    """The same model in float32, beside its GGUF file: reading that takes a minute, and a copy of it a second.
    (transformers does not save a model that came from GGUF. Its weights are saved here, and its configuration, which
    says no more that they are quantised.)
    """
    import transformers

    part = folder / f"{COPY}.part"
    shutil.rmtree(part, ignore_errors=True)
    transformers.AutoTokenizer.from_pretrained(folder, gguf_file=FILE).save_pretrained(part)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    vars(model.config).pop("quantization_config", None)
    model.config.save_pretrained(part)
    safetensors.torch.save_model(model, str(part / "model.safetensors"), metadata={"format": "pt"})
    copy: Any = transformers.AutoModelForCausalLM.from_pretrained(part, dtype=torch.float32)
    again = copy.state_dict()
    if not all(torch.equal(again[name], weight) for name, weight in model.state_dict().items()):
        raise SystemExit(f"the copy of {folder.name} in float32 has other weights than its GGUF file")
    part.rename(folder / COPY)
