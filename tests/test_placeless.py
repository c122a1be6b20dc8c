"""Where places say nothing: what shuffling does, and what position still gets."""

from __future__ import annotations

from pathlib import Path

import torch

import lrp_fx
from benchmarks.placeless import Moved, moved, share, shuffled
from testing.scoring import load_model, load_sequences

MAJORITY = Path(__file__).parents[1] / "examples" / "models" / "task_majority"


def test_tokens_are_shuffled_between_the_first_and_the_last() -> None:
    sequences = load_sequences(MAJORITY, 20)
    other = shuffled(sequences, torch.Generator().manual_seed(0))
    assert not torch.equal(other, sequences.ids)
    for new, old, mask in zip(other, sequences.ids, sequences.mask, strict=True):
        last = int(mask.sum()) - 1
        assert torch.equal(new.sort().values, old.sort().values)
        assert torch.equal(new[[0, last]], old[[0, last]])
        assert torch.equal(new[last:], old[last:])


def test_the_majority_does_not_use_position_and_its_rotations_get_a_share() -> None:
    model, sequences = load_model(MAJORITY), load_sequences(MAJORITY, 20)
    nowhere = torch.zeros_like(sequences.ids)
    assert moved(model, sequences, sequences.ids) == Moved(0.0, 0.0)
    other = shuffled(sequences, torch.Generator().manual_seed(0))
    for found in (moved(model, sequences, other), moved(model, sequences, sequences.ids, nowhere)):
        assert 0 < found.logit < 0.01
        assert found.answers == 0
    flipped = torch.where(sequences.ids == 4, 5, torch.where(sequences.ids == 5, 4, sequences.ids))  # A for B
    assert moved(model, sequences, flipped).answers == 1
    explainer = lrp_fx.convert(model, rules="pa-lrp-path")
    assert 0.03 < share(explainer, sequences, nowhere) < 0.09
