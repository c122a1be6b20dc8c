"""Axis names: what the axes of a value stand for, in words, as it is laid out for a reader: examples first."""

from __future__ import annotations

from collections.abc import Sequence

from lrp_fx.ir.layout import BATCH, FEATURE, SEGMENTED, TOKEN, Layout, batch_axis

BATCHES, TOKENS, FEATURES, HEADS, GROUPS, QUERIES, KEYS = (
    "batch",
    "tokens",
    "features",
    "heads",
    "groups",
    "queries",
    "keys",
)
_NAMES = {TOKEN: TOKENS, FEATURE: FEATURES, SEGMENTED: "rows"}


def axis_names(layout: Layout | None, rank: int) -> tuple[str, ...]:
    """One name for each axis; ``all`` stands in front where no axis is the batch. The last of several axes of features
    has the name, those before are ``groups``.
    """
    if layout is None or len(layout) != rank:
        return ("all", *(f"axis_{i}" for i in range(rank)))
    kinds = [[k for k, _ in axis] for axis in layout]
    axis = batch_axis(layout)
    names = [_name(found) for found in kinds]
    last = max((i for i, name in enumerate(names) if name == FEATURES), default=0)
    names = [GROUPS if name == FEATURES and i < last else name for i, name in enumerate(names)]
    if axis is None:
        return apart(("all", *names))
    merged = [names[axis.axis]] if axis.is_merged else []
    return apart((BATCHES, *names[: axis.axis], *merged, *names[axis.axis + 1 :]))


def head_names(names: Sequence[str], *, scores: bool) -> tuple[str, ...]:
    """The same for what attention has computed: ``scores`` (or weights) between tokens, or weighted sums of values."""
    found = [name.rstrip("_0123456789") for name in names]
    split = [i for i, name in enumerate(found[: -2 if scores else -1]) if i and name != TOKENS]
    for place, name in zip(split[-2:], (HEADS,) if len(split) == 1 else (GROUPS, HEADS), strict=False):
        found[place] = name
    if scores:
        found[-2:] = [QUERIES, KEYS]
    elif found[-1] != TOKENS:
        found[-1] = FEATURES
    return apart(found)


def apart(names: Sequence[str]) -> tuple[str, ...]:
    """Names that come twice with a number: ``tokens``, ``tokens_2``."""
    found: list[str] = []
    for number, name in enumerate(names):
        earlier = list(names[:number]).count(name)
        found.append(f"{name}_{earlier + 1}" if earlier else name)
    return tuple(found)


def _name(kinds: Sequence[str]) -> str:
    others = [k for k in kinds if k != BATCH]
    if TOKEN in others:
        return TOKENS
    return _NAMES.get(others[0], "axis") if others else "axis"
