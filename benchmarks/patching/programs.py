"""Compiled programs: do heads of the program carry what passes heads?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import lrp_fx
from benchmarks.patching.cases import TRAINED
from testing.compiled import Compiled, words

PROGRAMS = ("compiled_reverse", "compiled_sort")
#: How many of the answers have to change where a head of the program is taken away.
DECIDES = 0.05


def shares(name: str, rules: Mapping[str, Any], count: int = 30) -> tuple[list[str], float, dict[str, float]]:
    """The heads without which answers change, the largest value of the others, and by method the part of what passes
    heads (in amount) that is theirs.

    The answer is the last letter's logit. A program has one head in each layer; what it writes is set to zero, at all
    tokens, and the answers at all letters are compared.
    """
    model = Compiled(TRAINED / name)
    ids = words(model, count)
    explainer = lrp_fx.convert(model, rules="attnlrp")
    explainer.trace(ids)
    heads = [p.name for p in explainer.places if p.kind == "heads"]
    plain = model(ids).argmax(-1)
    outputs = explainer.patched(ids, values=[{head: 0.0} for head in heads])
    changed = [float((o.argmax(-1) != plain)[:, 1:].double().mean()) for o in outputs]
    decide = [head for head, part in zip(heads, changed, strict=True) if part > DECIDES]
    found, written = {}, 0.0
    for label, chosen in rules.items():
        at = lrp_fx.convert(model, rules=chosen)(ids, at=heads).at
        written = max((float(a.value.abs().max()) for head, a in at.items() if head not in decide), default=0.0)
        amounts = torch.stack([_amount(at[head].relevance) for head in heads])  # (heads, B)
        kept = amounts[[heads.index(head) for head in decide]].sum(0) / amounts.sum(0).clamp_min(1e-12)
        found[label] = float(kept.mean())
    return decide, written, found


def _amount(relevance: Tensor) -> Tensor:
    return relevance.flatten(1).abs().sum(1)
