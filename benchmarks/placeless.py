"""What becomes of the answers of small tasks, and of position's share, where places say nothing.

A section of the page of `benchmarks.known_answers`. A model that does not use position answers alike when its tokens
are shuffled, and when all stand at one place. Where all stand at one place, no position tells tokens apart: what share
position still gets is none of its doing, but of the rule that shares a product of content and position in halves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import lrp_fx
from benchmarks.page import WRAP
from testing.scoring import Sequences, load_model, load_sequences
from testing.tasks import TASKS

PRESETS = ("pa-lrp", "pa-lrp-path", "pa-lrp-path-gamma")
SHUFFLES = 20
HEADINGS = (
    "model",
    "position is a cause",
    "shuffled: logit moves",
    "shuffled: other answers",
    "one place: logit moves",
    "one place: other answers",
    "preset",
    "position, % of the score",
    "one place: position, %",
)
FIGURES = (*HEADINGS[2:6], *HEADINGS[7:])
_INTRO = f"""\
Tokens between the first and the last are **shuffled** ({SHUFFLES} times), or all stand at **one place** (the first).
**logit moves**: by how much the true label's logit is another, in per cent of it (medians over sequences and shuffles);
**other answers**: in how many per cent of the sequences the model says something else. Behind them position's share of
the score (medians), as the tokens stand and at one place.

Where shuffling moves nothing, the order is no cause. Where one place moves nothing, neither is what encodes it (order
is told by the causal mask, too), and a share that position has there is the rule's: of a query or key and its rotation
each gets half, also where the rotation turns by nothing. Where one place moves much and shuffling nothing, the model
needs its table, but not to tell the order."""
INTRO = "\n\n".join(["## Where places say nothing", *(WRAP.fill(" ".join(p.split())) for p in _INTRO.split("\n\n"))])


@dataclass(frozen=True)
class Moved:
    """``logit``: medians of the change of the true label's logit over it; ``answers``: the share that is another."""

    logit: float
    answers: float

    def cells(self) -> list[str]:
        return [f"{100 * self.logit:.2f}", f"{100 * self.answers:.0f}"]


def shuffled(sequences: Sequences, generator: torch.Generator) -> Tensor:
    """Ids (N, T) with the tokens between the first and the last of each in another order."""
    ids = sequences.ids.clone()
    for row, length in zip(ids, sequences.mask.sum(1).tolist(), strict=True):
        row[1 : length - 1] = row[torch.randperm(length - 2, generator=generator) + 1]
    return ids


def moved(model: nn.Module, sequences: Sequences, ids: Tensor, places: Tensor | None = None) -> Moved:
    """What other ids (M N, T), for N sequences, or other places do to the answers."""
    times = len(ids) // len(sequences.ids)
    labels, mask = sequences.labels.repeat(times), sequences.mask.repeat(times, 1)
    given = {} if places is None else {"position_ids": places}
    with torch.no_grad():
        old = model(input_ids=sequences.ids, attention_mask=sequences.mask).logits.repeat(times, 1)
        new = model(input_ids=ids, attention_mask=mask, **given).logits
    a, b = (x.gather(1, labels.unsqueeze(1)).squeeze(1) for x in (old, new))
    return Moved(float(((b - a) / a).abs().median()), float((old.argmax(1) != new.argmax(1)).float().mean()))


def share(explainer: lrp_fx.Explainer, sequences: Sequences, places: Tensor) -> float:
    """Median of position's share of the score, with tokens at these places."""
    target = lrp_fx.targets.Class(sequences.labels)
    given = {"input_ids": sequences.ids, "attention_mask": sequences.mask, "position_ids": places}
    return float(explainer(**given, target=target).ledger.shares()["position"].median())


def rows(folder: Path, count: int) -> list[list[str]]:
    """The lines of one task's model."""
    model, sequences = load_model(folder), load_sequences(folder, count)
    generator = torch.Generator().manual_seed(0)
    other = torch.cat([shuffled(sequences, generator) for _ in range(SHUFFLES)])
    own = torch.arange(sequences.ids.shape[1]).expand_as(sequences.ids)
    nowhere = torch.zeros_like(own)
    cause = "yes" if TASKS[folder.name.removeprefix("task_")].positional else "no"
    facts = [folder.name, cause, *moved(model, sequences, other).cells()]
    facts += moved(model, sequences, sequences.ids, nowhere).cells()
    found = []
    for preset in PRESETS:
        explainer = lrp_fx.convert(model, rules=preset)
        found.append([*facts, preset, *(f"{100 * share(explainer, sequences, at):.1f}" for at in (own, nowhere))])
    return found
