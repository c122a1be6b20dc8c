"""What is compared: explanations by presets and by rules of other work, and controls that explain nothing.

A ranking is worth something only if it beats the controls of its kind: a random order; *later tokens first*, since a
model of language leans on what was said last; another method with as much of that lean; and position that is spread
evenly, which has the same sum and says nothing about which token has it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from lrp_fx.evaluation.rankings import Control, Given, Ranking
from lrp_fx.rule import Ruleset, registry

REFERENCE = "attnlrp"
SPREAD = ", spread evenly"
DEPTH = ", mean over depths"
CONTENT = "content only"
POSITIONED = ("pa-lrp", "pa-lrp-gamma", "pa-lrp-path", "pa-lrp-path-gamma")


def by_rules(rankings: list[Ranking]) -> dict[str, list[Ranking]]:
    """Rankings that read the same explanations, by the name of the rules."""
    found: dict[str, list[Ranking]] = {}
    for ranking in rankings:
        found.setdefault(ranking.rules if isinstance(ranking.rules, str) else ranking.rules.name, []).append(ranking)
    return found


def instead(name: str, of: str, **kinds: str) -> Ruleset:
    """A preset with other rules first at some kinds of site."""
    preset = registry.rulesets[of]
    orders: dict[str, Any] = dict(preset.kinds)
    for kind, rule in kinds.items():
        order = orders[kind]
        orders[kind] = (rule, *((order,) if isinstance(order, str) else order))
    return dataclasses.replace(preset, name=name, kinds=orders, about=f"{of} with {', '.join(kinds.values())}")


def others() -> list[Ruleset]:
    """Softmax rules of other work in the place of AttnLRP's; models have to write attention out."""
    return [
        instead("temperature 2", REFERENCE, softmax="softmax.temperature"),
        instead("rows shared", REFERENCE, softmax="softmax.shared"),
    ]


def _positioned(preset: str, aggregations: tuple[str | None, ...]) -> list[Ranking]:
    return [Ranking(f"{preset}, {a or CONTENT}", preset, {"position": a}) for a in aggregations]


def compared(aggregations: tuple[str | None, ...] = (None, "signed", "positive")) -> list[Ranking]:
    """The explanations, those without a choice of position first."""
    plain = ("gradient", REFERENCE, "cp-lrp", "attnlrp-gamma")
    found = [Ranking(preset, preset, {"position": None}) for preset in plain]
    found += [Ranking(rules.name, rules, {"position": None}) for rules in others()]
    for preset in POSITIONED:
        found += _positioned(preset, aggregations)
    return found


def over_depths() -> list[Ranking]:
    """Relevance averaged over the depths of the residual stream."""
    chosen: list[tuple[str, str | None]] = [(REFERENCE, None), ("pa-lrp", "signed"), ("pa-lrp", "positive")]
    return [Ranking(f"{p}, {a or CONTENT}{DEPTH}", p, {"position": a, "depth": "mean"}) for p, a in chosen]


# ------------------------------------------------------------------------------------------------ controls
def spread(preset: str, aggregation: str) -> Control:
    """The relevance of position divided evenly among the free units: like any that is positive, it moves scores up."""

    def scores(given: Given) -> Tensor:
        content, both = (given.found[f"{preset}, {a}"] for a in (CONTENT, aggregation))
        return content + (both - content)[given.free].mean()

    return Control(f"{preset}, {aggregation}{SPREAD}", scores)


def leaning(like: str) -> Control:
    """`REFERENCE` with a term that grows along the text, so that it leans to later tokens as much as another ranking:
    the same correlation with the place.
    """

    def scores(given: Given) -> Tensor:
        place = _standard(torch.arange(len(given.free), dtype=torch.float64))
        own, other = (_standard(given.found[label][given.free].double()) for label in (REFERENCE, like))
        r, wanted = (float((x * place).mean().clamp(-0.999, 0.999)) for x in (own, other))
        term = wanted * math.sqrt(1 - r * r) / math.sqrt(1 - wanted * wanted) - r
        result = torch.zeros(given.length, dtype=torch.float64)
        result[given.free] = own + term * place
        return result

    return Control(f"{REFERENCE} leaning to later tokens as {like}", scores)


def _standard(x: Tensor) -> Tensor:
    """Mean 0, mean square 1; zeros where all are equal."""
    centred = x - x.mean()
    size = centred.square().mean().sqrt()
    return centred / size if size > 0 else centred
