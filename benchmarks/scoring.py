"""Known answers: how many of the truly causal tokens an explanation finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Sequences:
    """Held-out sequences of a synthetic task: (N, T) each, ``causal`` marks the tokens that cause the label."""

    ids: Tensor
    mask: Tensor
    labels: Tensor
    causal: Tensor


def load_sequences(folder: Path, count: int | None = None) -> Sequences:
    """Read ``eval.npz`` of a synthetic model."""
    with np.load(folder / "eval.npz", allow_pickle=True) as data:
        ids, mask, labels = (torch.tensor(data[name][:count]).long() for name in ("input_ids", "attention_mask", "labels"))
        return Sequences(ids, mask, labels, torch.tensor(data["gt_full"][:count]))


def load_model(folder: Path, attention: str = "eager") -> nn.Module:
    """The model of a folder, of the class that its configuration names, in float32."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    model: Any = getattr(transformers, config.architectures[0]).from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)
    return model.eval()  # type: ignore[no-any-return]


def hit_and_mass(scores: Tensor, sequences: Sequences) -> tuple[float, float]:
    """Relevance rank accuracy and relevance mass accuracy (Arras et al. 2022), position 0 and padding excluded.

    With k causal tokens: the share of them among the k highest scores; the share of positive relevance on them.
    """
    hits, masses = [], []
    for score, causal, mask in zip(scores, sequences.causal, sequences.mask, strict=True):
        length = int(mask.sum())
        score, causal = score[1:length], causal[1:length]
        hits.append(causal[score.topk(int(causal.sum())).indices].double().mean())
        positive = score.clamp(min=0)
        masses.append(positive[causal].sum() / positive.sum())
    return float(torch.stack(hits).mean()), float(torch.stack(masses).mean())
