"""Questions: for each example what is explained of it, and what the metrics may do to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrp_fx.errors import InputError, TargetError
from lrp_fx.evaluation.answers import Answers
from lrp_fx.evaluation.fills import Fill, fill_of_numbers, fill_of_tokens
from lrp_fx.evaluation.inputs import Given, reader_of
from lrp_fx.evaluation.metric import Example
from lrp_fx.evaluation.units import Places, Units, as_scores, patches_of
from lrp_fx.preprocess.words import named_goals
from lrp_fx.report.view import token_names
from lrp_fx.runtime.explainer import Explainer
from lrp_fx.targets import Class, Contrast, Predicted, as_target
from lrp_fx.targets.classes import rows_at
from lrp_fx.targets.indices import listed

SPECIAL = "special"
_ENDS = ("bos", "eos", "sep", "cls", "pad", "mask")


@dataclass(frozen=True)
class Choices:
    """How examples are perturbed: see `lrp_fx.evaluate`."""

    fill: Any
    keep: Any
    patch: int | None
    rows: int


@dataclass(frozen=True)
class Question:
    """``inputs``, ``kept``: as in `Given`. ``goal``: what is explained. ``index``: the class whose logit metrics read.
    ``title``: the target in words.
    """

    given: Given
    units: Units
    goal: Any
    example: Example
    title: str
    fill: Fill

    def scores(self, value: Any) -> Tensor:
        """(T,) scores of the units; those given for padding are left out."""
        found = as_scores(value)
        kept = self.given.kept
        if isinstance(self.units, Places) and found.shape == kept.shape and not bool(kept.all()):
            found = found[kept]
        return self.units.pool(found)


def question(
    explainer: Explainer, given: Given, target: Any, choices: Choices, causal: Any, grid: tuple[int, int] | None
) -> Question:
    """The question about one example; raises `InputError` and `TargetError` for what cannot be asked of it.

    target: None for the prediction, a class, a label or token, a `Class` or a `Contrast`.
    grid: rows and columns of the patches that the model sees, where these are known.
    """
    value = given.inputs[given.name]
    units = units_of(value, given.name, choices.patch, grid)
    free = free_places(explainer, value, units, choices.keep)
    fill = fill_for(explainer, value, units, choices.fill)
    if fill.drops and len(free) == units.count:
        raise InputError(
            "fill='drop' would leave nothing: no token of this example stays\n    next: choose another fill, or keep= "
            "the ids that are to stay"
        )
    answers = Answers(explainer.model, given.inputs, given.name, units, explainer.output, fill.drops, choices.rows)
    answers, goal, index, title = _aimed(answers, explainer, target)
    if fill.drops and answers.position >= 0:
        raise TargetError(
            f"position={answers.position} moves where tokens are dropped: count from the end, or choose a fill"
        )
    marked = None if causal is None else _marked(causal, given, units)
    example = Example(units.read(value)[0].cpu(), free, index, answers, fill.value, marked)
    return Question(given, units, goal, example, title, fill)


def _aimed(answers: Answers, explainer: Explainer, target: Any) -> tuple[Answers, Any, int, str]:
    """Answers in the row and of the classes that a target names; the target as a number, the class that metrics read,
    and both in words.
    """
    reader = reader_of(explainer)
    (goal,) = named_goals([as_target(target)], reader)
    if not isinstance(goal, (Predicted, Class, Contrast)):
        raise TargetError(f"{goal!r} cannot be evaluated: give a class, a label, a token, a Class or a Contrast")
    with torch.no_grad():
        output = answers.outputs(answers.inputs)
    numbers = {n: int(v) for n, v in goal.arguments(tuple(output.shape), output.device).items()}
    answers = replace(answers, position=numbers["position"])
    size = output.shape[-1] if output.dim() > 1 else 1

    def words(number: int) -> str:
        known = reader.vocabulary([], [number], size).outputs
        return f"{token_names([number], known)[0]} ({number})" if number in known else str(number)

    if isinstance(goal, Contrast):
        a, b = numbers["a"], numbers["b"]
        return replace(answers, pair=(a, b)), goal, 0, f"{words(a)} rather than {words(b)}"
    if output.dim() == 1:
        return answers, None, 0, "the output"
    best = int(rows_at(output, None, torch.full((1,), answers.position, device=output.device)).argmax())
    index = numbers.get("index", best)
    return answers, Class(index, answers.position), index, words(index)


def units_of(value: Tensor, name: str, patch: int | None, grid: tuple[int, int] | None) -> Units:
    """What a perturbation takes away of an input (1, ...)."""
    if value.is_floating_point() and value.dim() == 4:
        return patches_of(value, patch, grid)
    if value.dim() not in (2, 3) or (value.dim() == 3 and not value.is_floating_point()):
        raise InputError(f"{name} has shape {tuple(value.shape)}: what its units are is not known")
    return Places(value.shape[1], f"{'places' if value.is_floating_point() else 'tokens'} of {name}")


def free_places(explainer: Explainer, value: Tensor, units: Units, keep: Any) -> Tensor:
    """(N,): the units that may be taken away; raises `InputError` where there are none.

    keep: ``"special"``: tokens that the tokenizer adds (or that the configuration names) stay; ids that stay.
    """
    if value.is_floating_point():
        return torch.arange(units.count)
    ids = _special(explainer) if keep == SPECIAL else {int(i) for i in keep or ()}
    free = torch.tensor([i for i, t in enumerate(value[0].tolist()) if t not in ids], dtype=torch.int64)
    if not len(free):
        raise InputError(f"an example has nothing but special tokens: {value[0].tolist()}")
    return free


def _special(explainer: Explainer) -> set[int]:
    tokenizer = reader_of(explainer).tokenizer
    config = getattr(explainer.model, "config", None)
    source = tokenizer if tokenizer is not None else config
    found = {name: getattr(source, f"{name}_token_id", None) for name in _ENDS}
    ids = {int(i) for v in found.values() if v is not None for i in (v if isinstance(v, (list, tuple)) else [v])}
    unknown = getattr(tokenizer, "unk_token_id", None)
    return ids | {int(i) for i in getattr(tokenizer, "all_special_ids", ()) if i != unknown}


def fill_for(explainer: Explainer, value: Tensor, units: Units, fill: Any) -> Fill:
    """What stands in the place of a unit of an input (1, ...)."""
    if value.is_floating_point():
        return fill_of_numbers(fill, value, units)
    tokenizer = reader_of(explainer).tokenizer
    size = getattr(getattr(explainer.model, "config", None), "vocab_size", None)
    return fill_of_tokens(fill, tokenizer, size if isinstance(size, int) else None)


def _marked(causal: Any, given: Given, units: Units) -> Tensor:
    """(T,) bool: the units that are known to be causes."""
    found = torch.as_tensor(causal).bool().reshape(-1)
    if found.shape == given.kept.shape:
        found = found[given.kept]
    if len(found) != units.count:
        raise InputError(f"causal= has {len(found)} entries for an example of {units.count} units ({units.about})")
    return found


def one_each(values: Any, count: int, name: str) -> Sequence[Any]:
    """A value for each example: of a list, or one for all."""
    values = listed(values)
    several = isinstance(values, (list, tuple)) or (isinstance(values, (Tensor, np.ndarray)) and values.ndim > 0)
    if several and len(values) != count:
        raise InputError(f"{name}= has {len(values)} entries for {count} examples")
    return values if several else [values] * count
