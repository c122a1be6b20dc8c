"""Evaluate: how well rankings of an input's units fit what the model does with them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from lrp_fx.errors import InputError, LrpError
from lrp_fx.evaluation.fills import AUTO
from lrp_fx.evaluation.inputs import Given, examples_of
from lrp_fx.evaluation.metric import Case, Metric, chosen
from lrp_fx.evaluation.metrics import discover
from lrp_fx.evaluation.questions import SPECIAL, Choices, Question, one_each, question
from lrp_fx.evaluation.rankings import Control, centre_first, later_first, random_order
from lrp_fx.evaluation.rankings import Given as Known
from lrp_fx.evaluation.result import Evaluation
from lrp_fx.evaluation.scorers import Scorer, scorers_of
from lrp_fx.evaluation.units import Patches
from lrp_fx.runtime.explainer import Explainer
from lrp_fx.runtime.progress import is_watched

discover()

METRICS = ("ABPC", "AUAC generation", "comprehensiveness", "sufficiency")
Item = TypeVar("Item")


def evaluate(
    explainer: Explainer,
    data: Any,
    metrics: str | Metric | Sequence[str | Metric] = METRICS,
    *,
    fill: Any = AUTO,
    against: Any = (),
    targets: Any = None,
    position: str | None = "signed",
    of: str | None = None,
    keep: Any = SPECIAL,
    patch: int | None = None,
    causal: Sequence[Any] | None = None,
    seed: int = 0,
    rows: int = 64,
) -> Evaluation:
    """Measure how faithful explanations are: take tokens or patches away, or put them in, in the order of their scores,
    and watch the model's answer. Beside the explainer stand those it is compared with, a random order, and the place
    alone; each is compared with the explainer by a paired test over the examples.

    explainer: what `lrp_fx.convert` gives.
    data: texts, images, or whatever else the explainer's tokenizer or processor reads; a dictionary of tensors for a
        batch, a list of such dictionaries, or a tensor.
    metrics: names (``lrp_fx.evaluation.metric.registered`` lists them) or `Metric`s.
    fill: what stands in the place of a token: ``"mask"``, ``"unk"``, ``"pad"``, ``"drop"`` (nothing: the text becomes
        shorter), a token, an id; ``"auto"``: the first of mask, unk, pad that the tokenizer has. In images ``"mean"``
        (auto), ``"zero"``, ``"blur"``, or a number. The result says it.
    against: what to compare with, a list, or a dictionary by label: presets (the same model under other rules),
        `Ruleset`s, `Ranking`s, explainers, functions ``inputs -> scores`` or ``(inputs, target) -> scores``, results,
        and scores given, one entry for each example.
    targets: one for each example, or one for all: a class, a label or token, a `Class` or a `Contrast`. By default what
        the model predicts. Metrics of probabilities read, of a contrast, that of the one of the two.
    position: how position is aggregated (`Relevance.per_token`); None: content alone.
    of: name of the input whose units are taken away, where several are content.
    keep: ids that are never taken away; by default the special tokens.
    patch: side of the patches of images in pixels; by default as the model has them.
    causal: for each example which units are known to cause the output, for metrics that ask for it.
    seed: of the random order.
    rows: perturbed inputs that the model is given at once.

    Raises `InputError` and `TargetError`, before anything is measured, for what cannot be asked.
    """
    if not isinstance(explainer, Explainer):
        raise InputError(
            f"evaluate() takes an explainer, lrp_fx.convert(model), and asks its model; got {type(explainer).__name__}"
        )
    measures = chosen([metrics] if isinstance(metrics, (str, Metric)) else metrics)
    _check_causes(measures, causal)
    given = examples_of(explainer, data, of)
    scorers = scorers_of(explainer, against, {"position": position}, len(given))
    questions = _questions(explainer, given, targets, Choices(fill, keep, patch, rows), causal)
    _check_classes(measures, questions[0])
    scores = {label: _scored(label, scorer, questions, explainer.progress) for label, scorer in scorers.items()}
    controls = _controls(questions[0])
    scores |= _of_controls(controls, questions, seed)
    values = _measured(measures, questions, scores, explainer.progress)
    return Evaluation(
        values,
        tuple(measures),
        next(iter(scores)),
        tuple(c.label for c in controls),
        tuple(q.title for q in questions),
        questions[0].fill.about,
        questions[0].units.about,
    )


def _check_causes(measures: list[Metric], causal: Sequence[Any] | None) -> None:
    needing = [m.name for m in measures if "causal" in m.needs]
    if needing and causal is None:
        raise InputError(f"{needing[0]} asks which units are known to be causes: give causal=, one entry per example")


def _check_classes(measures: list[Metric], first: Question) -> None:
    needing = [m.name for m in measures if m.classes]
    if needing and len(first.example.original()) < 2:
        others = [m.name for m in measures if not m.classes] or ["ABPC", "MoRF", "LeRF", "leave-one-out"]
        raise InputError(
            f"{needing[0]} reads probabilities, and this model gives one number\n    next: give metrics= of "
            f"{', '.join(others)}"
        )


def _questions(
    explainer: Explainer, given: list[Given], targets: Any, choices: Choices, causal: Sequence[Any] | None
) -> list[Question]:
    wanted = one_each(targets, len(given), "targets")
    marked = one_each(list(causal) if causal is not None else None, len(given), "causal")
    grid = _grid(explainer, given[0]) if choices.patch is None else None
    found = []
    for number, one in enumerate(given):
        try:
            found.append(question(explainer, one, wanted[number], choices, marked[number], grid))
        except LrpError as error:
            raise type(error)(f"example {number}: {error}") from error
    return found


def _grid(explainer: Explainer, given: Given) -> tuple[int, int] | None:
    """Rows and columns of the patches that the model makes of an image, as its position relevance has them, else as its
    configuration says.
    """
    value = given.inputs[given.name]
    if value.dim() != 4 or not value.is_floating_point():
        return None
    try:
        rows, columns = explainer(**given.inputs).patches(given.name).shape[-2:]
    except InputError:
        side = getattr(getattr(explainer.model, "config", None), "patch_size", None)
        return (value.shape[-2] // side, value.shape[-1] // side) if isinstance(side, int) else None
    return rows, columns


def _scored(label: str, scorer: Scorer, questions: list[Question], shown: bool | None) -> list[Tensor]:
    return [scorer(number, one) for number, one in enumerate(_told(questions, f"scores of {label}", shown))]


def _controls(first: Question) -> list[Control]:
    if isinstance(first.units, Patches):
        return [random_order(), centre_first(*first.units.grid)]
    return [random_order(), later_first()]


def _of_controls(controls: list[Control], questions: list[Question], seed: int) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    known = [Known(q.units.count, q.example.free, {}, generator) for q in questions]
    return {c.label: [c.scores(k) for k in known] for c in controls}


def _measured(
    measures: list[Metric], questions: list[Question], scores: dict[str, list[Tensor]], shown: bool | None
) -> dict[str, dict[str, Tensor]]:
    """label -> metric -> values (examples,)."""
    cells: dict[str, dict[str, list[float]]] = {label: {m.name: [] for m in measures} for label in scores}
    for number, one in enumerate(_told(questions, "perturb", shown)):
        for label, ranked in scores.items():
            case = Case(one.example, ranked[number])
            for measure in measures:
                cells[label][measure.name].append(measure(case))
        one.example.forget()
    return {
        label: {name: torch.tensor(row, dtype=torch.float64) for name, row in rows.items()}
        for label, rows in cells.items()
    }


def _told(items: list[Item], what: str, shown: bool | None) -> Iterator[Item]:
    """The items, with a line on standard error that says how far it is, where somebody looks at it."""
    if not (is_watched(sys.stderr) if shown is None else shown):
        yield from items
        return
    for number, item in enumerate(items):
        sys.stderr.write(f"\rlrp_fx: {what}, {number + 1} of {len(items)}   ")
        sys.stderr.flush()
        yield item
    sys.stderr.write("\r" + " " * 70 + "\r")
