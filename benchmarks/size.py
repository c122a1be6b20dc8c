"""What is told of memory, and what is needed: ``python -m benchmarks size [--models NAME ...] [--write]``.

What `Explainer.size` tells of a model without weights is put beside what a fresh process grows by at most while it
explains the same inputs with weights (converted before; one thread). It is measured twice: with every block of memory
on pages of its own (``MALLOC_MMAP_THRESHOLD_``), which is what is asked of the allocator, and as the C library does it
by default, which keeps blocks in a heap with holes.

Below: what it takes to convert a model without weights and to bind them, beside loading it and converting it then.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.compare import Noise
from benchmarks.history import measured_in
from benchmarks.page import ROOT, Page, table
from benchmarks.turns import growth

#: name -> (kind, tokens, batch, options of convert, type of the weights)
MODELS: dict[str, tuple[str, int, int, dict[str, Any], torch.dtype]] = {
    "decoder 4 x 512": ("llama", 1024, 1, {}, torch.float32),
    "decoder 4 x 512, checkpoint": ("llama", 1024, 1, {"checkpoint": True}, torch.float32),
    "gpt2, 4 layers": ("gpt2", 512, 1, {}, torch.float32),
    "bert, 6 layers": ("bert", 256, 4, {}, torch.float32),
    "vit, 6 layers": ("vit", 0, 4, {}, torch.float32),
    "t5-small": ("t5", 128, 4, {"output": "logits"}, torch.float32),
    "decoder 4 x 512, bfloat16": ("llama", 512, 1, {}, torch.bfloat16),
}
#: What every block of memory on pages of its own takes.
APART = {"MALLOC_MMAP_THRESHOLD_": "131072"}
LARGE, SMALL = "8B (bfloat16)", "135M (float32)"
SHAPES = {
    LARGE: dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32)
    | dict(num_key_value_heads=8, vocab_size=128256, max_position_embeddings=8192),
    SMALL: dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9)
    | dict(num_key_value_heads=3, vocab_size=49152, tie_word_embeddings=True),
}
MIB = 2**20


# ------------------------------------------------------------------------------------------------ models
def build(kind: str) -> nn.Module:
    import transformers as t

    torch.manual_seed(0)
    if kind == "llama":
        sizes = dict(hidden_size=512, intermediate_size=1376, num_hidden_layers=4, num_attention_heads=8)
        config = t.LlamaConfig(vocab_size=8192, num_key_value_heads=2, max_position_embeddings=4096, **sizes)
        return t.LlamaForCausalLM(config)
    if kind == "gpt2":
        config = t.GPT2Config(vocab_size=8192, n_layer=4, bos_token_id=0, eos_token_id=0)
        return t.GPT2LMHeadModel(config)
    if kind == "bert":
        return t.BertForSequenceClassification(t.BertConfig(vocab_size=8192, num_hidden_layers=6))
    if kind == "vit":
        return t.ViTForImageClassification(t.ViTConfig(num_hidden_layers=6))
    return t.T5ForConditionalGeneration(t.T5Config(vocab_size=8192, decoder_start_token_id=0))


def inputs_of(kind: str, tokens: int, batch: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    if kind == "vit":
        return {"pixel_values": torch.randn(batch, 3, 224, 224, generator=generator)}
    ids = torch.randint(5, 8000, (batch, tokens), generator=generator)
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return text | ({"decoder_input_ids": ids[:, :8]} if kind == "t5" else {})


# ------------------------------------------------------------------------------------------------ a process
def measure(what: str, name: str) -> list[float]:
    """What a step gives, in a process of its own."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    return STEPS[what](name)


def told(name: str) -> list[float]:
    """MiB of weights, kept, at the peak and of the result, told of the model without its weights."""
    import lrp_fx

    kind, tokens, batch, options, dtype = MODELS[name]
    with lrp_fx.parameters_on_meta():
        model = build(kind).to(dtype).eval()
    found = lrp_fx.convert(model, **options).size(**inputs_of(kind, tokens, batch))
    return [size / MIB for size in (found.weights, found.kept, found.peak, found.result)]


def needed(name: str) -> list[float]:
    """MiB that the process grows by at most in one explanation."""
    import lrp_fx

    kind, tokens, batch, options, dtype = MODELS[name]
    explain, inputs = lrp_fx.convert(build(kind).to(dtype).eval(), **options), inputs_of(kind, tokens, batch)
    explain.trace(**inputs)
    return [growth(lambda: explain(**inputs))[1]]


def _decoder(name: str) -> nn.Module:
    import transformers as t

    dtype = torch.bfloat16 if "bfloat16" in name else torch.float32
    return t.LlamaForCausalLM(t.LlamaConfig(**SHAPES[name])).to(dtype).eval()  # type: ignore[arg-type]


def _text() -> dict[str, Tensor]:
    ids = torch.arange(5, 21).unsqueeze(0)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def converted(name: str) -> list[float]:
    """[CPU seconds, MiB] of making a model without weights, of converting it, and of its size for 8 x 2048 tokens; MiB
    of its weights.
    """
    import lrp_fx

    empty = lrp_fx.parameters_on_meta
    lrp_fx.convert(_warm(), _text())  # what the first conversion of a process imports is nobody's
    found: list[float] = []

    def timed(run: Any) -> Any:
        start = time.process_time()
        result, grown = growth(run)
        found.extend([time.process_time() - start, grown])
        return result

    def make() -> nn.Module:
        with empty():
            return _decoder(name)

    model = timed(make)
    explain = timed(lambda: lrp_fx.convert(model, _text()))
    size = timed(lambda: explain.size(input_ids=torch.ones(8, 2048, dtype=torch.int64)))
    return [*found, size.weights / MIB, size.total / MIB]


def _warm() -> nn.Module:
    import transformers as t

    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4)
    return t.LlamaForCausalLM(t.LlamaConfig(vocab_size=64, **sizes)).eval()


def bound(folder: str) -> list[float]:
    """MiB that converting without weights and binding them grow the process by at most; of the weights."""
    import lrp_fx

    lrp_fx.convert(_warm(), _text())

    def run() -> Any:
        explain = lrp_fx.convert(folder, weights=False)
        explain.trace(**_text())
        explain.bind()
        return explain

    explain, grown = growth(run)
    return [grown, sum(p.nbytes for p in explain.model.parameters()) / MIB]


def loaded(folder: str) -> list[float]:
    """The same of loading the model and converting it then."""
    import lrp_fx

    lrp_fx.convert(_warm(), _text())
    explain, grown = growth(lambda: lrp_fx.convert(folder).trace(**_text()))
    return [grown, sum(p.nbytes for p in explain.model.parameters()) / MIB]


def write(folder: str) -> list[float]:
    """A checkpoint in shards."""
    _decoder(SMALL).save_pretrained(folder, max_shard_size="200MB")  # type: ignore[operator]
    return []


STEPS = {"told": told, "needed": needed, "converted": converted, "bound": bound, "loaded": loaded, "write": write}


# ------------------------------------------------------------------------------------------------ the page
HEADINGS = (
    "model",
    "tokens x batch",
    "weights, MiB",
    "kept, told",
    "peak, told",
    "asked of the allocator",
    "told / asked",
    "by default",
    "told / default",
    "with weights",
)
CONVERSION = ("shape", "step", "CPU s", "MiB", "of the weights")


@contextlib.contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def row(name: str) -> list[str]:
    _, tokens, batch, _, _ = MODELS[name]
    weights, kept, peak, _ = measured_in(ROOT, __name__, "told", name)
    with _environment(APART):
        (asked,) = measured_in(ROOT, __name__, "needed", name)
    (default,) = measured_in(ROOT, __name__, "needed", name)
    whole = (weights + peak) / (weights + default)
    sizes = [f"{tokens or 1} x {batch}", f"{weights:.0f}", f"{kept:.0f}", f"{peak:.0f}", f"{asked:.0f}"]
    return [name, *sizes, f"{peak / asked:.2f}", f"{default:.0f}", f"{peak / default:.2f}", f"{whole:.2f}"]


def conversion_rows() -> list[list[str]]:
    *steps, weights, total = measured_in(ROOT, __name__, "converted", LARGE)
    pairs = zip(("made without weights", "converted", "size told, 2048 x 8"), steps[::2], steps[1::2], strict=True)
    rows = [[LARGE, step, f"{s:.1f}", f"{mib:.0f}", f"{mib / weights:.1%}"] for step, s, mib in pairs]
    rows.append([LARGE, "told: weights, inputs and peak", "", f"{total:.0f}", f"{total / weights:.1%}"])
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "model")
        measured_in(ROOT, __name__, "write", place)
        for what, step in (("bound", "converted without weights, bound"), ("loaded", "loaded, converted")):
            grown, of = measured_in(ROOT, __name__, what, place)
            rows.append([SMALL, step, "", f"{grown:.0f}", f"{grown / of:.1%}"])
    return rows


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))


def about(options: argparse.Namespace) -> str:
    return f"""\
`explainer.size(...)` and `lrp-fx size` tell what an explanation needs beside the weights, from the relevance graph of
a model without weights; nothing is run. Beside it: what a fresh process grows by at most while it explains such inputs
with random weights, converted before, on the CPU with one thread and torch {torch.__version__}. "asked of the
allocator": every block of memory on pages of its own (`MALLOC_MMAP_THRESHOLD_=131072`). "by default": as the C library
does it, which keeps blocks in a heap with holes; that is not told. "with weights": told over by default, both with the
weights."""


def body(options: argparse.Namespace) -> Iterator[str]:
    rows: list[list[str]] = []
    below = conversion_rows()
    print(*below, sep="\n", flush=True)
    for name in options.models:
        rows.append(row(name))
        print(*rows[-1], sep=" | ", flush=True)
        yield "\n\n".join(
            [
                table(HEADINGS, rows),
                "Without weights: what each step grows the process by, at most, and as a share of the weights.",
                table(CONVERSION, below),
            ]
        )


BENCHMARK = Page(
    "size",
    "What is told of the memory that an explanation needs, and what it needs; conversion without weights",
    "size.md",
    "Memory, told and measured",
    about,
    body,
    add_options,
    selects=("models",),
    noise={
        HEADINGS[5]: Noise(relative=0.05, absolute=3.0),
        HEADINGS[6]: Noise(absolute=0.05),
        HEADINGS[7]: Noise(relative=0.2, absolute=10.0),
        HEADINGS[8]: Noise(absolute=0.15),
        HEADINGS[9]: Noise(absolute=0.15),
        CONVERSION[2]: Noise(relative=0.5, absolute=1.0),
        CONVERSION[3]: Noise(relative=0.3, absolute=30.0),
        CONVERSION[4]: Noise(absolute=10.0),
    },
)
