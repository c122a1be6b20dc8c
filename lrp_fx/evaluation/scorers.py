"""Scorers: where the scores of an example come from. An explanation, a function, or numbers that are given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.evaluation.questions import Question
from lrp_fx.evaluation.rankings import Ranking
from lrp_fx.evaluation.units import Patches
from lrp_fx.report.relevance import Relevance
from lrp_fx.rule import Ruleset
from lrp_fx.runtime.convert import convert
from lrp_fx.runtime.explainer import Explainer

#: Number of the example, the question about it -> its scores (T,)
Scorer = Callable[[int, Question], Tensor]


@dataclass(frozen=True)
class Explained:
    """Relevance by an explainer; ``options``: of `lrp_fx.Relevance.per_token`."""

    explainer: Explainer
    options: Mapping[str, Any]

    def __call__(self, number: int, question: Question) -> Tensor:
        relevance = self.explainer(**question.given.inputs, target=question.goal)
        return question.scores(relevance_of(relevance, question, self.options))


def relevance_of(relevance: Relevance, question: Question, options: Mapping[str, Any]) -> Tensor:
    """Relevance of the input that a question is about, one number for each unit or pixel."""
    name = question.given.name
    if question.given.inputs[name].dim() == 2:
        tokens = relevance.per_token(**options)
        return tokens if isinstance(tokens, Tensor) else tokens[name]
    if not isinstance(question.units, Patches):
        return relevance.heatmap(name)
    chosen = {n: v for n, v in options.items() if n in ("position", "credit")}
    try:
        return relevance.heatmap(name, **chosen)
    except InputError:  # no position relevance runs over its patches
        return relevance.heatmap(name)


@dataclass(frozen=True)
class Called:
    """A function ``inputs -> scores`` (or a result), or ``(inputs, target) -> scores`` with the class as a number."""

    function: Callable[..., Any]

    def __call__(self, number: int, question: Question) -> Tensor:
        inputs = dict(question.given.inputs)
        more = (question.example.target,) if _takes_two(self.function) else ()
        found = self.function(inputs, *more)
        return question.scores(relevance_of(found, question, {}) if isinstance(found, Relevance) else found)


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return False
    needed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    return len(needed) > 1


@dataclass(frozen=True)
class Numbers:
    """Scores that are given, one entry for each example; or a result, whose examples are these."""

    values: Sequence[Any] | Relevance
    options: Mapping[str, Any]

    def __call__(self, number: int, question: Question) -> Tensor:
        found = self.values[number]
        return question.scores(relevance_of(found, question, self.options) if isinstance(found, Relevance) else found)


def scorers_of(explainer: Explainer, against: Any, options: Mapping[str, Any], count: int) -> dict[str, Scorer]:
    """Scorers by label, the explainer's own first.

    against: as in `lrp_fx.evaluate`. Raises `InputError` for what gives no scores, and for a label that comes twice.
    """
    found: dict[str, Scorer] = {explainer.ruleset.name: Explained(explainer, options)}
    single = isinstance(against, (str, Ruleset, Ranking, Explainer)) or callable(against)
    entries = against.items() if isinstance(against, Mapping) else [(None, one) for one in _listed(against, single)]
    for number, (label, one) in enumerate(entries):
        named, scorer = _scorer(explainer, one, options, count, number)
        label = named if label is None else str(label)
        if label in found:
            raise InputError(f"two rankings are called {label!r}: give against= a dictionary, label -> scores")
        found[label] = scorer
    return found


def _listed(against: Any, single: bool) -> list[Any]:
    return [against] if single else list(against if against is not None else ())


def _scorer(explainer: Explainer, one: Any, options: Mapping[str, Any], count: int, number: int) -> tuple[str, Scorer]:
    if isinstance(one, (str, Ruleset)):
        other = _with_rules(explainer, one)
        return other.ruleset.name, Explained(other, options)
    if isinstance(one, Ranking):
        return one.label, Explained(_with_rules(explainer, one.rules), {**options, **one.options})
    if isinstance(one, Explainer):
        return one.ruleset.name, Explained(one, options)
    if callable(one):
        return getattr(one, "__name__", type(one).__name__), Called(one)
    if not isinstance(one, (Sequence, Tensor, Relevance)) and not hasattr(one, "__array__"):
        raise InputError(
            f"against= holds a {type(one).__name__}, which gives no scores: there are names of presets, rulesets, "
            "explainers, results, functions of the inputs, and lists of scores, one for each example"
        )
    if len(one) != count:
        raise InputError(f"scores for {len(one)} examples are given, and there are {count}")
    return f"scores {number + 1}", Numbers(one, options)


def _with_rules(explainer: Explainer, rules: str | Ruleset) -> Explainer:
    """The same model under other rules; what was captured is shared."""
    return convert(
        explainer.model, rules=rules, conserve=explainer.conserve, roles=explainer.roles, output=explainer.output
    )
