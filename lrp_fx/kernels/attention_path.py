"""The transpose of the path rule around fused attention, in blocks of scores: no tensor of queries by keys is kept.

For each block the scores are computed again, as the derivative of a fused kernel does: five matrix products. What the
rule is stands in ``rules/path.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from lrp_fx.kernels.logarithmic_mean import logarithmic_mean

#: Scores in one block: on a CPU it is to stay in the cache.
_BLOCK = {"cpu": 2**17}
_LARGE_BLOCK = 2**24
#: Queries in a block of a single head, even if these are more scores.
_QUERIES = 32


@torch.library.custom_op("lrp_fx::attention_path", mutates_args=())
def attention_path(
    c: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    start: Tensor | None,
    causal: bool,
    scale: float | None,
    weight: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coefficients of queries, keys, values and of ``bias`` (empty without one), for that of the result, ``c``.

    Shapes as in `torch.nn.functional.scaled_dot_product_attention`: (..., heads, queries or keys, features); keys and
    values may have fewer heads. ``start``: what is added to the scores from the start (a float or Boolean mask);
    ``bias``: what is added on the path. ``weight``: the share of the attention's weights in the product with values.
    """
    wide = torch.float32 if q.dtype in (torch.float16, torch.bfloat16) else q.dtype
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    lead, sizes = c.shape[:-2], (q.shape[-2], k.shape[-2])
    C, Q, K, V = (_as_four(_heads(t, lead).to(wide), lead) for t in (c, q, k, v))
    added, given = (None if t is None else _pairs(t, lead, sizes) for t in (bias, start))
    return _Path(C, Q * scale, K, V, added, given, causal, weight, (c, q, k, v), scale).run()


@attention_path.register_fake
def _(
    c: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    start: Tensor | None,
    causal: bool,
    scale: float | None,
    weight: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scores = c.new_empty((*c.shape[:-1], k.shape[-2]) if bias is not None else (0,))
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), scores


@dataclass
class _Path:
    """One call: all tensors as (examples, heads, ...), wide enough to compute in."""

    c: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    start: Tensor | None
    causal: bool
    weight: float
    like: tuple[Tensor, Tensor, Tensor, Tensor]
    scale: float

    def run(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sums = [torch.zeros_like(t) for t in (self.q, self.k, self.v)]
        shape = (*self.c.shape[:3], self.k.shape[2])
        of_bias = None if self.bias is None else self.c.new_zeros(shape)
        for block in self._blocks():
            self._block(block, sums[0], sums[1], sums[2], of_bias)
        sums[0] *= self.scale
        c, *like = self.like
        own = [_as_given(t, x, c.shape[:-2]) for t, x in zip(sums, like, strict=True)]
        scores = c.new_empty(0) if of_bias is None else of_bias.reshape(*c.shape[:-1], shape[3]).to(c.dtype)
        return own[0], own[1], own[2], scores

    def _blocks(self) -> Iterator[tuple[slice, slice, slice]]:
        """(examples, heads, queries) of one block after the other."""
        examples, heads, queries = self.c.shape[:3]
        keys = max(self.k.shape[2], 1)
        block = _BLOCK.get(self.c.device.type, _LARGE_BLOCK)
        if heads * queries * keys <= block:
            at_once = max(1, block // max(heads * queries * keys, 1)), heads, queries
        else:
            together = max(1, min(heads, block // (min(queries, _QUERIES) * keys)))
            at_once = 1, together, min(queries, max(_QUERIES, block // (together * keys)))
        yield from product(*(_slices(n, step) for n, step in zip((examples, heads, queries), at_once, strict=True)))

    def _block(self, at: tuple[slice, slice, slice], c_q: Tensor, c_k: Tensor, c_v: Tensor, c_b: Tensor | None) -> None:
        whose, rows = at[:2], at[2]
        keys = slice(0, min(rows.stop, self.k.shape[2]) if self.causal else self.k.shape[2])
        k, v, c, q = self.k[whose][:, :, keys], self.v[whose][:, :, keys], self.c[at], self.q[at]
        x = q @ k.transpose(-1, -2)
        if self.bias is not None:
            x += _part(self.bias, at, keys)
        w, mixed = self._weights(x, at, keys)
        g = c @ v.transpose(-1, -2)
        total = w.sum(-1, keepdim=True)
        g -= (w * g).sum(-1, keepdim=True) / total.masked_fill_(total == 0, 1.0)
        g *= w.mul_(self.weight)
        c_q[at] = g @ k
        c_k[whose][:, :, keys] += g.transpose(-1, -2) @ q
        c_v[whose][:, :, keys] += mixed.transpose(-1, -2) @ c
        if c_b is not None:
            c_b[at][..., keys] = g

    def _weights(self, x: Tensor, at: tuple[slice, slice, slice], keys: slice) -> tuple[Tensor, Tensor]:
        """Of scores ``x``, which are used up: ``w``, and the weights that go to the values, ``p0`` and a share of
        ``p - p0``.
        """
        start = self._start(x, at, keys)
        if start is not None and start.is_floating_point():
            return self._weights_from(x, start)
        p0: Tensor | float
        if start is None:
            p0 = 1.0 / x.shape[-1]
            x -= torch.logsumexp(x, -1, keepdim=True) + math.log(p0)
        else:
            x.masked_fill_(~start, float("-inf"))
            count = start.sum(-1, keepdim=True).to(x.dtype)
            p0 = start / count.clamp_min(1)
            x -= (torch.logsumexp(x, -1, keepdim=True) - count.log()).nan_to_num_()
            x.masked_fill_(~start, 1.0)  # what is hidden has no weight: any number that is not 0
        x += _NEXT_TO_NOTHING
        growth = torch.expm1(x)
        w = growth.div(x).mul_(p0)
        return w, growth.mul_(1 - self.weight).add_(1.0).mul_(p0)

    def _weights_from(self, x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """The same where numbers are added to the scores from the start."""
        start = start.to(x.dtype)
        x = x + start
        log_p, log_p0 = torch.log_softmax(x, -1), torch.log_softmax(start, -1)
        p, p0 = log_p.exp().nan_to_num_(), log_p0.exp().nan_to_num_()
        w = logarithmic_mean(p, p0, log_p - log_p0)
        return w, p.mul(1 - self.weight).add(p0, alpha=self.weight)

    def _start(self, x: Tensor, at: tuple[slice, slice, slice], keys: slice) -> Tensor | None:
        """What stands in the scores of a block from the start: Boolean where it only hides."""
        given = None if self.start is None else _part(self.start, at, keys)
        if not self.causal:
            return given
        rows = torch.arange(at[2].start, at[2].start + x.shape[-2], device=x.device)
        shown = rows[:, None] >= torch.arange(keys.stop, device=x.device)
        if given is None:
            return shown
        return given & shown if given.dtype == torch.bool else given.masked_fill(~shown, float("-inf"))


#: Added to logarithms of ratios: it changes none but 0, for which (exp(d) - 1) / d has no number.
_NEXT_TO_NOTHING = 1e-37


def _slices(size: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, size)) for i in range(0, size, max(step, 1))]


def _heads(x: Tensor, lead: torch.Size) -> Tensor:
    """With as many heads as the result has: those that several queries share, one after the other."""
    if x.dim() >= 3 and lead and x.shape[-3] not in (1, lead[-1]):
        return x.repeat_interleave(lead[-1] // x.shape[-3], -3)
    return x


def _as_four(x: Tensor, lead: torch.Size) -> Tensor:
    """(examples, heads, tokens, features)"""
    x = x.expand(*lead, *x.shape[-2:])
    return x.reshape(math.prod(lead[:-1]), lead[-1] if lead else 1, *x.shape[-2:])


def _pairs(x: Tensor, lead: torch.Size, sizes: tuple[int, int]) -> Tensor:
    """(examples or 1, heads or 1, queries, keys), without copies where only these are broadcast."""
    x = x.reshape((1,) * (2 - x.dim()) + tuple(x.shape)).expand(*x.shape[:-2], *sizes)
    if x.dim() > 4 or len(lead) > 2:
        x = x.expand(*lead, *sizes)
        return x.reshape(math.prod(lead[:-1]), lead[-1], *sizes)
    return x.reshape((1,) * (4 - x.dim()) + tuple(x.shape)) if x.dim() < 4 else x


def _part(x: Tensor, at: tuple[slice, slice, slice], keys: slice) -> Tensor:
    """What belongs to a block of something that may be broadcast over examples and heads."""
    examples, heads = (slice(None) if x.shape[i] == 1 else at[i] for i in (0, 1))
    return x[examples, heads, at[2], keys]


def _as_given(x: Tensor, like: Tensor, lead: torch.Size) -> Tensor:
    """A sum with the shape, the type and the order in memory of the operand that it belongs to."""
    x = x.reshape(*lead, *x.shape[-2:])
    if like.dim() >= 3 and lead and like.shape[-3] not in (1, lead[-1]):
        x = x.reshape(*x.shape[:-3], like.shape[-3], -1, *x.shape[-2:]).sum(-3)
    return torch.empty_like(like).copy_(x.sum_to_size(like.shape))
