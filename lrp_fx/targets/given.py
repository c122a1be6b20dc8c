"""Given: what a caller gives as a target, as a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_fx.errors import TargetError
from lrp_fx.targets.at import At
from lrp_fx.targets.classes import Class, Contrast, Predicted
from lrp_fx.targets.custom import Custom
from lrp_fx.targets.derivative import derived
from lrp_fx.targets.indices import Names
from lrp_fx.targets.span import Span
from lrp_fx.targets.target import Target


def as_target(target: Any) -> Target:
    """None -> the prediction, an integer or a name (or one per example) -> that class, a callable -> itself; a list of
    targets, one for each example, -> one target.
    """
    if target is None:
        return Predicted()
    if isinstance(target, At):
        return target.read_by(as_target)
    if isinstance(target, (bool, bytes)):
        raise TargetError(f"not a target: {target!r}")
    if isinstance(target, type):
        raise TargetError(f"{target.__name__} is a class, not a target\n    next: make one, {target.__name__}(...)")
    if isinstance(target, (list, tuple)) and any(map(_is_more_than_an_index, target)):
        return _for_each(target)
    if isinstance(target, (int, str, list, tuple, Tensor)) and not callable(target):
        return Class(target)
    if hasattr(target, "__array__") or (isinstance(target, Sequence) and not callable(target)):  # arrays, columns
        return Class(target)
    if hasattr(target, "score") and hasattr(target, "signature"):
        return target  # type: ignore[no-any-return]
    if callable(target):
        return Custom(target)
    raise TargetError(
        f"not a target: {target!r}; give a class index, a target from lrp_fx.targets, or a function of the output"
    )


def _is_more_than_an_index(value: Any) -> bool:
    return value is None or hasattr(value, "signature") or (callable(value) and not isinstance(value, Tensor))


def _for_each(targets: Sequence[Any]) -> Target:
    """One target for each example, as one that has the numbers of all."""
    goals = [as_target(target) for target in targets]
    kind = type(goals[0])
    if issubclass(kind, (Class, Contrast, Predicted)) and all(type(goal) is kind for goal in goals):
        return kind.for_each(goals)
    given = ", ".join(dict.fromkeys(type(goal).__name__ for goal in goals))
    raise TargetError(
        f"a list with a target for each example has classes, contrasts or predictions, all of one kind; got {given}\n"
        "    next: targets=[...] explains several targets of every example; or call once for each example"
    )


def asked(target: Target, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Target:
    """A function as it is now, for an output of this kind; any other target as it is."""
    if isinstance(target, At):
        return At(target.place, asked(target.target, shape, dtype, device))
    return target.asked(shape, dtype, device) if isinstance(target, Custom) else target


def kind_of(target: Target) -> tuple[Any, ...]:
    """What tells targets apart in a process: another class may have a score of its own under the same signature."""
    inner = (kind_of(target.target),) if isinstance(target, At) else ()
    return (type(target), *inner, target.signature)


def score_of(
    target: Target, output: Tensor, mask: Tensor | None, arguments: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The score (B,), and the coefficient of the output that it is differentiated to."""
    if isinstance(target, Custom):
        return target.derived(output, dict(arguments))
    return derived(lambda leaf: target.score(leaf, mask, **arguments), output)


def named(target: Target, names: Names, pieces: Callable[[str], list[int]]) -> Target:
    """The same, which knows what names stand for. names: of a label or token; pieces: the ids of a text."""
    if isinstance(target, Span):
        return target.named(pieces, lambda word: names(word, -1))
    return target.named(names) if isinstance(target, (Class, Contrast)) else target
