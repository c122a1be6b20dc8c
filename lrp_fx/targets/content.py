"""Content: what a target asks for, as text, and whether it asks the same of every example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_fx.errors import TargetError
from lrp_fx.ir.seen import told
from lrp_fx.targets.at import At
from lrp_fx.targets.classes import Class, Contrast, Predicted
from lrp_fx.targets.direction import Direction
from lrp_fx.targets.indices import has_names, listed, whole_numbers
from lrp_fx.targets.span import Span
from lrp_fx.targets.target import Target

#: What a target knows of a model (who resolves its names), and does not ask for.
_KNOWS = "names"


def content_of(target: Target) -> str:
    """A target as text that another one has only where it asks for the same, in this process or another: its ``repr``
    for people and, where that does not say it all (a vector, a function), a digest of all that it holds.
    """
    if isinstance(target, At):
        return f"At({target.place!r}, {content_of(target.target)})"
    if not _is_open(target):
        return f"{target!r} {told(target)}"
    held = {name: value for name, value in vars(target).items() if name != _KNOWS}
    said = told(held)
    return repr(target) if said == repr(held) else f"{target!r} {said}"


def _is_open(target: Target) -> bool:
    """Is it one of the library's, which is all in its attributes, and not looked into else?"""
    return type(target).__module__.startswith("lrp_fx.")


def is_for_each(target: Target) -> bool:
    """Does it ask for something else of each example of a batch, so that it belongs to examples in their order?"""
    if isinstance(target, At):
        return is_for_each(target.target)
    if isinstance(target, (Class, Contrast, Predicted)):
        return any(_is_several(index) for index in (*target.classes.values(), target.position))
    if isinstance(target, Direction):
        vectors = target.vector.shape[0] if target.vector.dim() > 1 else 1
        return vectors > 1 or _is_several(target.position)
    if isinstance(target, Span):
        return (target.tokens.dim() > 1 and len(target.tokens) > 1) or _is_several(target.start)
    return False


def _is_several(index: Any) -> bool:
    """Is it more than one number or name?"""
    given = listed(index)
    if isinstance(given, Tensor) or hasattr(given, "size"):
        return int(given.numel() if isinstance(given, Tensor) else given.size) > 1
    return isinstance(given, (list, tuple, range)) and (len(given) > 1 or any(map(_is_several, given)))


def check_classes(target: Target, shape: Sequence[int] | None = None) -> None:
    """Raise `TargetError` for a class (or a vector) that outputs of this ``shape`` do not have, whatever their rows;
    None: where that is not known, for one that no output has.
    """
    if shape is not None:
        at_a_row = isinstance(target, Direction) and target.position is not None
        if (at_a_row or isinstance(target, (Class, Contrast))) and len(shape) in (2, 3):
            target.arguments((1, int(shape[-1])), torch.device("cpu"))
        return
    for index in target.classes.values() if isinstance(target, (Class, Contrast)) else ():
        numbers = whole_numbers([] if has_names(index) else index, "class").flatten()
        if bool((numbers < 0).any()):
            raise TargetError(f"no such class: {int(numbers.min())} (they are counted from 0)")
