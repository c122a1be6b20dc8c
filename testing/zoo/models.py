"""Tiny random models of transformers' auto classes, built from configuration classes only (no downloads)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from testing.zoo.fixes import FIX, set_path
from testing.zoo.make import make_inputs
from testing.zoo.shrink import TokenIds, shrink

TASKS = (
    "CAUSAL_LM",
    "MASKED_LM",
    "IMAGE_CLASSIFICATION",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "AUDIO_CLASSIFICATION",
    "CTC",
    "TIME_SERIES_PREDICTION",
    "IMAGE_TEXT_TO_TEXT",
    "SEQUENCE_CLASSIFICATION",
)


def tiny_config(model_type: str, **extra: Any) -> PreTrainedConfig:
    """The default configuration, shrunk."""
    cls = CONFIG_MAPPING[model_type]
    fix = FIX.get(model_type, {})
    settings = shrink(cls(**fix.get("_ctor", {})), TokenIds())
    for path, value in fix.items():
        if path != "_ctor":
            set_path(settings, path, value)
    return cls(**{**settings, **extra})


def head_name(task: str, model_type: str) -> str:
    """The class that has this head."""
    name = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")[model_type]
    return str(name[0] if isinstance(name, (tuple, list)) else name)


def model_class(task: str, model_type: str) -> Any:
    return getattr(transformers, head_name(task, model_type))


def every_task() -> tuple[str, ...]:
    """The tasks of all of transformers' auto classes with a head; those of `TASKS` first."""
    named = (re.fullmatch(r"MODEL_FOR_(\w+)_MAPPING_NAMES", name) for name in sorted(vars(modeling_auto)))
    return tuple(dict.fromkeys([*TASKS, *(found.group(1) for found in named if found)]))


def iter_architectures(tasks: Sequence[str] = TASKS) -> Iterator[tuple[str, str]]:
    """(task, model type) of every head; the first task of a type comes before its others."""
    for task in tasks:
        for model_type in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES"):
            yield task, model_type


def build_model(task: str, model_type: str, attn: str = "eager") -> nn.Module:
    """A tiny model in eval mode, random but not degenerate."""
    torch.manual_seed(0)
    cls = model_class(task, model_type)
    config = _config_for(cls, task, model_type)
    try:
        model = cls._from_config(config, attn_implementation=attn)
    except (ValueError, TypeError) as error:
        if "attn" not in str(error) and "attention" not in str(error):
            raise
        model = cls._from_config(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # zeros and ones hide mistakes
        for p in model.parameters():
            if p.is_floating_point() and p.numel() > 1 and float(p.std()) == 0.0:
                p.add_(torch.randn(p.shape, generator=generator).to(p.dtype) * 0.02)
    return model.eval()


def _config_for(cls: Any, task: str, model_type: str) -> PreTrainedConfig:
    extra = (
        {"num_labels": 3} if task in ("SEQUENCE_CLASSIFICATION", "IMAGE_CLASSIFICATION", "AUDIO_CLASSIFICATION") else {}
    )
    try:
        config = tiny_config(model_type, **extra)
    except Exception:
        if not extra:
            raise
        config = tiny_config(model_type)
    wanted = getattr(cls, "config_class", None)
    if wanted is not None and not isinstance(config, wanted):  # the text part of a composite configuration
        config = next((v for v in config.__dict__.values() if isinstance(v, wanted)), config)
    with contextlib.suppress(Exception):  # configurations that refuse what they do not know
        if task == "SEQUENCE_CLASSIFICATION" and getattr(config, "pad_token_id", None) is None:
            config.pad_token_id = 0
        if task == "CAUSAL_LM" and hasattr(config, "is_decoder") and not getattr(config, "is_encoder_decoder", True):
            config.is_decoder = True
        if getattr(config, "is_encoder_decoder", False) and getattr(config, "decoder_start_token_id", None) is None:
            config.decoder_start_token_id = 0
        decoder = getattr(config, "decoder", None)
        if getattr(config, "is_encoder_decoder", False) and isinstance(
            decoder, PreTrainedConfig
        ):  # two models joined: the second must read the first
            decoder.is_decoder = decoder.add_cross_attention = True
    return config


def build(task: str, model_type: str, attn: str = "eager") -> tuple[nn.Module, dict[str, Any]]:
    """A tiny model and keyword arguments that its forward accepts."""
    model = build_model(task, model_type, attn)
    return model, make_inputs(task, model)[0]
