"""Biases between pairs of tokens, read against a reference: relevance that a constant added to a row cannot change.

A softmax ignores a constant added to all scores of a query, so ``b_ij`` and ``b_ij + t_i`` are the same position
information. ``R_ij = b_ij c_ij`` is not the same for both: with ``c_ij = p_ij (g_ij - sum_l p_il g_il)`` the row's
total does not move, because ``sum_j c_ij = 0``, but ``t_i c_ij`` is handed from key to key. Relevance against a
reference that moves with the row,

    R_ij = (b_ij - sum_l w_il b_il) c_ij,    sum_l w_il = 1,

keeps the total of every row and is the same for both. What the reference takes, ``c_ij sum_l w_il b_il``, sums to zero
in each row; it is booked in the sink ``reference``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, identity, register, sample


def _centred(b: Tensor, w: Tensor) -> Tensor:
    """``b`` less its mean under the weights ``w`` of each row; pairs without weight (masked: minus infinity) do not
    count.
    """
    return b - torch.where(w == 0, torch.zeros_like(b), b * w).sum(-1, keepdim=True)


def _attention_mean(call: Call) -> Tensor:
    b, p = call.args
    return _centred(b, p)


def _row_mean(call: Call) -> Tensor:
    b, p = call.args
    seen = (p > 0).to(b.dtype)
    return _centred(b, seen / seen.sum(-1, keepdim=True).clamp(min=1))


def _covariance(call: Call, R_b: Tensor) -> list[Tensor]:
    """``R_ij = p_ij (b_ij - mean_p b_i) (g_ij - mean_p g_i)`` from ``R_b = b c``: term by term over the keys,
    slowly.
    """
    b, p = call.args
    c = R_b / b
    keys = range(b.shape[-1])
    return [torch.stack([(b[..., j] - sum(p[..., k] * b[..., k] for k in keys)) * c[..., j] for j in keys], -1)]


def _against_row(call: Call, R_b: Tensor) -> list[Tensor]:
    b, _ = call.args
    return [torch.stack([(b[..., j] - b.mean(-1)) * R_b[..., j] / b[..., j] for j in range(b.shape[-1])], -1)]


def _samples() -> list[Call]:
    g = torch.Generator().manual_seed(21)
    b = torch.randn(2, 3, 4, 5, generator=g, dtype=torch.float64)
    return [sample(identity, b, torch.softmax(b + torch.randn(b.shape, generator=g, dtype=torch.float64), -1))]


register(
    Rule(
        name="bias.attention_mean",
        kind="leaf",
        law="R_ij = (b_ij - sum_l p_il b_il) c_ij = p_ij (b_ij - mean_p b_i) (g_ij - mean_p g_i), "
        "g the coefficient of the weights p",
        cites=("bakish2025",),
        ops=("bias",),
        surrogate=_attention_mean,
        sinks=("reference",),
        reference=_covariance,
        samples=_samples,
    ),
    Rule(
        name="bias.row_mean",
        kind="leaf",
        law="R_ij = (b_ij - mean_l b_il) c_ij, the mean over the keys that the query sees",
        cites=("bakish2025",),
        ops=("bias",),
        surrogate=_row_mean,
        sinks=("reference",),
        reference=_against_row,
        samples=_samples,
    ),
)
