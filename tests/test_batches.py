"""Batches, padding and sizes: each example gets what it gets alone, and other sizes do not capture again."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import lrp_fx
from testing.architectures import BY_NAME, RELATIVES, VOCAB
from testing.converted import converted

LENGTHS = (9, 6)
TEXT = [
    "bert",
    "roberta",
    "distilbert",
    "modernbert",
    "deberta_v2",
    "gpt2",
    "gpt_neox",
    "gptj",
    "opt",
    "bloom",
    "llama",
    "mistral",
    "qwen3",
    "gemma2",
    "gemma3",
    "phi",
    "mixtral",
]
#: Models whose own output changes with left padding: absolute positions counted from the left, or a head that reads
#: the first token, which is padding then.
CARES_ABOUT_LEFT_PADDING = {"bert", "distilbert", "roberta", "modernbert", "deberta_v2"}


def rows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(5, VOCAB - 6, (n,), generator=generator) for n in LENGTHS]


def padded(side: str) -> tuple[Tensor, Tensor]:
    width = max(LENGTHS)
    ids, mask = torch.zeros(len(LENGTHS), width, dtype=torch.int64), torch.zeros(len(LENGTHS), width, dtype=torch.int64)
    for i, row in enumerate(rows()):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, place], mask[i, place] = row, 1
    return ids, mask


def explain(explainer: lrp_fx.Explainer, **inputs: Any) -> lrp_fx.Relevance:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return explainer(**inputs)


def positions(name: str, mask: Tensor) -> dict[str, Tensor]:
    return {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if name in ("gpt2", "gptj") else {}


def sides() -> list[Any]:
    """Every text model padded on either side; on the left, where other places meet the same code, a few stand for the
    rest.
    """
    slow = {
        (n, side)
        for n in TEXT
        for side in ("right", "left")
        if n in (*RELATIVES, "modernbert") or (side == "left" and n not in ("llama", "bert"))
    }
    return [
        pytest.param(n, side, marks=[pytest.mark.slow] if (n, side) in slow else [], id=f"{side}-{n}")
        for n in TEXT
        for side in ("right", "left")
    ]


@pytest.mark.parametrize(("name", "side"), sides())
def test_padding_changes_nothing_where_the_model_does_not_care(name: str, side: str) -> None:
    ids, mask = padded(side)
    if side == "left" and name in CARES_ABOUT_LEFT_PADDING:
        model = BY_NAME[name].build("eager", torch.float64)
        with torch.no_grad():
            ours, alone = (
                model(input_ids=ids, attention_mask=mask).logits[1],
                model(input_ids=rows()[1].unsqueeze(0)).logits[0],
            )
        assert not torch.allclose(ours, alone, rtol=1e-6), (
            "if the model's own output is the same, relevance must be too"
        )
        return
    explainer = converted(name, "eager", torch.float64).explainer
    batch = explain(explainer, input_ids=ids, attention_mask=mask, **positions(name, mask))
    captures = explainer.statistics.captures
    together = batch.per_token()
    assert isinstance(together, Tensor)
    assert torch.equal(together[mask == 0], torch.zeros_like(together[mask == 0])), "padded tokens get exactly zero"
    for i, row in enumerate(rows()):
        ones = torch.ones(1, len(row), dtype=torch.int64)
        alone = explain(explainer, input_ids=row.unsqueeze(0), attention_mask=ones, **positions(name, ones))
        assert torch.allclose(batch.score[i], alone.score[0], rtol=1e-9), "the model's own output"
        single = alone.per_token()
        assert isinstance(single, Tensor)
        scale = float(alone.ledger.magnitude.max())
        assert float((together[i][mask[i] == 1] - single[0]).abs().max()) <= 1e-9 * scale
    assert explainer.statistics.captures == captures, "another length and another batch size must not capture again"


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        pytest.param(
            name,
            attention,
            marks=[pytest.mark.slow] if attention == "eager" and name not in ("bert", "vit") else [],
            id=f"{attention}-{name}",
        )
        for name in ("llama", "bert", "t5", "vit", "whisper")
        for attention in ("eager", "sdpa")
    ],
)
def test_other_sizes_do_not_capture_again(name: str, attention: str) -> None:
    found = converted(name, attention)
    model, inputs, explainer = found.model, found.inputs, found.explainer
    explain(explainer, **inputs)
    before = dataclasses.astuple(explainer.statistics)
    for batch, length in ((1, 7), (3, 5), (2, 12), (1, 1)):
        changed = {k: _resize(v, batch, length) for k, v in inputs.items()}
        relevance = explain(explainer, **changed)
        with torch.no_grad():
            expected = model(**changed).logits
        assert torch.allclose(relevance.output.logits, expected, atol=1e-5)
    captures, transposes, runs = before
    assert dataclasses.astuple(explainer.statistics) == (captures, transposes, runs + 4)


def _resize(value: Tensor, batch: int, length: int) -> Tensor:
    value = value[torch.arange(batch) % value.shape[0]]
    if value.is_floating_point():
        return value
    return value[:, torch.arange(length) % value.shape[1]]


def test_batch_of_images_equals_single_images() -> None:
    explainer = converted("swin", "eager", torch.float64, conserve="site").explainer
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batch = explain(explainer, pixel_values=images)
    for i in range(3):
        alone = explain(explainer, pixel_values=images[i : i + 1])
        assert torch.allclose(batch.content["pixel_values"][i], alone.content["pixel_values"][0], rtol=1e-8, atol=1e-12)
    assert explainer.statistics.captures == 1, "whoever called it: images are all of one size"
    assert batch.heatmap().shape == (3, 32, 32)


def test_gpt2_with_left_padding_needs_position_ids() -> None:
    """Without them the model itself answers differently; with them it does not (documented in docs/how_it_works.md)."""
    model = BY_NAME["gpt2"].build("eager", torch.float64)
    ids, mask = padded("left")
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask).logits[1, -1]
        told = model(input_ids=ids, attention_mask=mask, **positions("gpt2", mask)).logits[1, -1]
        alone = model(input_ids=rows()[1].unsqueeze(0)).logits[0, -1]
    assert torch.allclose(told, alone)
    assert not torch.allclose(plain, alone)
