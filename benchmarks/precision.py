"""What rounding costs: ``python -m benchmarks precision [--models NAME ...] [--depths 2 4 8 ...]``.

Explains tiny models in float32, bfloat16, float16 and under autocast, and the same (rounded) weights in float64.
Reported are what the books miss, in all and at the worst site, in units of the type's spacing, and how far the picture
is from the one in float64. With ``--models`` or ``--depths`` a page that exists keeps its other rows.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lrp_fx
from benchmarks.compare import Noise, parse
from benchmarks.page import Page, table
from testing import zoo

MODELS = (
    *(("CAUSAL_LM", name) for name in ("llama", "gpt2", "gemma3_text", "mixtral", "mamba")),
    *(("SEQUENCE_CLASSIFICATION", name) for name in ("bert", "deberta-v2")),
    ("SEQ_TO_SEQ_CAUSAL_LM", "t5"),
    *(("IMAGE_CLASSIFICATION", name) for name in ("vit", "swin")),
    ("AUDIO_CLASSIFICATION", "wav2vec2"),
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "autocast": torch.bfloat16}
DEPTHS = (2, 4, 8, 16, 32)
HEADINGS = (
    "model",
    "type",
    "steps",
    "books miss",
    "in spacings",
    "per root of steps",
    "worst site",
    "finite",
    "picture off by",
)


def cast(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {n: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in inputs.items()}


def explained(
    model: nn.Module, inputs: dict[str, Any], autocast: bool = False
) -> tuple[lrp_fx.Explainer, lrp_fx.Relevance]:
    explainer = lrp_fx.convert(model, conserve="site")
    explainer.conserve = "off"  # what the books miss is what is measured here
    with (
        warnings.catch_warnings(),
        torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext(),
    ):
        warnings.simplefilter("ignore")
        return explainer, explainer(**inputs)


def picture(relevance: lrp_fx.Relevance) -> Tensor:
    """All relevance of the inputs in one row."""
    return torch.cat([R.double().flatten() for _, R in sorted(relevance.content.items())])


def measure(name: str, model: nn.Module, inputs: dict[str, Any], kind: str) -> list[str]:
    """One row: a model in one type against the same weights in float64."""
    dtype = torch.float32 if kind == "autocast" else DTYPES[kind]
    narrow = copy.deepcopy(model).to(dtype)
    explainer, relevance = explained(narrow, cast(inputs, dtype), kind == "autocast")
    exact: Any = copy.deepcopy(narrow).double()
    if hasattr(exact, "set_experts_implementation"):
        exact.set_experts_implementation("batched_mm")  # the grouped kernel has no float64
    _, wide = explained(exact, cast(cast(inputs, dtype), torch.float64))
    ledger, spacing = relevance.ledger, torch.finfo(DTYPES[kind]).eps
    gap = float(((ledger.score - ledger.total).abs() / torch.maximum(ledger.magnitude, ledger.score.abs())).max())
    steps = sum(sum(c.values()) for c in explainer.coverage.values())
    ours, theirs = picture(relevance), picture(wide)
    off = float((ours - theirs).norm() / theirs.norm())
    site = max(s.error for s in ledger.sites)
    finite = "yes" if bool(ours.isfinite().all()) else "NO"
    return [
        name,
        kind,
        str(steps),
        f"{gap:.1e}",
        f"{gap / spacing:.2f}",
        f"{gap / spacing / steps**0.5:.3f}",
        f"{site:.1e}",
        finite,
        f"{off:.1e}",
    ]


def rows(names: list[str], depths: list[int]) -> list[list[str]]:
    found = []
    for task, model_type in (m for m in MODELS if m[1] in names):
        model = zoo.build_model(task, model_type)
        inputs = zoo.make_inputs(task, model)[0]
        found += [_measured(model_type, model, inputs, kind) for kind in DTYPES]
    for depth in depths:
        model, inputs = deep(depth)
        found += [
            _measured(f"llama, {depth} layers", model, inputs, kind) for kind in ("float32", "bfloat16", "float16")
        ]
    return found


def _measured(name: str, model: nn.Module, inputs: dict[str, Any], kind: str) -> list[str]:
    try:
        return measure(name, model, inputs, kind)
    except (lrp_fx.LrpError, RuntimeError) as error:  # some kernels do not exist in half precision
        return [name, kind, "", str(error).splitlines()[0][:80], "", "", "", "", ""]


def deep(layers: int) -> tuple[nn.Module, dict[str, Any]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    return model, {"input_ids": torch.randint(3, 96, (2, 16), generator=torch.Generator().manual_seed(0))}


def kept(page: Path, new: list[list[str]]) -> list[list[str]]:
    """All rows of a page, the new ones in their places."""
    tables = parse(page.read_text(encoding="utf-8")).tables if page.exists() else []
    old = [list(row) for row in tables[0].rows] if tables else []
    fresh = {(r[0], r[1]): r for r in new}
    known = {(r[0], r[1]) for r in old}
    return [fresh.get((r[0], r[1]), r) for r in old] + [r for key, r in fresh.items() if key not in known]


ABOUT = """\
Explains tiny models in float32, bfloat16, float16 and under autocast, and the same (rounded) weights in float64.
Reported are what the books miss, in all and at the worst site, in units of the type's spacing, and how far the picture
is from the one in float64. With `--models` or `--depths` the page keeps its other rows.

*steps*: nodes that relevance passes. *books miss*: |score - everything booked| over all absolute relevance. *in
spacings*: the same over the spacing of the type at 1 (1.2e-7 for float32, 7.8e-3 for bfloat16, 9.8e-4 for float16).
*picture off by*: distance of the inputs' relevance from that of the same weights in float64, relative to its norm (the
forward pass is rounded too, so this is no fault of the books).

Every step rounds the relevance that passes it by at most half a spacing, so n steps miss at most n/2 spacings of all
absolute relevance. Roundings are as good as independent, so about the root of n of them remain (*per root of steps* is
below one half), and less, since most relevance stays on the residual stream, whose sums are handed on as they are:
depth hardly adds to it. `lrp_fx` accepts 1e-5 in float32 (84 spacings), 5e-2 in bfloat16 (6.4 spacings) and 1e-2 in
float16 (10 spacings) of the whole; a site is held to the same, but to 1e-4 in float32.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="*", choices=[m for _, m in MODELS])
    parser.add_argument("--depths", type=int, nargs="*")


def body(options: argparse.Namespace) -> Iterator[str]:
    some = options.models is not None or options.depths is not None
    names = options.models or ([] if some else [m for _, m in MODELS])
    new = rows(names, options.depths or ([] if some else list(DEPTHS)))
    found = kept(options.page, new) if some else new
    print(table(HEADINGS, new))
    yield table(HEADINGS, found)


#: The order of sums is the kernels': figures of rounding are good for their order of magnitude.
MAGNITUDE = Noise(relative=0.9)
BENCHMARK = Page(
    "precision",
    "What rounding costs: how far the books close and how far pictures are off in half precision",
    "precision.md",
    "Rounding",
    lambda options: ABOUT,
    body,
    add_options,
    noise=dict.fromkeys(("books miss", "in spacings", "per root of steps", "worst site", "picture off by"), MAGNITUDE),
)
