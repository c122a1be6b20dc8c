"""Explained: which number of the output a result explains, for each example, by index, name, place and probability.

requires  a target, the numbers it was compiled with, and the output it read (None where that was not kept)
ensures   plain tensors, batch first; nothing is read back from a device before it is asked for
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from lrp_fx.report.vocabulary import Vocabulary
from lrp_fx.report.words import text_of
from lrp_fx.targets import Class, Contrast, Custom, Predicted, Span, Target, rows_at

#: What a target is, by its class; anything else is a function of the output.
PREDICTED, CLASS, CONTRAST, SPAN, CUSTOM = "predicted", "class", "contrast", "span", "custom"
KINDS: dict[type, str] = {Predicted: PREDICTED, Class: CLASS, Contrast: CONTRAST, Span: SPAN, Custom: CUSTOM}
SOFTMAX, SIGMOID = "softmax", "sigmoid"
#: How far the sum of a row may be off 1 where the model has made probabilities of it.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ExplainedScore:
    """What is explained of one example.

    ``name``: the target as it is written, ``Class(index=3, position=-1)``. ``kind``: ``predicted``, ``class``,
    ``contrast``, ``span`` or ``custom``. ``indices``: the classes (or tokens) whose logits are read: one, the two sides
    of a contrast, those of a span, none for a function. ``labels``: what they are called, None where nobody said.
    ``positions``: the rows of the output they are read in, none for an output without rows. ``probabilities``: of each
    of them in its row, none where they are not known. ``score``: the explained number, in units of the output (logits).
    """

    name: str
    kind: str
    indices: tuple[int, ...]
    labels: tuple[str | None, ...]
    positions: tuple[int, ...]
    probabilities: tuple[float, ...]
    score: float

    @property
    def index(self) -> int | None:
        """The class or token that is explained; the first of a span; None for a function."""
        return self.indices[0] if self.indices else None

    @property
    def label(self) -> str | None:
        """What it is called."""
        return self.labels[0] if self.labels else None

    @property
    def position(self) -> int | None:
        """The row of the output that is read, counted from 0; the first of a span."""
        return self.positions[0] if self.positions else None

    @property
    def probability(self) -> float | None:
        """Of ``index`` in its row."""
        return self.probabilities[0] if self.probabilities else None

    @property
    def against(self) -> int | None:
        """The other side of a contrast."""
        return self.indices[1] if self.kind == CONTRAST else None

    @property
    def title(self) -> str:
        """A short phrase: ``positive (class 1), p = .97``."""
        return _title(self)

    def __str__(self) -> str:
        return self.title


@dataclass(frozen=True, eq=False, repr=False)
class Explained:
    """What is explained of every example: ``len``, ``[i]`` and iteration give an `ExplainedScore` for each.

    As text it is the target as it was given. ``indices``, ``probabilities`` (B, k), ``positions`` (B, rows): as in
    `ExplainedScore`, None where there are none. ``entropy`` (B,): of the row that is read, in nats (of a span, the sum
    over its rows).
    """

    name: str
    kind: str
    score: Tensor
    indices: Tensor | None = None
    positions: Tensor | None = None
    probabilities: Tensor | None = None
    entropy: Tensor | None = None
    vocabulary: Vocabulary | None = None

    @overload
    def __getitem__(self, number: int) -> ExplainedScore: ...
    @overload
    def __getitem__(self, number: slice) -> list[ExplainedScore]: ...
    def __getitem__(self, number: int | slice) -> ExplainedScore | list[ExplainedScore]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"no example {number}: there are {len(self)}")
        indices = _numbers(self.indices, number, int)
        names: Mapping[int, str] = self.vocabulary.outputs if self.vocabulary is not None else {}
        return ExplainedScore(
            self.name,
            self.kind,
            indices,
            tuple(names.get(i) for i in indices),
            _numbers(self.positions, number, int),
            _numbers(self.probabilities, number, float),
            float(self.score[number]),
        )

    def __len__(self) -> int:
        return self.score.numel()

    def __iter__(self) -> Iterator[ExplainedScore]:
        return (self[n] for n in range(len(self)))

    @property
    def labels(self) -> list[str | None]:
        """What is explained, by example."""
        return [one.label for one in self]

    @property
    def title(self) -> str:
        """Of the only example; of several, the target as it was given."""
        return self[0].title if len(self) == 1 else self.name

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        more = f"; ... {len(self)} examples" if len(self) > 2 else ""
        return f"Explained({self.name}: {'; '.join(one.title for one in self[:2])}{more})"


def link_of(names: Sequence[str], number: int, problem: Any = None) -> str | None:
    """How probabilities are made of an output: of the only one, and of what is called logits or probabilities.

    names: of all outputs. number: of the explained one. problem: a configuration's ``problem_type``, if it has one.
    """
    if problem == "multi_label_classification":
        return SIGMOID
    is_named = any(word in names[number] for word in ("logit", "prob"))
    return SOFTMAX if (len(names) == 1 or is_named) and problem != "regression" else None


def explained(
    target: Target,
    arguments: Mapping[str, Tensor],
    score: Tensor,
    shape: Sequence[int],
    output: Tensor | None,
    mask: Tensor | None,
    link: str | None = SOFTMAX,
) -> Explained:
    """What ``target``, compiled with these numbers, explains of an output of this shape.

    output: what it read, None where it was not kept: the predicted class and all probabilities are unknown then.
    mask: (B, T), which rows count, None for all. link: how the model makes probabilities of a row (``softmax``, or
    ``sigmoid`` where classes do not exclude each other); None where a row is no scores of classes.
    """
    kind = next((k for cls, k in KINDS.items() if isinstance(target, cls)), CUSTOM)
    plain = Explained(repr(target), kind, score)
    if kind == CUSTOM or len(shape) not in (2, 3) or shape[0] != len(score):
        return plain
    positions = _positions(kind, arguments, shape, mask)
    rows = _rows(output, positions) if output is not None and tuple(output.shape) == tuple(shape) else None
    indices = _indices(kind, arguments, rows)
    if rows is None or indices is None or link is None or shape[-1] == 1:
        return Explained(plain.name, kind, score, indices, positions)
    chances = _chances(rows, link)
    found = chances.gather(2, indices.unsqueeze(2) if kind == SPAN else indices.unsqueeze(1)).flatten(1)
    entropy = _entropy(chances, link)
    return Explained(plain.name, kind, score, indices, positions, found, entropy)


def _positions(kind: str, arguments: Mapping[str, Tensor], shape: Sequence[int], mask: Tensor | None) -> Tensor | None:
    """(B, rows): the rows that are read, counted from 0; None for an output without rows."""
    if len(shape) == 2:
        return None
    if kind == SPAN:
        return arguments["start"].unsqueeze(1) + torch.arange(arguments["tokens"].shape[1]).to(arguments["start"])
    steps = torch.arange(shape[1], device=arguments["position"].device)
    numbered = steps.reshape(1, -1, 1).expand(shape[0], -1, 1)
    return rows_at(numbered, mask, arguments["position"])


def _rows(output: Tensor, positions: Tensor | None) -> Tensor:
    """(B, rows, classes): what is read of the output, in full precision."""
    if positions is None:
        found = output.unsqueeze(1)
    else:
        found = output.gather(1, positions.unsqueeze(2).expand(-1, -1, output.shape[2]))
    return found.detach().to(torch.promote_types(found.dtype, torch.float32))


def _indices(kind: str, arguments: Mapping[str, Tensor], rows: Tensor | None) -> Tensor | None:
    """(B, k): the classes that are read."""
    if kind == PREDICTED:
        return None if rows is None else rows.argmax(-1)
    names = {CLASS: ("index",), CONTRAST: ("a", "b")}.get(kind)
    return arguments["tokens"] if names is None else torch.stack([arguments[n] for n in names], 1)


def _chances(rows: Tensor, link: str) -> Tensor:
    """The probabilities of each row; what is probabilities already stays."""
    if link == SIGMOID:
        return torch.sigmoid(rows)
    made = (rows >= 0).all(-1, keepdim=True) & ((rows.sum(-1, keepdim=True) - 1).abs() < _SUM_TOLERANCE)
    return torch.where(made, rows, torch.softmax(rows, -1))


def _entropy(chances: Tensor, link: str) -> Tensor:
    """(B,), in nats, summed over rows; of classes that do not exclude each other, over these too."""
    parts: Tensor = torch.special.entr(chances)
    return (parts + torch.special.entr(1 - chances) if link == SIGMOID else parts).flatten(1).sum(1)


def _numbers(values: Tensor | None, number: int, kind: Any) -> tuple[Any, ...]:
    return () if values is None else tuple(kind(v) for v in values[number].tolist())


def _title(one: ExplainedScore) -> str:
    named = [_called(i, label) for i, label in zip(one.indices, one.labels, strict=True)]
    if one.kind == CUSTOM:
        return one.name.removeprefix("Custom(").removesuffix(")") if one.name.startswith("Custom(") else one.name
    if not named:
        return f"the output{_at(one)}" if one.kind != PREDICTED else f"predicted{_at(one)}"
    if one.kind == CONTRAST:
        return f"{named[0]} rather than {named[1]}{_at(one)}{_chance(one)}"
    if one.kind == SPAN:
        pairs = zip(one.indices, one.labels, strict=True)
        text = text_of([label if label is not None else f"[{i}]" for i, label in pairs])
        return f"{text.strip()} ({len(named)} token{'s' * (len(named) > 1)}{_at(one)})"
    return f"{'predicted ' if one.kind == PREDICTED else ''}{named[0]}{_at(one)}{_chance(one)}"


def _called(index: int, label: str | None) -> str:
    text = None if label is None else text_of([label]).strip() or repr(label)
    return f"class {index}" if text is None else f"{text} (class {index})"


def _at(one: ExplainedScore) -> str:
    if not one.positions:
        return ""
    first, last = one.positions[0], one.positions[-1]
    return f" at position {first}" if first == last else f" at positions {first} to {last}"


def _chance(one: ExplainedScore) -> str:
    chances = [_digits(p) for p in one.probabilities]
    return f", p = {' and '.join(chances)}" if chances else ""


def _digits(probability: float) -> str:
    """Two digits behind the point; of what these would call 0, the first that is not."""
    if 0.005 <= probability < 0.995:
        return f"{probability:.2f}".removeprefix("0")
    small = f"{probability:.1g}" if probability < 0.005 else f"{probability:.2g}"
    return small.removeprefix("0") if small.startswith("0.") else small
