"""Flex attention written out while it is traced: scores, what the model's functions make of them, softmax, product.

`torch.nn.attention.flex_attention` compiles itself, which no trace can see into. What it computes is simple: its
functions of a score and of indices are given all scores at once, with indices that are broadcast against them.

ensures  outside of `flex_written_out`, and in other threads, nothing is changed
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_MODULE = "torch.nn.attention.flex_attention"


@contextlib.contextmanager
def flex_written_out() -> Iterator[None]:
    """While inside, this thread's calls of flex attention are made of plain operations."""
    flex: Any = sys.modules.get(_MODULE)
    if flex is None:  # nobody has imported it
        yield
        return
    kernel, compiles, thread = (
        flex.flex_attention_hop,
        flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG,
        threading.get_ident(),
    )

    def attend(*args: Any, **kwargs: Any) -> Any:
        return (_written_out if threading.get_ident() == thread else kernel)(*args, **kwargs)

    try:
        flex.flex_attention_hop, flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = attend, True
        yield
    finally:
        flex.flex_attention_hop, flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = kernel, compiles


def _written_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Callable[..., Tensor],
    block_mask: tuple[Any, ...],
    scale: float,
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, heads, queries, features) of attention; its statistics, in powers of two as the kernel gives them.

    Source: torch's own reference, ``math_attention`` in ``torch/_higher_order_ops/flex_attention.py``.
    """
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    key, value = (t.expand(query.shape[0], *t.shape[1:]) for t in (key, value))
    scores = (query.to(wide) @ key.to(wide).mT) * scale
    places = _places(scores)
    flex: Any = sys.modules[_MODULE]
    if score_mod is not flex._identity:
        scores = score_mod(scores, *places)
    if block_mask[-1] is not flex.noop_mask:
        scores = scores.masked_fill(~block_mask[-1](*places), -torch.inf)
        weights = torch._safe_softmax(scores, -1)
    else:
        weights = scores.softmax(-1)
    statistics = scores.logsumexp(-1) / math.log(2), scores.amax(-1) / math.log(2)
    return weights.to(query.dtype) @ value.to(query.dtype), *statistics


def _places(scores: Tensor) -> list[Tensor]:
    """The indices of example, head, query and key, each along its own axis."""
    ranges = [torch.arange(size, device=scores.device) for size in scores.shape]
    return [r.reshape([-1 if a == axis else 1 for a in range(4)]) for axis, r in enumerate(ranges)]
