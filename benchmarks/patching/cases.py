"""What is patched: trained models of the repository and one that a package ships, and pairs of inputs of one length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.page import ROOT
from testing.scoring import load_model

TRAINED = ROOT / "examples" / "models"
IMAGES, LANGUAGE = "vit_mnist", "smollm2"
#: Those of the page; the others are measured by name.
USUAL = ("task_count", "task_induction", "synth_learned", "synth_rope", LANGUAGE)
MODELS = (*USUAL, "task_neighbour", "synth_t5", IMAGES)
#: Sentences that differ in one word, by which the model goes on differently.
COUNTRIES = ("France Italy", "Spain Germany", "Japan China", "England Russia", "Greece Egypt")
CAPITAL = "The capital of {} is the city of"
PAIRS = (
    *((CAPITAL.format(pair.split()[0]), CAPITAL.format(pair.split()[1])) for pair in COUNTRIES),
    ("The keys to the old wooden cabinet", "The key to the old wooden cabinet"),
    ("The dogs near the small brown house", "The dog near the small brown house"),
    ("The books on the long wooden table", "The book on the long wooden table"),
    ("The boys in the big yellow car", "The boy in the big yellow car"),
    ("The opposite of hot is the word", "The opposite of big is the word"),
)


@dataclass(frozen=True)
class Case:
    """Examples of one length, and what the values of others are taken from.

    ``inputs``: what the model is called with; ``others``: the same for the partner of each example. ``answer``,
    ``foil`` (B,): the class that the model predicts, and the one that it predicts for the partner (where that is the
    same, its second).
    """

    model: Any
    inputs: dict[str, Any]
    others: dict[str, Any]
    answer: Tensor = field(repr=False)
    foil: Tensor = field(repr=False)

    def scores(self, output: Any) -> Tensor:
        """(2, B): the contrast of answer and foil, and the logit of the answer."""
        logits = output.logits
        logits = logits[:, -1] if logits.dim() == 3 else logits
        rows = torch.arange(len(logits))
        answer = logits[rows, self.answer]
        return torch.stack([answer - logits[rows, self.foil], answer])


def cases(name: str, count: int) -> Iterator[Case]:
    """The examples of a model, those of one length together."""
    if name == LANGUAGE:
        yield from _language(count)
    elif name == IMAGES:
        with np.load(TRAINED / name / "eval.npz") as data:
            pixels = torch.from_numpy(data["images"][:count]).float().reshape(-1, 1, 28, 28) / 127.5 - 1
        yield _shuffled(load_model(TRAINED / name), "pixel_values", pixels)
    else:
        with np.load(TRAINED / name / "eval.npz", allow_pickle=True) as data:
            ids, lengths = torch.tensor(data["input_ids"]).long(), torch.tensor(data["attention_mask"]).sum(1)
        length = int(torch.bincount(lengths).argmax())
        yield _shuffled(load_model(TRAINED / name), "input_ids", ids[lengths == length][:count, :length])


def _shuffled(model: Any, name: str, given: Tensor) -> Case:
    """Each with the next that has another answer."""
    with torch.no_grad():
        answers = model(**{name: given}).logits.argmax(-1)
    partners = [_next(answers, i) for i in range(len(given))]
    return _case(model.requires_grad_(False), {name: given}, {name: given[partners]})


def _next(answers: Tensor, i: int) -> int:
    behind = [j % len(answers) for j in range(i + 1, i + len(answers))]
    return next((j for j in behind if answers[j] != answers[i]), i)


def _case(model: Any, inputs: dict[str, Any], others: dict[str, Any]) -> Case:
    with torch.no_grad():
        here, there = (model(**i).logits for i in (inputs, others))
    here, there = (t[:, -1] if t.dim() == 3 else t for t in (here, there))
    first, second = here.topk(2).indices.unbind(-1)
    foil = there.argmax(-1)
    return Case(model, inputs, others, first, torch.where(foil == first, second, foil))


def _language(count: int) -> Iterator[Case]:
    from benchmarks.real import load

    model, tokenizer = load(LANGUAGE)
    by_length: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for texts in PAIRS[:count]:
        here, there = (tokenizer(text, return_tensors="pt").input_ids[0] for text in texts)
        if len(here) == len(there):
            by_length.setdefault(len(here), []).append((here, there))
    pairs = max(by_length.values(), key=len)  # of one length
    ids, others = (torch.stack(side) for side in zip(*pairs, strict=True))
    yield _case(model, {"input_ids": ids, "logits_to_keep": 1}, {"input_ids": others, "logits_to_keep": 1})
