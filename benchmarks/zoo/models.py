"""Tiny random models of transformers' auto classes, built from configuration classes only (no downloads)."""

from __future__ import annotations

import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks.zoo.fixes import FIX, set_path
from benchmarks.zoo.make import make_inputs
from benchmarks.zoo.shrink import TokenIds, shrink

TASKS = ("CAUSAL_LM", "MASKED_LM", "IMAGE_CLASSIFICATION", "SEQ_TO_SEQ_CAUSAL_LM", "AUDIO_CLASSIFICATION",
         "CTC", "TIME_SERIES_PREDICTION", "IMAGE_TEXT_TO_TEXT", "SEQUENCE_CLASSIFICATION")

def tiny_config(model_type: str, **extra):
    cls = CONFIG_MAPPING[model_type]
    fix = FIX.get(model_type, {})
    default = cls(**fix.get("_ctor", {}))
    kw = shrink(default, TokenIds())
    for path, value in fix.items():
        if path != "_ctor":
            set_path(kw, path, value)
    kw.update(extra)
    cfg = cls(**kw)
    # keep derived token ids in range even when the class ignores a kwarg
    return cfg


def model_class(task: str, model_type: str):
    name = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")[model_type]
    name = name[0] if isinstance(name, (tuple, list)) else name
    return getattr(transformers, name)


def iter_architectures(tasks=TASKS):
    """Yield (task, model_type); the first occurrence of a model_type comes before its repeats in later tasks."""
    for t in tasks:
        for mt in getattr(modeling_auto, f"MODEL_FOR_{t}_MAPPING_NAMES"):
            yield t, mt


def build_model(task, model_type, attn="eager"):
    torch.manual_seed(0)
    extra = {}
    if task in ("SEQUENCE_CLASSIFICATION", "IMAGE_CLASSIFICATION", "AUDIO_CLASSIFICATION"):
        extra["num_labels"] = 3
    try:
        cfg = tiny_config(model_type, **extra)
    except Exception:
        if not extra:
            raise
        cfg = tiny_config(model_type)
    cls = model_class(task, model_type)
    want = getattr(cls, "config_class", None)
    if want is not None and not isinstance(cfg, want):          # composite config, text-only class
        cfg = next((v for v in cfg.__dict__.values() if isinstance(v, want)), cfg)
    if task == "SEQUENCE_CLASSIFICATION" and getattr(cfg, "pad_token_id", None) is None:
        try:
            cfg.pad_token_id = 0
        except Exception:
            pass
    if task == "CAUSAL_LM" and hasattr(cfg, "is_decoder") and not cfg.is_encoder_decoder if hasattr(cfg, "is_encoder_decoder") else False:
        try:
            cfg.is_decoder = True
        except Exception:
            pass
    try:
        model = cls._from_config(cfg, attn_implementation=attn)
    except (ValueError, TypeError) as e:
        if "attn" not in str(e) and "attention" not in str(e):
            raise
        model = cls._from_config(cfg)
    model.eval()
    with torch.no_grad():                       # random but not degenerate: break zero/one initialisations
        g = torch.Generator().manual_seed(1)
        for n, p in model.named_parameters():
            if p.is_floating_point() and p.numel() and p.std().item() == 0.0 if p.numel() > 1 else False:
                p.add_(torch.randn(p.shape, generator=g).to(p.dtype) * 0.02)
    return model


def build(task, model_type, attn="eager"):
    """-> (model, inputs): a tiny eval-mode model and kwargs that `model(**inputs)` accepts."""
    model = build_model(task, model_type, attn)
    inputs, _, _ = make_inputs(task, model)
    return model, inputs
