"""The path rule: attention whose books close without a sink, because its weights are measured from where they start.

Write ``p0`` for the weights where nothing that carries relevance says anything: uniform over what a mask shows. Then

    o = p0 v + (p - p0) v

What attention does without looking is linear in the values, and all of it goes to them. What looking adds is a product
of two factors: a share to the values, a share to ``p - p0``, which is handed to the scores ``s`` exactly, by a frozen
symmetric matrix:

    p - p0 = M (s - s0),   M = diag w - w w^T / sum(w),   w_j = (p_j - p0_j) / (log p_j - log p0_j)

``w`` is the logarithmic mean of ``p`` and ``p0``. That this is exact takes two lines: ``log p_j - log p0_j = x_j - L``
with ``x = s - s0`` and one number ``L`` for the row, so ``p_j - p0_j = w_j (x_j - L)``; and these add up to zero, so
``L = (w . x) / sum(w)``. The matrix is the softmax's Jacobian with ``w`` in the place of ``p`` (and is it, where ``p``
is ``p0``); ``M 1 = 0``, so that a constant added to a row changes nothing. The mean is the integral of ``p^t p0^(1-t)``
over t in [0, 1], the path from one to the other; in gradient flows of entropy it is what makes the chain rule hold for
finite differences (Maas 2011).
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
from torch import Tensor

from lrp_fx.kernels.attention_path import attention_path
from lrp_fx.kernels.logarithmic_mean import logarithmic_mean
from lrp_fx.rule import Call, Rule, carry, draw, freeze, precise, register, sample, share, sink
from lrp_fx.rules.attention import OPS as ATTENTION
from lrp_fx.rules.attention import chain, scores_and_weights, shares
from lrp_fx.rules.softmax import OPS as SOFTMAX
from lrp_fx.rules.softmax import weights_of

aten = torch.ops.aten


# ------------------------------------------------------------------------------------------------ softmax by itself
def _logarithms(call: Call) -> tuple[Tensor, Tensor]:
    """Of the weights, and of those where what carries relevance says nothing: constant parts of scores (masks) alone.

    From the scores: weights may be too small for a number, and still be in the mean.
    """
    scores, dim = precise(call.args[0].detach()), int(call.arg(1, "dim", -1))
    base = call.bases.get(0)
    start = torch.zeros_like(scores) if base is None else precise(base.detach()).expand_as(scores)
    log_p, log_p0 = torch.log_softmax(scores, dim), torch.log_softmax(start, dim)
    if call.facts.get("written_out"):
        total = precise(weights_of(call, scores)).sum(dim, keepdim=True)
        beside = torch.zeros_like(total) if call.facts.get("learned_beside") else _beside(call)
        of_start = torch.logsumexp(start, dim, keepdim=True)
        log_p, log_p0 = log_p + total.log(), log_p0 + of_start - torch.logaddexp(of_start, beside)
    return log_p, log_p0


def _beside(call: Call) -> Tensor:
    """One more score, which stands in the sum of exponentials beside the others: weights add up to less than 1."""
    scores, dim = precise(call.args[0].detach()), int(call.arg(1, "dim", -1))
    p = precise(weights_of(call, scores))
    return torch.logsumexp(scores, dim, keepdim=True) + _logarithm(_rest(call, p) / p.sum(dim, keepdim=True))


def _logarithm(x: Tensor) -> Tensor:
    """Minus infinity where ``x`` is 0, without a slope there: what is chosen instead would be handed ``0 / 0``."""
    seen = x > 0
    return torch.where(seen, torch.where(seen, x, 1.0).log(), float("-inf"))


def _rest(call: Call, p: Tensor) -> Tensor:
    """What weights lack to 1; a learned score always has some weight, if less than the sum can tell from 1."""
    least = torch.finfo(p.dtype).eps / 4 if call.facts.get("learned_beside") else 0.0
    return (1 - p.sum(int(call.arg(1, "dim", -1)), keepdim=True)).clamp_min(least)


def _start(call: Call) -> Tensor:
    """Weights where what carries relevance says nothing: uniform over what a mask shows, if there is nothing else."""
    return _logarithms(call)[1].exp().nan_to_num()  # rows that are masked throughout have no weights


def _softmax(call: Call) -> Any:
    scores, dim = call.args[0], int(call.arg(1, "dim", -1))
    y = weights_of(call, scores)
    log_p, log_p0 = _logarithms(call)
    p, p0 = precise(y), log_p0.exp().nan_to_num()
    w = freeze(logarithmic_mean(p, p0, log_p - log_p0))
    total = w.sum(dim, keepdim=True)
    beside = torch.zeros_like(total)
    if call.facts.get("written_out"):
        q, q0 = (_rest(call, t) for t in (p, p0))
        beside = logarithmic_mean(q, q0, _logarithm(q) - _logarithm(q0))
        total = total + beside
    total = torch.where(total == 0, 1.0, total)

    def moved(x: Tensor) -> Tensor:
        return w * (x - (w * x).sum(dim, keepdim=True) / total)

    base, unmoved = call.bases.get(0), p0
    if base is not None:
        constant = _numbers(base.detach()).to(w.dtype).expand_as(w)
        if not call.facts.get("written_out"):  # M 1 = 0: where all is masked by one low number, nothing is to be left
            constant = constant - constant.amax(dim, keepdim=True)
        unmoved = p0 - moved(constant)
    result = carry((p - unmoved).to(y.dtype), moved(scores.to(w.dtype)).to(y.dtype)) + sink("softmax", unmoved, y)
    if not call.facts.get("learned_beside"):
        return result
    # what a learned score takes from the others: it moved, too, and nobody carries it
    taken = w * torch.where(beside > 0, beside * _beside(call), 0.0) / total
    return result + taken.to(y.dtype) + sink("bias", -taken, y)


def _numbers(start: Tensor) -> Tensor:
    """Constant parts of scores where they do not hide: minus infinity and the lowest numbers have no weight."""
    return torch.where(start > torch.finfo(start.dtype).min / 4, start, 0.0)


def _mean_of_weights(d: Tensor, n: int) -> Tensor:
    """Of ``exp(d) / n`` and ``1 / n``, the logarithmic mean."""
    return d.expm1() / (n * d) if d else d.new_tensor(1 / n)


def _softmax_reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """Row by row: ``R_j = (p_j - p0_j) (x_j / (x_j - L)) (g_j - mean_w g)``, the rest of the mean's share."""
    x, dim = call.args[0].movedim(int(call.args[1]), -1), int(call.args[1])
    g = (R_y / call.run()).movedim(dim, -1)
    rows = []
    for row, c in zip(x.flatten(0, -2), g.flatten(0, -2), strict=True):
        seen = row.isfinite()
        s, n = row[seen], int(seen.sum())
        R = torch.zeros_like(row)
        if n:
            level = (s.exp().sum() / n).log()
            w = torch.stack([_mean_of_weights(t - level, n) for t in s])
            R[seen] = s * w * (c[seen] - (w * c[seen]).sum() / w.sum())
        rows.append(R)
    return [torch.stack(rows).reshape(x.shape).movedim(-1, dim)]


def _softmax_samples() -> list[Call]:
    x = draw(2, 3, 5, seed=5) * 3
    masked = x.masked_fill(torch.tensor([False, True, False, False, True]), float("-inf"))
    hidden = torch.zeros(x.shape, dtype=x.dtype).masked_fill(masked.isinf(), float("-inf"))
    throughout = x.masked_fill(torch.tensor([[True], [False], [False]]), float("-inf"))
    shown = torch.zeros(x.shape, dtype=x.dtype).masked_fill(throughout.isinf(), float("-inf"))
    return [
        sample(aten.softmax.int, x, -1),
        sample(aten.softmax.int, x, 1),
        sample(aten.softmax.int, x * 30, -1),
        sample(aten._softmax.default, x, 0, False),
        sample(aten.softmax.int, torch.zeros_like(x), -1),
        sample(aten.softmax.int, masked, -1, bases={0: hidden}),
        sample(aten._safe_softmax.default, throughout, -1, bases={0: shown}),
    ]


def _softmax_calls() -> list[Call]:
    """Scores that some weights are too small for any number of, and parts that stand in the scores from the start."""
    x, term = draw(2, 3, 5, seed=5), draw(3, 5, seed=6)
    return [
        sample(aten.softmax.int, x * 3000, -1),
        sample(aten.softmax.int, x + term, -1, bases={0: term}),
        sample(aten.softmax.int, x + 40 * term, -1, bases={0: 40 * term}),
        sample(aten.softmax.int, x - 1e9, -1, bases={0: torch.full_like(x, -1e9)}),
        sample(aten.softmax.int, x, -1, facts={"written_out": True}),
    ]


# ------------------------------------------------------------------------------------------------ the fused kernel
def _attention(call: Call) -> Any:
    w_q, w_k, _, w_p = shares(call)
    if w_p == 0.0:  # scores that carry nothing: the weights are coefficients
        return call.map(lambda i, a: freeze(a) if i in (0, 1) else a).run()
    q, k, v = call.args[:3]
    added = call.arg(3, "attn_mask")
    carries = 3 in call.carriers
    start = call.bases.get(3) if carries else added
    bias = added if carries else None
    y = call.value.detach() if isinstance(call.value, Tensor) else _plain(call)
    moved = bias if bias is None or start is None else _numbers(bias.detach() - start)
    given = [None if t is None else freeze(t) for t in (q, k, v, moved, start)]
    if bias is not None and start is not None:  # its constant part is not on the path
        bias = bias + sink("bias", -_numbers(start), bias)
    carried = [
        share(q, w_q / w_p) if 0 in call.carriers else q.detach(),
        share(k, w_k / w_p) if 1 in call.carriers else k.detach(),
        v if 2 in call.carriers else v.detach(),
        bias,
    ]
    options = (bool(call.arg(5, "is_causal", False)), call.kwargs.get("scale"), w_p)
    through: Tensor = _Attention.apply(y, *carried, *given, *options)  # type: ignore[no-untyped-call]
    if 2 in call.carriers:
        return carry(y, through)
    unmoved = _at_start(call, start)  # values that carry nothing: what is made of them without looking is a constant
    return carry(y - unmoved, through) + sink("bias", unmoved, y)


def _plain(call: Call) -> Tensor:
    value: Tensor = call.map(lambda i, a: a.detach() if isinstance(a, Tensor) else a).run()
    return value


def _at_start(call: Call, start: Tensor | None) -> Tensor:
    """The mean of the values that a mask shows: attention whose scores are their constant parts alone."""
    q, k, v = (a.detach() for a in call.args[:3])
    others = {n: a for n, a in call.kwargs.items() if n != "attn_mask"}
    value: Tensor = call.op(torch.zeros_like(q), k, v, start, *call.args[4:], **others)
    return value


class _Attention(torch.autograd.Function):
    """The value with the transpose of the rule: `attention_path`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, *args: Any) -> Tensor:
        ctx.save_for_backward(*(a for a in args[4:9]))
        ctx.options = args[9:]
        ctx.shapes = [None if a is None else a.shape for a in args[:4]]
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:5]
        found = attention_path(grads[0], *ctx.saved_tensors, *ctx.options)
        given = [
            c.sum_to_size(shape) if want else None for c, want, shape in zip(found, wanted, ctx.shapes, strict=True)
        ]
        return (None, *given, *([None] * (len(ctx.needs_input_grad) - 5)))


def _attention_reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """Query by query: values get what the mean of them gives and half of the rest, scores the other half; then
    AttnLRP's prop. 3.3 on the product of queries and keys.
    """
    q, k, v = call.args[:3]
    s, p, _ = scores_and_weights(call)
    R_q, R_k, R_v = (torch.zeros_like(t) for t in (q, k, v))
    scale = 1.0 / math.sqrt(q.shape[-1])
    for b, h, i in product(*map(range, q.shape[:3])):
        seen = s[b, h, i].isfinite().nonzero().flatten().tolist()
        c = R_y[b, h, i] / sum(p[b, h, i, j] * v[b, h, j] for j in seen)
        level = (s[b, h, i, seen].exp().sum() / len(seen)).log()
        w = {j: _mean_of_weights(s[b, h, i, j] - level, len(seen)) for j in seen}
        g = {j: (c * v[b, h, j]).sum() for j in seen}
        mean = sum(w[j] * g[j] for j in seen) / sum(w.values())
        for j in seen:
            R_v[b, h, j] += (1 / len(seen) + (p[b, h, i, j] - 1 / len(seen)) / 2) * c * v[b, h, j]
            R_pair = q[b, h, i] * k[b, h, j] * scale * w[j] * (g[j] - mean) / 2
            R_q[b, h, i] += R_pair / 2
            R_k[b, h, j] += R_pair / 2
    return [R_q, R_k, R_v]


def _attention_samples() -> list[Call]:
    q, k, v = draw(2, 2, 4, 3), draw(2, 2, 5, 3, seed=1), draw(2, 2, 5, 3, seed=2)
    op, every = aten.scaled_dot_product_attention.default, (0, 1, 2)
    mask = torch.tensor([True, True, False, True, True]).expand(2, 1, 4, 5)
    return [
        sample(op, q, k, v, carriers=every),
        sample(op, q * 30, k, v, carriers=every),
        sample(op, q, k, v, mask, carriers=every),
        sample(op, q, k[:, :, :4], v[:, :, :4], None, 0.0, True, carriers=every),
    ]


def _attention_calls() -> list[Call]:
    """Shared keys, a scale, saturated weights, terms of scores that carry and that do not, parts that carry nothing."""
    q, k, v, bias = draw(2, 4, 5, 3), draw(2, 4, 6, 3, seed=1), draw(2, 4, 6, 3, seed=2), draw(2, 1, 5, 6, seed=3)
    op, every = aten.scaled_dot_product_attention.default, (0, 1, 2)
    lowest = torch.zeros(5, 6, dtype=q.dtype).masked_fill(torch.ones(5, 6).triu(1) > 0, torch.finfo(q.dtype).min)
    return [
        sample(op, q, k[:, :2], v[:, :2], carriers=every, enable_gqa=True, scale=0.7),
        sample(op, q * 3000, k, v, carriers=every),
        sample(op, q, k, v, bias, carriers=every),
        sample(op, q, k, v, lowest, carriers=every),
        sample(op, q, k, v, bias * 100, carriers=every),
        sample(op, q, k, v, bias, carriers=(*every, 3)),
        sample(op, q, k, v, bias + lowest, carriers=(*every, 3), bases={3: lowest}),
        sample(op, q, k, v, bias + bias.flip(-1), carriers=(*every, 3), bases={3: bias.flip(-1)}),
        sample(op, q, k, v, carriers=(2,)),
        sample(op, q, k, v, carriers=(0, 1)),
        sample(op, q, k, v, carriers=(0, 2), factors={0: 2, 2: 3}),
        sample(op, q[:, 0], k[:, 0], v[:, 0], carriers=every),
        sample(op, q[0, 0], k[0, 0], v[0, 0], carriers=every),
        sample(op, q, k[:1, :1], v[:1, :1], carriers=every),
    ]


register(
    Rule(
        name="softmax.path",
        kind="softmax",
        law="p = p0 + M (x - x0), M = diag w - w w^T / sum(w), w the logarithmic mean of p and p0; sink(p0), which a "
        "product with values hands to these",
        cites=("achtibat2024", "montavon2019", "maas2011"),
        ops=SOFTMAX,
        surrogate=_softmax,
        sinks=("softmax", "bias"),
        start=_start,
        based="constants",
        reference=_softmax_reference,
        samples=_softmax_samples,
        calls=_softmax_calls,
    ),
    Rule(
        name="attention.path",
        kind="attention",
        law="o = p0 v + (p - p0) v; c(v) = (p0 + w_v (p - p0))^T c, c(s) = w_p M (c v^T), M and p0 as for softmax.path",
        cites=("achtibat2024", "montavon2019", "maas2011"),
        ops=ATTENTION,
        surrogate=_attention,
        sinks=("bias",),
        based="constants",
        reference=_attention_reference,
        samples=_attention_samples,
        calls=_attention_calls,
        weights=lambda call: scores_and_weights(call)[1].nan_to_num(),
        chain=chain,
    ),
)
