"""Next tokens explained: texts that a model writes itself, scores of their tokens, and what the scores are worth.

Explained is the logit of the predicted token, and for some rankings its contrast to the second most likely. All
rankings of a text are measured together, so that each perturbed text goes to the model once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lrp_fx
from benchmarks.faithful.prefixes import answers
from benchmarks.faithful.rankings import REFERENCE, by_rules, compared, leaning, over_depths, spread
from lrp_fx.evaluation import Case, Example, Ranking, registered
from lrp_fx.evaluation.metrics.areas import WAYS, area, kept
from lrp_fx.evaluation.rankings import Control, Given, later_first, random_order

#: Tens, so that what is put in by descending score is what is left when the least are taken out first: asked once.
#: The shorter the more often, since a text costs what it is long.
LENGTHS = {30: 10, 40: 5, 50: 2, 60: 1, 70: 1, 80: 1}
INTEGRATED, STEPS = "integrated gradients", 20
CONTRAST = ", contrast"
OF_CONTRAST = ("ABPC", "AUAC generation")
ASKED_OF_CONTRAST = ("generation", "least first", "most first")
METRICS = (
    "AUAC generation",
    "AU-MSE generation",
    "AU-KL generation",
    "AUAC pruning",
    "AU-MSE pruning",
    "AU-KL pruning",
    "ABPC",
    "MoRF",
    "LeRF",
)


@dataclass(frozen=True)
class Text:
    """Ids (T,), the token that the model says next, and the one that it would say second."""

    number: int
    ids: Tensor
    target: int
    second: int


@dataclass(frozen=True)
class Speaker:
    """A causal model that explains and, with the same weights and fused attention, answers; the id that stands for a
    token which is taken away, and ids (n,) that texts begin with.
    """

    model: Any
    answering: Any
    fill: int
    openings: tuple[tuple[int, ...], ...]


def rankings() -> list[Ranking]:
    """What is explained by rules."""
    left_out = {f"{p}, {a}" for p in ("pa-lrp-gamma", "pa-lrp-path-gamma") for a in ("content only", "absolute")}
    left_out |= {"pa-lrp-gamma, positive", "pa-lrp-path, absolute"}
    both = [*compared((None, "signed", "positive", "absolute")), *over_depths()]
    return [r for r in both if r.label not in left_out]


def contrasted() -> set[str]:
    """Labels of those that are asked for the contrast, too, beside the controls."""
    presets = (REFERENCE, "cp-lrp", "attnlrp-gamma", "pa-lrp-path, content only")
    return {*presets, *(f"{p}, signed" for p in ("pa-lrp", "pa-lrp-gamma", "pa-lrp-path", "pa-lrp-path-gamma"))}


def controls() -> list[Control]:
    return [random_order(), later_first(), leaning("pa-lrp-path, signed"), spread("pa-lrp-path", "positive")]


def labels() -> list[str]:
    """All that is compared, in the order of the tables."""
    first, *others = [r.label for r in rankings()]
    return [first, INTEGRATED, *others, *(c.label for c in controls())]


def text(speaker: Speaker, number: int, seed: int) -> Text:
    """A text, which does not depend on how many there are."""
    torch.manual_seed(seed + number)
    ids = torch.tensor([speaker.openings[number % len(speaker.openings)]])
    length = list(LENGTHS)[int(torch.tensor([float(n) for n in LENGTHS.values()]).multinomial(1))]
    new = length - ids.shape[1]
    told = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": True, "temperature": 0.8, "pad_token_id": 0}
    model = speaker.answering
    ids = model.generate(ids, attention_mask=torch.ones_like(ids), **told)[0]
    target, second = model(ids[None], logits_to_keep=1).logits[0, -1].topk(2).indices.tolist()
    return Text(number, ids, target, second)


# ------------------------------------------------------------------------------------------------ explained
Scores = list[dict[str, Tensor]]


class Explained:
    """Scores by rules; explainers are kept from one group of texts to the next."""

    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker
        self.explainers = {
            name: lrp_fx.convert(speaker.model, rules=chosen[0].rules, dynamic=True)
            for name, chosen in by_rules(rankings()).items()
        }

    def __call__(self, given: list[Text], seed: int) -> tuple[Scores, Scores]:
        """For each text the scores by the label of the ranking: of the predicted token, and of its contrast."""
        whole: Scores = [{} for _ in given]
        contrast: Scores = [{} for _ in given]
        for places in _alike(given):
            self._add(given, places, whole, contrast)
        for one, scores, of_two in zip(given, whole, contrast, strict=True):
            scores[INTEGRATED] = integrated(self.speaker, one)
            _add_controls(one, scores, controls(), seed)
            _add_controls(one, of_two, controls()[:-1], seed)  # what is spread is not asked for the contrast
        return whole, contrast

    def _add(self, given: list[Text], places: list[int], whole: Scores, contrast: Scores) -> None:
        """Texts of one length in one batch, both targets from one forward pass."""
        ids = torch.stack([given[i].ids for i in places])
        first, second = ([getattr(given[i], name) for i in places] for name in ("target", "second"))
        targets = [lrp_fx.targets.Class(first), lrp_fx.targets.Contrast(first, second)]
        for name, chosen in by_rules(rankings()).items():
            asked = any(r.label in contrasted() for r in chosen)
            found = self.explainers[name](input_ids=ids, targets=targets[: 1 + asked])
            for ranking in chosen:
                for relevance, into in zip(found, (whole, contrast), strict=False):
                    if into is whole or ranking.label in contrasted():
                        scores = relevance.per_token(**ranking.options)
                        assert isinstance(scores, Tensor)
                        for row, i in zip(scores, places, strict=True):
                            into[i][ranking.label] = row


def _alike(given: list[Text]) -> Iterator[list[int]]:
    """Places of texts of equal length."""
    for length in sorted({len(one.ids) for one in given}):
        yield [i for i, one in enumerate(given) if len(one.ids) == length]


def _add_controls(one: Text, found: dict[str, Tensor], added: list[Control], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed + one.number)
    for control in added:
        known = Given(len(one.ids), torch.arange(len(one.ids)), dict(found), generator)
        found[control.label] = control.scores(known)


def integrated(speaker: Speaker, one: Text) -> Tensor:
    """(T,): gradients of the predicted token's logit, integrated from a text of fill tokens, by captum."""
    from captum.attr import LayerIntegratedGradients

    def logit(ids: Tensor) -> Tensor:
        found: Tensor = speaker.answering(ids, logits_to_keep=1, use_cache=False).logits[:, -1, one.target]
        return found

    ids = one.ids[None]
    method = LayerIntegratedGradients(logit, speaker.answering.get_input_embeddings())
    with torch.enable_grad():
        parts: Tensor = method.attribute(ids, baselines=torch.full_like(ids, speaker.fill), n_steps=STEPS)
    return parts.detach().sum(-1)[0]


# ------------------------------------------------------------------------------------------------ measured
def measured(
    one: Text, fill: int, predict: Callable[[Tensor], Tensor], whole: dict[str, Tensor], contrast: dict[str, Tensor]
) -> dict[str, dict[str, float]]:
    """label -> metric -> value; squared errors are means over the vocabulary. ``predict``: ids (M, T) -> (M, V)."""
    units = torch.arange(len(one.ids))
    example = Example(one.ids, units, one.target, predict, fill)
    cases = {label: Case(example, scores) for label, scores in whole.items()}
    masks = [mask for scores in whole.values() for mask in _walks(scores, tuple(WAYS))]
    masks += [mask for scores in contrast.values() for mask in _walks(scores, ASKED_OF_CONTRAST)]
    example.logits(torch.cat(masks))  # all of them in one batch
    size = len(example.original())
    found = {label: {name: registered[name](case) for name in METRICS} for label, case in cases.items()}
    for row in found.values():
        row.update({name: value / size for name, value in row.items() if name.startswith("AU-MSE")})
    for label, scores in contrast.items():
        found[label].update(_of_contrast(example, one, scores))
    return found


def _walks(scores: Tensor, ways: tuple[str, ...]) -> list[Tensor]:
    return [kept(scores, WAYS[way]) for way in ways]


def _of_contrast(example: Example, one: Text, scores: Tensor) -> dict[str, float]:
    """The metrics `OF_CONTRAST` of the logit minus that of the second: of the two of them alone."""
    logits = example.logits(torch.cat(_walks(scores, ASKED_OF_CONTRAST)))
    generation, least, most = (logits[:, one.target] - logits[:, one.second]).reshape(len(ASKED_OF_CONTRAST), -1)
    values = (area(least) - area(most), area(generation.sigmoid()))
    return {name + CONTRAST: value for name, value in zip(OF_CONTRAST, values, strict=True)}


def asked(speaker: Speaker) -> Callable[[Tensor], Tensor]:
    """Ids (M, T) -> logits (M, V) of what comes next."""
    return lambda ids: answers(speaker.answering, ids)
