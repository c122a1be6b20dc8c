"""A decoder with rotary positions explained by hand: the rules written into its forward, automatic differentiation as
it is.

Independent of the compiler (no graph, no rules folder), so that the two can be compared, and small enough to try other
ways of splitting a score between content and position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from testing.scoring import Sequences

#: How a rotated score is split: position takes nothing; half of each rotated vector (PA-LRP); what the rotation adds to
#: each vector; what the rotations add to the score of the unrotated vectors.
SPLITS = ("none", "half", "vectors", "scores")


class _Share(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] / 2


def half(x: Tensor) -> Tensor:
    """The value itself, with half of its coefficient: one of two factors of a product."""
    result: Tensor = _Share.apply(x)  # type: ignore[no-untyped-call]
    return result


@dataclass
class Site:
    """Position at one layer: ``leaves`` that carry it, attention weights ``p`` and coefficients ``c`` of the scores (B,
    H, T, T).
    """

    leaves: list[Tensor]
    pairwise: bool
    p: Tensor
    scores: Tensor
    tap: Tensor
    c: Tensor = field(default_factory=lambda: torch.zeros(()))
    coefficients: list[Tensor] = field(default_factory=list)


@dataclass
class Explained:
    """``score`` (B,), ``content`` (B, T), ``depths`` (layers + 1, B, T), and the position sites of all layers."""

    score: Tensor
    content: Tensor
    depths: Tensor
    sites: list[Site]

    def position(self, aggregate: Callable[[Tensor], Tensor], *, credit: str = "key", centred: bool = False) -> Tensor:
        """(B, T): position per token; ``aggregate`` sums (B, T, n) to (B, T). ``centred``: against the attention's
        mean.
        """
        found = torch.zeros_like(self.content)
        for site in self.sites:
            if site.pairwise:
                (b,), (c,) = site.leaves, site.coefficients
                reference = (site.p * b).sum(-1, keepdim=True) if centred else torch.zeros(())
                R = torch.where(c == 0, torch.zeros_like(b), (b - reference) * c)
                found = found + aggregate(R.movedim(-1 if credit == "key" else -2, 1).flatten(2))
            else:
                for pair in zip(
                    site.leaves[::2], site.leaves[1::2], site.coefficients[::2], site.coefficients[1::2], strict=True
                ):
                    found = found + aggregate(_by_plane(*pair))
        return found.detach()

    def centred_keys(self) -> Tensor:
        """(B, T): what reading keys against their attention-weighted mean moves between tokens; sums to zero.

        ``-1/2 sum_i c_ij sum_l p_il s_il`` for token j, half of a score being the key's.
        """
        moved = [-(s.c * (s.p * s.scores).sum(-1, keepdim=True)).sum((1, 2)) / 2 for s in self.sites]
        return torch.stack(moved).sum(0).detach()


def _by_plane(cos: Tensor, sin: Tensor, c_cos: Tensor, c_sin: Tensor) -> Tensor:
    R = (cos * c_cos + sin * c_sin).sum(1)
    return R[..., : R.shape[-1] // 2] + R[..., R.shape[-1] // 2 :]


def _rotate(x: Tensor) -> Tensor:
    h = x.shape[-1] // 2
    return torch.cat([-x[..., h:], x[..., :h]], -1)


def _leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def explain(model: Any, sequences: Sequences, split: str = "half") -> Explained:
    """Explain the true class of every sequence, in one batch, with AttnLRP's rules and one of `SPLITS` for
    positions.
    """
    config, ids, mask = model.config, sequences.ids, sequences.mask
    batch, length, width = *ids.shape, config.head_dim
    frequencies = config.rope_parameters["rope_theta"] ** (-torch.arange(0, width, 2) / width)
    angles = (torch.arange(length)[:, None] * frequencies).repeat(1, 2).expand(batch, 1, length, width)
    seen = torch.ones(length, length, dtype=torch.bool).tril() & mask.bool()[:, None, None]
    x = _leaf(model.model.embed_tokens(ids))
    stream, sites = [x], []
    for layer in model.model.layers:
        attended, site = _attention(layer.self_attn, _norm(x, layer.input_layernorm, config), angles, seen, split)
        x = x + attended
        h = _norm(x, layer.post_attention_layernorm, config)
        gate = layer.mlp.gate_proj(h)
        x = x + layer.mlp.down_proj(half(gate * torch.sigmoid(gate).detach()) * half(layer.mlp.up_proj(h)))
        stream.append(x)
        sites.append(site)
    logits = model.score(_norm(x, model.model.norm, config))
    score = logits[torch.arange(batch), mask.sum(1) - 1, sequences.labels]
    wanted = [*stream, *(s.tap for s in sites), *(leaf for s in sites for leaf in s.leaves)]
    grads = iter(torch.autograd.grad(score.sum(), wanted))
    depths = torch.stack([(x * next(grads)).sum(-1) for x in stream]).detach()
    for site in sites:
        site.c = next(grads)
    for site in sites:
        site.coefficients = [next(grads) for _ in site.leaves]
    return Explained(score.detach(), depths[0], depths, sites)


def _norm(x: Tensor, module: Any, config: Any) -> Tensor:
    statistic: Tensor = x.detach().square().mean(-1, keepdim=True)
    result: Tensor = x * torch.rsqrt(statistic + config.rms_norm_eps) * module.weight
    return result


def _attention(module: Any, h: Tensor, angles: Tensor, seen: Tensor, split: str) -> tuple[Tensor, Site]:
    batch, _, length, width = angles.shape
    q, k, v = (
        f(h).view(batch, length, -1, width).transpose(1, 2) for f in (module.q_proj, module.k_proj, module.v_proj)
    )
    k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    scores, leaves = _scores(q, k, angles, split)
    tap = torch.zeros_like(scores).requires_grad_()
    scores = scores / width**0.5 + tap
    p = torch.softmax(scores.masked_fill(~seen, float("-inf")), -1).detach()
    finite = scores.masked_fill(~seen, 0.0)
    tangent = p * (finite - (p * finite).sum(-1, keepdim=True))
    mixed = half(tangent + (p - tangent).detach()) @ half(v)
    return module.o_proj(mixed.transpose(1, 2).flatten(2)), Site(leaves, split == "scores", p, finite.detach(), tap)


def _scores(q: Tensor, k: Tensor, angles: Tensor, split: str) -> tuple[Tensor, list[Tensor]]:
    """Unscaled scores of rotated queries and keys, and the position leaves in them."""
    cos, sin = angles.cos(), angles.sin()
    rotated_q, rotated_k = (x * cos + _rotate(x) * sin for x in (q, k))
    if split == "none":
        return half(rotated_q) @ half(rotated_k).mT, []
    if split == "half":
        leaves = [_leaf(t) for t in (cos, sin, cos, sin)]
        rotated_q, rotated_k = (
            half(x) * half(a) + half(_rotate(x)) * half(b) for x, a, b in ((q, *leaves[:2]), (k, *leaves[2:]))
        )
        return half(rotated_q) @ half(rotated_k).mT, leaves
    if split == "vectors":
        moved = [
            _leaf(rotated_q - q),
            torch.zeros_like(q).requires_grad_(),
            _leaf(rotated_k - k),
            torch.zeros_like(k).requires_grad_(),
        ]
        return half(q + moved[0] + moved[1]) @ half(k + moved[2] + moved[3]).mT, moved
    content = half(q) @ half(k).mT
    added = _leaf(rotated_q @ rotated_k.mT - content)
    return content + added, [added]
