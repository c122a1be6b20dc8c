"""Truth and estimates: what patching does to a score, and what an explanation says that it would do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import lrp_fx
from benchmarks.patching.cases import Case
from lrp_fx.report.activation import Activation
from lrp_fx.rule import Ruleset, registry

SITES = ("residual", "mlp", "heads")
PATCHES = ("zero", "mean", "other")
SCORES = ("contrast", "answer")
#: How many patches share a run: more take more memory.
AT_ONCE = 48
#: Below this part of the largest effect its sign is not asked for.
SMALL = 0.01
REFERENCE = "attnlrp"
_FROZEN = {"softmax": ("softmax.frozen", "softmax.log_sum", "softmax.log"), "attention": "attention.frozen"}
#: (score, site, patch) -> one number for each site of each example.
Effects = dict[tuple[str, str, str], Tensor]


def relp() -> Ruleset:
    """RelP (Jafari et al. 2025): statistics and attention's weights frozen, identity on activations, half on gates."""
    plain = registry.rulesets["attnlrp"]
    return replace(plain, name="relp", kinds={**plain.kinds, **_FROZEN})


def methods() -> dict[str, str | Ruleset]:
    presets = ("pa-lrp", "attnlrp", "cp-lrp", "pa-lrp-gamma", "pa-lrp-path", "pa-lrp-path-gamma")
    gamma = registry.rulesets["attnlrp-gamma"]
    return {
        "gradient": "gradient",
        **{name: name for name in presets},
        "relp": relp(),
        "relp, gamma": replace(gamma, name="relp, gamma", kinds={**gamma.kinds, **_FROZEN}),
    }


@dataclass(frozen=True)
class Asked:
    """The places of a case, and what becomes of each: ``new[patch][place]``, examples first."""

    case: Case
    places: tuple[str, ...]
    new: Mapping[str, Mapping[str, Tensor]]

    def explained(self, rules: str | Ruleset) -> tuple[lrp_fx.Relevance, ...]:
        """One explanation for each of `SCORES`."""
        case = self.case
        targets = [lrp_fx.targets.Contrast(case.answer, case.foil), lrp_fx.targets.Class(case.answer)]
        explainer = lrp_fx.convert(case.model, rules=rules)
        return tuple(explainer(**case.inputs, targets=targets, at=list(self.places)))


def asked(case: Case, layers: int, sites: Sequence[str] = SITES) -> Asked:
    """At most so many places of a kind, evenly spread, the first and the last among them."""
    explainer = lrp_fx.convert(case.model, rules=REFERENCE)
    explainer.trace(**case.inputs)
    found = [place.name for kind in sites for place in spread([p for p in explainer.places if p.kind == kind], layers)]
    target = lrp_fx.targets.Contrast(case.answer, case.foil)
    here, there = (explainer(**i, target=target, at=found).at for i in (case.inputs, case.others))
    new = {
        "zero": {n: torch.zeros_like(a.value) for n, a in here.items()},
        "mean": {n: _mean(a) for n, a in here.items()},
        "other": {n: a.value for n, a in there.items()},
    }
    return Asked(case, tuple(found), new)


def spread(places: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of them, the first and the last among them."""
    if len(places) <= count:
        return list(places)
    return [places[round(i * (len(places) - 1) / max(count - 1, 1))] for i in range(count)]


def _mean(a: Activation) -> Tensor:
    """Over examples and tokens."""
    return a.value.mean([0, a.axes.index("tokens")], keepdim=True).expand_as(a.value)


def axis(a: Activation) -> int:
    """Which axis is patched one by one: heads, each at all tokens, or tokens."""
    return a.axes.index("heads" if a.kind == "heads" else "tokens")


def estimates(asked_for: Asked, rules: str | Ruleset) -> Effects:
    """``sum((new - value) * coefficient)`` over what is patched."""
    found: dict[tuple[str, str, str], list[Tensor]] = {}
    for score, relevance in zip(SCORES, asked_for.explained(rules), strict=True):
        for patch, new in asked_for.new.items():
            for name, a in relevance.at.items():
                change = ((new[name] - a.value) * a.coefficient).movedim(axis(a), 0).flatten(2).sum(2)
                found.setdefault((score, a.kind, patch), []).append(change.flatten())
    return {key: torch.cat(parts) for key, parts in found.items()}


def truth(asked_for: Asked) -> Effects:
    """What patching each of them alone does to the scores."""
    case, explainer = asked_for.case, lrp_fx.convert(asked_for.case.model, rules=REFERENCE)
    relevance = explainer(**case.inputs, at=list(asked_for.places))
    before = case.scores(relevance.output)
    found: dict[tuple[str, str, str], list[Tensor]] = {}
    for patch, new in asked_for.new.items():
        for name, a in relevance.at.items():
            numbers = range(a.value.shape[axis(a)])
            values = [{name: _only(axis(a), j, new[name])} for j in numbers]
            after = torch.stack([case.scores(o) for o in _outputs(explainer, case, values)])  # (J, 2, B)
            for i, score in enumerate(SCORES):
                found.setdefault((score, a.kind, patch), []).append((after[:, i] - before[i]).flatten())
    return {key: torch.cat(parts) for key, parts in found.items()}


def _only(along: int, number: int, new: Tensor) -> Callable[[Tensor], Tensor]:
    def change(value: Tensor) -> Tensor:
        value.select(along, number).copy_(new.select(along, number))
        return value

    return change


def _outputs(explainer: lrp_fx.Explainer, case: Case, values: list[dict[str, Any]]) -> Iterator[Any]:
    for i in range(0, len(values), AT_ONCE):
        yield from explainer.patched(**case.inputs, values=values[i : i + AT_ONCE])


# ------------------------------------------------------------------------------------------------ how well they agree
def pearson(a: Tensor, b: Tensor) -> float:
    a, b = (t.double() - t.double().mean() for t in (a, b))
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(torch.finfo(torch.float64).tiny))


def spearman(a: Tensor, b: Tensor) -> float:
    return pearson(a.argsort().argsort(), b.argsort().argsort())


def same_sign(estimate: Tensor, effect: Tensor) -> float:
    """Share of the effects that are not small whose sign is right."""
    large = effect.abs() > SMALL * effect.abs().max()
    return float((estimate.sign() == effect.sign())[large].double().mean())


def joined(parts: Sequence[Effects]) -> Effects:
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
