"""Fused attention: one kernel for matmul-softmax-matmul, with the coefficients of that composition.

Uniform on both matrix products and Taylor on the softmax give, around the fused kernel, c(q) and c(k) scaled by 1/4
and c(v) by 1/2 (in general by the factor counts): no n-by-n tensor is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, covers, draw, freeze, precise, register, sample, share, sink

aten = torch.ops.aten
OPS = covers("aten", "scaled_dot_product_attention")


def shares(call: Call) -> tuple[float, float, float, float]:
    """Shares of q, k, v and the weights p: the chain p v, and inside p the chain q k."""
    n_q, n_k, n_v = (call.factors.get(i, 1) if i in call.carriers else 0 for i in range(3))
    scores_carry = bool(n_q or n_k) or 3 in call.carriers
    p = (1.0 / (1 + n_v)) if scores_carry else 0.0
    return (p * n_q / max(n_q + n_k, 1), p * n_k / max(n_q + n_k, 1), n_v / (n_v + 1) if scores_carry else 1.0, p)


def chain(factors: Mapping[int, int], facts: Mapping[str, Any]) -> int:
    """The weights, if the scores carry relevance, times what the values are a product of."""
    return int(any(i != 2 for i in factors)) + factors.get(2, 0)


def _taylor(call: Call) -> Any:
    w_q, w_k, w_v, w_p = shares(call)
    q, k, v = (share(call.args[i], w) if i in call.carriers else call.args[i] for i, w in enumerate((w_q, w_k, w_v)))
    bias = call.arg(3, "attn_mask")
    if isinstance(bias, Tensor) and bias.is_floating_point() and 3 not in call.masks:
        if 3 not in call.carriers:  # a bias that carries nothing is a constant term of the scores
            bias = sink("bias", bias, torch.empty(*q.shape[:-1], k.shape[-2], dtype=q.dtype, device=q.device))
        bias = share(bias, w_p)
    return call.op(q, k, v, bias, *call.args[4:], **{n: a for n, a in call.kwargs.items() if n != "attn_mask"})


def _frozen_weights(call: Call) -> Any:
    if 2 not in call.carriers:
        return freeze(call.run())
    return call.map(lambda i, a: freeze(a) if i in call.carriers and i != 2 else a).run()


def scaled_operands(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Queries times the scale, and keys and values, repeated where queries share them."""
    q, k, v = (a.detach() for a in call.args[:3])
    scale = call.kwargs.get("scale")
    if call.kwargs.get("enable_gqa", False):
        k, v = (a.repeat_interleave(q.shape[-3] // a.shape[-3], -3) for a in (k, v))
    return q * (1.0 / math.sqrt(q.shape[-1]) if scale is None else scale), k, v


def added_to_scores(call: Call) -> Tensor | None:
    """What is added to the scores: minus infinity where they are hidden. A mask has no heads, so making it is cheap."""
    q, k = call.args[:2]
    mask, term = call.arg(3, "attn_mask"), None
    if bool(call.arg(5, "is_causal", False)):
        term = _hiding(torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril(), q.dtype)
    if mask is not None:
        given = _hiding(mask, q.dtype) if mask.dtype == torch.bool else mask.detach()
        term = given if term is None else term + given
    return term


def _hiding(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, float("-inf"))


def scores_and_weights(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, weights and (repeated) values, written out."""
    q, k, v = scaled_operands(call)
    s, term = q @ k.transpose(-1, -2), added_to_scores(call)
    s = s if term is None else s + term
    return s, torch.softmax(s, -1), v


def _sum_and_product(term: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``term + a @ b``, in one kernel where nothing but the term is broadcast."""
    shape = (*a.shape[:-1], b.shape[-1])
    sizes = [str(s) for s in shape]  # may be symbolic
    narrow = len(term.shape) <= len(shape) and all(
        str(s) in ("1", n) for s, n in zip(term.shape[::-1], sizes[::-1], strict=False)
    )
    if a.dim() < 3 or not narrow or sizes[:-2] != [str(s) for s in b.shape[:-2]]:
        return term + a @ b
    return torch.baddbmm(term.expand(shape).flatten(0, -3), a.flatten(0, -3), b.flatten(0, -3)).reshape(shape)


def _audit(call: Call, c: Tensor) -> dict[str, Tensor]:
    """The softmax sink from the written-out composition, ``(p - J s) v = o - (p s) v + m o`` with m = p . s: two
    tensors of queries by keys.

    Where all scores are hidden by minus infinity nothing is passed on, and ``J s = 0``.
    """
    o = precise(call.value.detach() if isinstance(call.value, Tensor) else call.run())
    wide = call.map(lambda i, a: precise(a) if isinstance(a, Tensor) else a)
    q, k, v = scaled_operands(wide)
    term = added_to_scores(wide)
    if term is None:
        s = q @ k.transpose(-1, -2)
    else:  # hidden scores stay finite: their weight is 0 all the same, and 0 times infinity is not
        least = -math.sqrt(torch.finfo(q.dtype).max)
        s = _sum_and_product(term.to(q.dtype).clamp_min(least), q, k.transpose(-1, -2))
    p = torch.softmax(s, -1)
    weighted = p * s
    mean = weighted.sum(-1, keepdim=True)
    tangent = weighted @ v - mean * o
    if term is not None:
        tangent = torch.where(s.amax(-1, keepdim=True) > least / 2, tangent, 0.0)
    return {"softmax": (o - tangent) * (precise(c) * shares(call)[3])}


def _reference(call: Call, R_y: Tensor) -> list[Tensor]:
    """AttnLRP props. 3.1 and 3.3 one after the other, in relevances, for q, k and v with one head each."""
    q, k, v = call.args[:3]
    s, p, _ = scores_and_weights(call)
    o = p @ v
    messages = p.unsqueeze(-1) * v.unsqueeze(-3) / o.unsqueeze(-2) * R_y.unsqueeze(-2) / 2
    R_p, R_v = messages.sum(-1), messages.sum(-3)
    R_s = torch.where(p == 0, torch.zeros_like(s), s * (R_p - p * R_p.sum(-1, keepdim=True)))
    scale = 1.0 / math.sqrt(q.shape[-1])
    parts = q.unsqueeze(-2) * k.unsqueeze(-3) * scale
    total = torch.where(p == 0, torch.ones_like(s), parts.sum(-1))
    messages = torch.where((p == 0).unsqueeze(-1), torch.zeros_like(parts), parts * (R_s / total).unsqueeze(-1) / 2)
    return [messages.sum(-2), messages.sum(-3), R_v]


def _reference_frozen(call: Call, R_y: Tensor) -> list[Tensor]:
    """CP-LRP (Ali et al. 2022, eq. 13): R(v_j) = sum_i p_ij v_j / o_i R(o_i), nothing for q and k."""
    q, k, v = call.args[:3]
    _, p, _ = scores_and_weights(call)
    messages = p.unsqueeze(-1) * v.unsqueeze(-3) / (p @ v).unsqueeze(-2) * R_y.unsqueeze(-2)
    return [torch.zeros_like(q), torch.zeros_like(k), messages.sum(-3)]


def _samples() -> list[Call]:
    g = torch.Generator().manual_seed(10)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    q, k, v = draw(2, 2, 4, 3), draw(2, 2, 5, 3), draw(2, 2, 5, 3)
    mask = torch.tensor([True, True, False, True, True]).expand(2, 1, 4, 5)
    return [
        sample(aten.scaled_dot_product_attention.default, q, k, v, carriers=(0, 1, 2)),
        sample(aten.scaled_dot_product_attention.default, q, k, v, mask, carriers=(0, 1, 2)),
        sample(
            aten.scaled_dot_product_attention.default, q, k[:, :, :4], v[:, :, :4], None, 0.0, True, carriers=(0, 1, 2)
        ),
    ]


def _calls() -> list[Call]:
    """Shared keys, a scale, biases that carry and that do not, and parts that carry nothing."""
    q, k, v, bias = draw(2, 4, 5, 3), draw(2, 4, 6, 3, seed=1), draw(2, 4, 6, 3, seed=2), draw(2, 1, 5, 6, seed=3)
    op, every = aten.scaled_dot_product_attention.default, (0, 1, 2)
    return [
        sample(op, q, k[:, :2], v[:, :2], carriers=every, enable_gqa=True, scale=0.7),
        sample(op, q, k, v, bias, carriers=every),
        sample(op, q, k, v, bias, carriers=(*every, 3)),
        sample(op, q, k, v, carriers=(2,)),
        sample(op, q, k, v, carriers=(0, 2), factors={0: 2, 2: 3}),
    ]


register(
    Rule(
        name="attention.taylor",
        kind="attention",
        law="o = softmax(q k^T s + b) v; c(q) = w_p w_q dq, c(k) = w_p w_k dk, c(v) = w_v dv, d the kernel's gradient",
        cites=("achtibat2024",),
        ops=OPS,
        surrogate=_taylor,
        sinks=("softmax", "bias"),
        remainder="softmax",
        audit=_audit,
        reference=_reference,
        samples=_samples,
        calls=_calls,
        weights=lambda call: scores_and_weights(call)[1].nan_to_num(),
        chain=chain,
    ),
    Rule(
        name="attention.frozen",
        kind="attention",
        law="o = frozen(p) v; c(v) = p^T c(o)",
        cites=("ali2022",),
        ops=OPS,
        surrogate=_frozen_weights,
        reference=_reference_frozen,
        samples=_samples,
        calls=_calls,
        chain=lambda factors, facts: factors.get(2, 1),
    ),
)
