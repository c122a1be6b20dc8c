"""Candidate inputs by task, most likely first."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from testing.zoo.draws import draw, draw_ids, find_setting, image_shape, text_inputs
from testing.zoo.media import audio_inputs, audio_text_inputs, image_text_inputs
from testing.zoo.shrink import IMG, B, S

Candidate = dict[str, Any]
TEXT_TASKS = ("CAUSAL_LM", "MASKED_LM", "SEQUENCE_CLASSIFICATION", "SEQ_TO_SEQ_CAUSAL_LM")


def candidates(task: str, model: nn.Module) -> Iterator[Candidate]:
    """Keyword arguments that the model's forward may accept."""
    params = inspect.signature(model.forward).parameters
    if task in TEXT_TASKS:
        yield from _texts(task, model, params)
    elif task == "IMAGE_CLASSIFICATION":
        yield from _images(model, params)
    elif task in ("AUDIO_CLASSIFICATION", "CTC"):
        yield from audio_inputs(model, params)
    elif task == "TIME_SERIES_PREDICTION":
        yield from _series(model, params)
    elif task == "IMAGE_TEXT_TO_TEXT":
        yield from image_text_inputs(model, params)
    else:
        yield from _by_parameters(task, model, params)


def _by_parameters(task: str, model: nn.Module, params: Any) -> Iterator[Candidate]:
    """What a head of any other task takes, by the names of what its forward takes."""
    if task == "MULTIPLE_CHOICE":
        yield _choices(text_inputs(params))
    if "past_values" in params:
        yield from _series(model, params)
    if {"pixel_values", "input_ids"} <= set(params):
        yield from _pictures_with_words(model, params)
    if "pixel_values" in params or "inputs" in params:
        yield from _pictures(model, params)
    if "input_values" in params or "input_features" in params:
        yield from audio_inputs(model, params)
    if "input_ids" in params or "decoder_input_ids" in params:
        yield from _texts(task, model, params)


def _choices(text: Candidate) -> Candidate:
    """Two answers to choose from for each example."""
    return {n: torch.stack([v, v.flip(1) if n == "input_ids" else v], 1) for n, v in text.items()}


def _separated(text: Candidate, separator: int) -> Candidate:
    """A question and a text, as models with global attention tell them apart."""
    ids = text["input_ids"].clone()
    ids[:, [4, 5, -1]] = separator
    return {**text, "input_ids": ids}


def _pictures_with_words(model: nn.Module, params: Any) -> Iterator[Candidate]:
    size, ch, _ = image_shape(model.config)
    for text in (text_inputs(params, 1, 16), text_inputs(params, 1, find_setting(model.config, "max_seq_len") or 16)):
        for box in {"bbox": torch.tensor([1, 2, 20, 30]).repeat(1, 16, 1)}, {}:
            yield {**text, **box, "pixel_values": draw(1, ch, size, size)}
    yield from image_text_inputs(model, params)


def _pictures(model: nn.Module, params: Any) -> Iterator[Candidate]:
    size, ch, p = image_shape(model.config)
    frames = find_setting(model.config, "num_frames") or 8
    patches = (size // p) ** 2
    if "task_inputs" in params:
        yield {"pixel_values": draw(B, ch, size, size), "task_inputs": draw_ids(B, 77)}
    if "input_points" in params:
        points = torch.tensor([[[[10.0, 12.0]]]]).repeat(B, 1, 1, 1)
        yield {"pixel_values": draw(B, ch, size, size), "input_points": points}
    if "noise" in params:  # by which patches are hidden; else it is drawn anew in every call
        yield {"pixel_values": draw(B, ch, size, size), "noise": draw(B, patches, seed=1)}
    if "bool_masked_pos" in params:
        for count in (patches, patches // 4, patches * (frames // 2)):
            masked = torch.arange(count).remainder(2).bool().repeat(B, 1)
            yield {"pixel_values": draw(B, ch, size, size), "bool_masked_pos": masked}
    yield from _images(model, params)
    yield {"pixel_values": draw(B, frames, ch, size, size)}
    yield {"pixel_values": draw(B, 2, ch, size, size)}
    yield {"pixel_values": draw(B, 2 * ch, size, size)}
    yield {"pixel_values": draw(B, 4, size, size)}


def _texts(task: str, model: nn.Module, params: Any) -> Iterator[Candidate]:
    cfg = model.config
    if "input_ids" in params or "input_features" not in params:
        kw = text_inputs(params)
        if "input_features" in params and find_setting(cfg, "audio_token_id", "audio_token_index") is not None:
            yield from audio_text_inputs(model, params)
        if "decoder_input_ids" in params and task != "SEQUENCE_CLASSIFICATION":
            yield {**kw, "decoder_input_ids": draw_ids(B, 7, seed=3)}
        yield kw
        if task == "SEQUENCE_CLASSIFICATION" and "decoder_input_ids" in params:
            end = find_setting(cfg, "eos_token_id")
            for number in dict.fromkeys((2, end if isinstance(end, int) else 2)):
                yield {**kw, "input_ids": torch.cat([kw["input_ids"][:, :-1], torch.full((B, 1), number)], 1)}
        if "global_attention_mask" in params:
            yield _separated(kw, find_setting(cfg, "sep_token_id"))
            yield _choices(_separated(kw, find_setting(cfg, "sep_token_id")))
        if isinstance(find_setting(cfg, "num_codebooks"), int):  # musicgen: one row per codebook
            yield {"input_ids": draw_ids(B * find_setting(cfg, "num_codebooks"), S)}
        s = 32
        yield text_inputs(params, B, s)
        yield text_inputs(params, B, 64)
        k = text_inputs(params)
        bb = torch.tensor([1, 2, 20, 30]).repeat(B, S, 1)
        yield {**k, "bbox": bb}
        yield {**k, "bbox": bb, "image": draw(B, 3, IMG, IMG)}
        yield {**k, "bbox": bb, "pixel_values": draw(B, 3, IMG, IMG)}
        yield {
            **k,
            "bbox": torch.rand(B, S, 4),
            "pixel_values": draw(B, 3, IMG, IMG),
            "decoder_input_ids": draw_ids(B, 7, seed=3),
        }
        yield {**k, "token_type_ids": torch.zeros(B, S, 7, dtype=torch.long)}
        yield {**k, "langs": torch.zeros(B, S, dtype=torch.long)}
    if "input_features" in params:
        for kw in audio_inputs(model, params):
            yield {**kw, "decoder_input_ids": draw_ids(B, 7, seed=3)}
    if "input_values" in params:
        yield {"input_values": draw(B, 2000), "decoder_input_ids": draw_ids(B, 7, seed=3)}
    if "pixel_values" in params:
        yield from image_text_inputs(model, params)


def _images(model: nn.Module, params: Any) -> Iterator[Candidate]:
    cfg = model.config
    size, ch, p = image_shape(cfg)
    name = "pixel_values" if "pixel_values" in params else "inputs"
    yield {name: draw(B, ch, size, size)}
    yield {name: draw(B, ch, 64, 64)}
    yield {name: draw(B, ch, 224, 224)}
    n = (size // p) ** 2
    yield {
        name: draw(B, n, ch * p * p),
        "pixel_attention_mask": torch.ones(B, n, dtype=torch.long),
        "spatial_shapes": torch.tensor([[size // p, size // p]] * B),
    }
    yield {"input_ids": draw_ids(B, S), name: draw(B, ch, size, size)}
    if "input_ids" in params and "pixel_values" in params:
        yield from image_text_inputs(model, params)
    yield {name: draw(B, 50176, 243)[:, :64]}


def _series(model: nn.Module, params: Any) -> Iterator[Candidate]:
    length = find_setting(model.config, "context_length") or 64
    if "past_values" in params:
        yield {"past_values": draw(B, length)}
        yield {"past_values": list(draw(B, length))}
        yield {"past_values": [draw(length) for _ in range(B)], "freq": [0] * B}
        yield {"past_values": draw(B, length, 1)}
