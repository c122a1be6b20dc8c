"""The vocabulary of metrics: `Example`, `Case`, `Metric`, and which metrics there are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from lrp_fx.errors import InputError

#: A model as metrics see it: a batch of inputs (M, T, ...) -> logits (M, C).
Predict = Callable[[Tensor], Tensor]
Shared = TypeVar("Shared")


@dataclass(frozen=True, eq=False)
class Example:
    """One input, what may be done to it, and what is known about it.

    ``inputs``   (T,) token ids, or (T, ...) patches. Never modified.
    ``free``     (N,) the units that a perturbation may replace, ascending: not special tokens, not padding.
    ``target``   class whose logit and probability are looked at.
    ``predict``  the model, if metrics are to ask it: inputs (M, T, ...) -> logits (M, C).
    ``fill``     what a replaced unit becomes: the id of the mask token, or a value that broadcasts to a patch.
    ``causal``   (T,) bool: the units known to cause the output, where that is known.
    """

    inputs: Tensor
    free: Tensor
    target: int
    predict: Predict | None = None
    fill: float | Tensor = 0
    causal: Tensor | None = None
    _known: dict[bytes, Tensor] = field(default_factory=dict, init=False, repr=False)

    def perturbed(self, keep: Tensor) -> Tensor:
        """(M, T, ...): the input with those free units replaced that ``keep`` (M, N) does not keep."""
        whole = torch.ones(len(keep), len(self.inputs), dtype=torch.bool)
        whole[:, self.free] = keep
        whole = whole.reshape(*whole.shape, *[1] * (self.inputs.dim() - 1))
        return torch.where(whole, self.inputs, torch.as_tensor(self.fill, dtype=self.inputs.dtype))

    def logits(self, keep: Tensor) -> Tensor:
        """(M, C) in float64: the model's answers with the units ``keep`` (M, N) kept.

        What was not asked before goes to the model in one batch, and each perturbation only once. So two rankings that
        agree up to a fraction have exactly the same value there: paired tests do not rank rounding errors.
        """
        if self.predict is None:
            raise InputError("this example has no model to ask: give Example(predict=...)")
        keys = [row.tobytes() for row in keep.numpy()]
        new = {key: row for key, row in zip(keys, keep, strict=True) if key not in self._known}
        if new:
            with torch.no_grad():
                answers = self.predict(self.perturbed(torch.stack(list(new.values()))))
            self._known.update(zip(new, answers.double(), strict=True))
        return torch.stack([self._known[key] for key in keys])

    def forget(self) -> None:
        """Let go of the model's answers: of a large vocabulary they take memory."""
        self._known.clear()

    def original(self) -> Tensor:
        """(C,): the logits of the untouched input."""
        return self.logits(torch.ones(1, len(self.free), dtype=torch.bool))[0]


@dataclass(frozen=True, eq=False)
class Case:
    """An example and the scores (T,) that an explanation gives its units."""

    example: Example
    scores: Tensor
    _shared: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.scores.shape != self.example.inputs.shape[:1]:
            raise InputError(f"scores of shape {tuple(self.scores.shape)} for {len(self.example.inputs)} units")
        if not bool(self.scores.isfinite().all()):
            raise InputError("scores that are not finite cannot be ranked")

    @property
    def units(self) -> Tensor:
        """(N,): the scores of the free units."""
        return self.scores[self.example.free]

    def shared(self, function: Callable[[Case], Shared]) -> Shared:
        """``function(self)``, computed once: what several metrics read from."""
        if function not in self._shared:
            self._shared[function] = function(self)
        result: Shared = self._shared[function]
        return result


@dataclass(frozen=True)
class Metric:
    """One number per explained example.

    ``definition``  the formula, or a sentence.
    ``cites``       keys of docs/bibliography.bib.
    ``better``      ``"higher"`` or ``"lower"``.
    ``function``    `Case` -> number.
    ``needs``       optional fields of `Example` without which it does not apply.
    ``short``       another name to ask for it by; every metric has its own, in any case, with - for what is no letter.
    ``classes``     does it read probabilities, or compare logits of several classes? One number alone has none.
    """

    name: str
    definition: str
    cites: tuple[str, ...]
    better: str
    function: Callable[[Case], float]
    needs: tuple[str, ...] = ()
    short: str = ""
    classes: bool = False

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            raise InputError(f"metric {self.name}: better is 'higher' or 'lower', not {self.better!r}")
        if not self.definition or not self.cites:
            raise InputError(f"metric {self.name} needs a definition and a citation")

    def __call__(self, case: Case) -> float:
        return float(self.function(case))

    @property
    def heading(self) -> str:
        """The name, with an arrow to what is better."""
        return f"{self.name} {'↑' if self.better == 'higher' else '↓'}"

    def applies(self, example: Example) -> bool:
        return all(getattr(example, name) is not None for name in self.needs)


#: Every metric known by name, in the order of registration.
registered: dict[str, Metric] = {}


def register(*metrics: Metric) -> None:
    """Make metrics known by name."""
    for metric in metrics:
        if metric.name in registered:
            raise InputError(f"metric {metric.name} is registered twice")
        registered[metric.name] = metric


def applicable(example: Example) -> list[Metric]:
    """The metrics for which this example has what they need."""
    return [m for m in registered.values() if m.applies(example)]


def chosen(names: Iterable[str | Metric]) -> list[Metric]:
    """The metrics of these names, in their order; raises `InputError` for a name that none has, and for one twice."""
    found = [name if isinstance(name, Metric) else _named(name) for name in names]
    twice = [m.name for i, m in enumerate(found) if m in found[:i]]
    if twice or not found:
        raise InputError(f"metrics=: {twice[0]} is named twice" if twice else "metrics= names no metric")
    return found


def _named(name: str) -> Metric:
    known = {key: m for m in registered.values() for key in (_plain(m.name), m.short) if key}
    if not isinstance(name, str) or _plain(name) not in known:
        near = difflib.get_close_matches(_plain(str(name)), known, 1)
        hint = f"    next: did you mean {near[0]!r}?\n" if near else ""
        raise InputError(f"there is no metric {name!r}\n{hint}    there are: {', '.join(known)}")
    return known[_plain(name)]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
