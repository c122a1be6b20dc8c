"""Examples: the inputs that a model is traced with, made of those of a call.

Rows and tokens are repeated or left out, never invented, so that every value stays in the model's domain.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.ir.program import CACHED_ROLE, CONTENT_ROLE, MASK_ROLE

#: Smallest traced sizes: an axis of size 1 would be specialised as "always 1" (broadcast).
MIN_BATCH, MIN_LENGTH = 2, 4
#: A longer text is traced by its first tokens: comparing the capture with the model would cost more than tracing it.
LONGEST_TRACED, SHORTENED = 64, 16


def suits_fixed_sizes(inputs: Mapping[str, Any], roles: Mapping[str, str]) -> bool:
    """Is it one short example, whose sizes tell its axes apart? It is traced quicker for its own sizes than for any.

    (Two texts of one length could not be told apart by it, and whose an axis is would be a guess; of a single token no
    size shows the axis.)
    """
    content = {n: v for n, v in inputs.items() if isinstance(v, Tensor) and roles[n] == CONTENT_ROLE}
    lengths = [v.shape[1] for v in content.values() if _is_text(v)]
    return (
        all(v.dim() and v.shape[0] == 1 and not (v.dim() in (2, 3) and v.shape[1] == 1) for v in content.values())
        and len(set(lengths)) == len(lengths)
        and max(lengths, default=0) <= LONGEST_TRACED
    )


def _is_text(value: Tensor) -> bool:
    return value.dim() == 2 and not value.is_floating_point()


def shortened(inputs: dict[str, Any], roles: Mapping[str, str]) -> dict[str, Any] | None:
    """Two rows and a few tokens of inputs with more; None where there are no more, or sizes do not tell which axes
    they are.
    """
    tensors = {n: v for n, v in inputs.items() if isinstance(v, Tensor) and v.dim()}
    content = {n: v for n, v in tensors.items() if roles[n] == CONTENT_ROLE}
    rows = {v.shape[0] for v in content.values()}
    lengths = dict.fromkeys(v.shape[1] for v in content.values() if _is_text(v))
    long = [n for n in lengths if n > LONGEST_TRACED]
    if len(rows) != 1 or rows & set(lengths):
        return None
    batch = next(iter(rows))
    kept = {size: SHORTENED + i for i, size in enumerate(long)} | ({batch: MIN_BATCH} if batch > MIN_BATCH else {})
    parts = ({n: _cut(v, kept, roles[n], batch, last) for n, v in tensors.items()} for last in (False, True))
    found = next((p for p in parts if kept and not _hides_a_row(p, roles)), None)
    return None if found is None else {**inputs, **found}


def _cut(value: Tensor, kept: Mapping[int, int], role: str, batch: int, last: bool) -> Tensor:
    """The first rows and the first (or last) tokens: axes with these sizes. Features of content are neither."""
    for axis, size in enumerate(value.shape[:2] if role == CONTENT_ROLE else value.shape):
        if size in kept and (size != batch or axis == 0):
            value = value.narrow(axis, size - kept[size] if last and size != batch else 0, kept[size])
    return value.clone()


def _hides_a_row(inputs: Mapping[str, Tensor], roles: Mapping[str, str]) -> bool:
    """Is all of a text masked (it was padded on the left)?"""
    masks = [v for n, v in inputs.items() if roles[n] == MASK_ROLE and v.dim() == 2 and not v.is_floating_point()]
    return any(not bool(mask.any(-1).all()) for mask in masks)


def has_entry_for_each_row(inputs: Mapping[str, Any]) -> bool:
    """Is there a list beside the tensors that has as many entries as they have rows (a name for each example)?"""
    rows = {v.shape[0] for v in inputs.values() if isinstance(v, Tensor) and v.dim()}
    return any(isinstance(v, (list, tuple)) and len(v) in rows for v in inputs.values())


def in_signature_order(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """The same arguments in the order of ``forward``'s signature (export demands it)."""
    order = list(inspect.signature(model.forward).parameters)
    return dict(sorted(inputs.items(), key=lambda kv: order.index(kv[0]) if kv[0] in order else len(order)))


def without_repeats(inputs: dict[str, Any]) -> dict[str, Any]:
    """A tensor passed for two arguments is cloned: the tracer would take both for one input for ever."""
    seen: set[int] = set()
    result = {}
    for name, value in inputs.items():
        repeated = isinstance(value, Tensor) and value.data_ptr() in seen
        result[name] = value.clone() if repeated else value
        if isinstance(value, Tensor):
            seen.add(value.data_ptr())
    return result


def _added_tokens(tensors: Mapping[str, Tensor], roles: Mapping[str, str]) -> int:
    """How many tokens a text that goes on after a cache is short of: masks count both."""
    lengths = {v.shape[1] for n, v in tensors.items() if roles[n] == CONTENT_ROLE and _is_text(v)}
    return max(MIN_LENGTH - min(lengths), 0) if lengths and CACHED_ROLE in roles.values() else 0


def widen(inputs: dict[str, Any], roles: dict[str, str], *, more_rows: bool = True) -> dict[str, Any]:
    """Inputs to trace with: at least two rows, a few tokens, and a mask that masks something."""
    tensors = {k: v for k, v in inputs.items() if isinstance(v, Tensor)}
    result = dict(inputs)
    if more_rows and tensors and all(t.dim() and t.shape[0] == 1 for t in tensors.values()):
        for name in tensors:
            result[name] = result[name].expand(MIN_BATCH, *result[name].shape[1:]).clone()
    added = _added_tokens(tensors, roles)
    for name in tensors:
        value = result[name]
        if added and roles[name] == MASK_ROLE and value.dim() == 2 and value.shape[1] >= MIN_LENGTH:
            value = result[name] = torch.cat([value, value[:, -1:].expand(-1, added)], 1)  # of earlier tokens, too
        if not value.is_floating_point() and value.dim() == 2 and value.shape[1] < MIN_LENGTH:
            result[name] = value[:, torch.arange(MIN_LENGTH, device=value.device) % value.shape[1]]
        if roles[name] == MASK_ROLE and value.dim() == 2 and not value.is_floating_point() and bool(value.all()):
            result[name] = result[name].clone()
            result[name][0, 0] = 0
    return result
