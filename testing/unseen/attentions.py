"""Attention in many styles: einsum, loops, odd chunks, complex rotation, differential, sigmoid, a sink, latent keys and
values, tied maps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from testing.handmade import ready
from testing.unseen.common import CLASSES, HEADS, VOCABULARY, WIDTH, Case, Text, written_as

HEAD = WIDTH // HEADS


class Einsum(nn.Module):
    """Everything by einsum: statistics, attention, projections; q, k, v interleaved in one map; complex rotation; ``x *
    sigmoid(x)``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words, self.scale = nn.Embedding(VOCABULARY, WIDTH), nn.Parameter(torch.ones(WIDTH))
        self.qkv, self.out = (
            nn.Parameter(torch.ones(HEADS, HEAD, 3, WIDTH)),
            nn.Parameter(torch.ones(WIDTH, HEADS, HEAD)),
        )
        self.up, self.down, self.head = (
            nn.Parameter(torch.ones(2, 12, WIDTH)),
            nn.Parameter(torch.ones(WIDTH, 12)),
            nn.Linear(WIDTH, CLASSES),
        )

    def norm(self, x: Tensor) -> Tensor:
        square = torch.einsum("bsd,bsd->bs", x, x) / x.shape[-1]
        return torch.einsum("bsd,bs,d->bsd", x, torch.rsqrt(square + 1e-5), self.scale)

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.outer(
            torch.arange(x.shape[1], dtype=x.dtype), 100.0 ** -torch.arange(0, 1, 2 / HEAD, dtype=x.dtype)
        )
        turned = (
            torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
            * torch.polar(torch.ones_like(angles), angles)[:, None]
        )
        return torch.view_as_real(turned).flatten(-2)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = torch.einsum("bsd,hxcd->cbshx", x, self.qkv)
        scores = torch.einsum("bshx,bthx->bhst", self.turn(q), self.turn(k)) / HEAD**0.5
        mixed = torch.einsum("bhst,bthx->bshx", scores.softmax(-1), v)
        return torch.einsum("bshx,dhx->bsd", mixed, self.out)

    def feed(self, x: Tensor) -> Tensor:
        a, g = torch.einsum("bsd,ced->cbse", x, self.up)
        return torch.einsum("bse,de->bsd", a * (g * torch.sigmoid(g)), self.down)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        x = x + self.attend(self.norm(x))
        x = x + self.feed(self.norm(x))
        return self.head(self.norm(x)[:, -1])  # type: ignore[no-any-return]


class Looped(Einsum):
    """The same by matrix products, a loop over heads, real rotation, torch's own functions."""

    def norm(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.scale, 1e-5)

    def turn(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * 100.0 ** -torch.arange(
            0, 1, 2 / HEAD, dtype=x.dtype
        )
        cos, sin, a, b = angles.cos(), angles.sin(), x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)

    def attend(self, x: Tensor) -> Tensor:
        result = torch.zeros_like(x)
        for h in range(HEADS):
            q, k, v = (F.linear(x, self.qkv[h, :, i]) for i in range(3))
            weights = F.softmax(self.turn(q) @ self.turn(k).transpose(1, 2) * HEAD**-0.5, dim=-1)
            result = result + (weights @ v) @ self.out[:, h].T
        return result

    def feed(self, x: Tensor) -> Tensor:
        a, g = F.linear(x, self.up.flatten(0, 1)).chunk(2, -1)
        return F.linear(F.silu(g) * a, self.down)


class Differential(Text):
    """Two softmaxes, the second taken off; heads normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, n, bias=False) for n in (2 * WIDTH, 2 * WIDTH, WIDTH, WIDTH))
        self.a, self.b = nn.Parameter(torch.zeros(HEAD)), nn.Parameter(torch.zeros(HEAD))

    def strength(self) -> Tensor:
        return torch.exp((self.a * self.b).sum()) - 0.3

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k = (w(x).unflatten(-1, (2, HEADS, HEAD)).permute(2, 0, 3, 1, 4) for w in (self.q, self.k))
        return q, k, self.v(x).unflatten(-1, (HEADS, HEAD)).transpose(1, 2)

    def mixed(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        first, second = (q @ k.mT / HEAD**0.5).softmax(-1)
        return (first - self.strength() * second) @ v

    def between(self, x: Tensor) -> Tensor:
        y = F.rms_norm(self.mixed(x), (HEAD,), eps=1e-5) * 0.7
        return x + self.o(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class DifferentialApart(Differential):
    """Two attentions, the difference of what they give; fused kernels."""

    def mixed(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return (
            F.scaled_dot_product_attention(q[0], k[0], v)
            - F.scaled_dot_product_attention(q[1], k[1], v) * self.strength()
        )


class Sigmoid(Text):
    """Sigmoid attention: no normalisation over keys."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.shift = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.Parameter(torch.zeros(HEADS, 1, 1)),
        )

    def between(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        return x + (torch.sigmoid(q @ k.mT / HEAD**0.5 + self.shift) @ v).transpose(1, 2).flatten(2)


class SigmoidWritten(Sigmoid):
    def between(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (HEADS, -1)) for w in (self.q, self.k, self.v))
        heads = []
        for h, shift in enumerate(self.shift.flatten()):
            scores = torch.einsum("btd,bsd->bst", k[:, :, h], q[:, :, h] / HEAD**0.5) + shift
            heads.append(torch.einsum("bst,btd->bsd", 1 / (1 + torch.exp(-scores)), v[:, :, h]))
        return x + torch.cat(heads, -1)


class Sink(Text):
    """A learned logit beside the scores, cut off after the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.sink = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, HEAD),
            nn.Linear(WIDTH, HEAD),
            nn.Parameter(torch.zeros(HEADS)),
        )

    def weights(self, scores: Tensor) -> Tensor:
        sink = self.sink.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        return torch.cat([scores, sink], -1).softmax(-1)[..., :-1]

    def between(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        k, v = (w(x)[:, None].expand(-1, HEADS, -1, -1) for w in (self.k, self.v))
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        mixed = self.weights((q @ k.mT * HEAD**-0.5).masked_fill(later, float("-inf"))) @ v
        return x + mixed.transpose(1, 2).flatten(2)


class SinkFirst(Sink):
    def weights(self, scores: Tensor) -> Tensor:
        sink = self.sink[:, None, None].repeat(scores.shape[0], 1, scores.shape[2], 1).view(*scores.shape[:-1], 1)
        logits = torch.cat([sink, scores], dim=-1)
        logits = logits - logits.max(dim=-1, keepdim=True).values
        return F.softmax(logits, dim=-1)[:, :, :, 1:]


class Latent(nn.Module):
    """Multi-head latent attention: keys and values from one normalised latent, a rotated key shared by all heads."""

    RANK = 6

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.q, self.down = nn.Linear(WIDTH, HEADS * (HEAD + 2)), nn.Linear(WIDTH, self.RANK + 2)
        self.norm, self.up, self.out = (
            nn.RMSNorm(self.RANK, eps=1e-5),
            nn.Linear(self.RANK, HEADS * 2 * HEAD, bias=False),
            nn.Linear(WIDTH, WIDTH),
        )

    def turn(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None]
        return x * angle.cos() + torch.cat([-x[..., 1:], x[..., :1]], -1) * angle.sin()

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        q, q_turned = self.q(x).unflatten(-1, (HEADS, -1)).transpose(1, 2).split([HEAD, 2], -1)
        latent, k_turned = self.down(x).split([self.RANK, 2], -1)
        extra = self.turn(q_turned) @ self.turn(k_turned)[:, None].mT
        mixed = self.attend(q, self.norm(latent), extra)
        return self.head((x + self.out(mixed.transpose(1, 2).flatten(2)))[:, -1])  # type: ignore[no-any-return]

    def attend(self, q: Tensor, latent: Tensor, extra: Tensor) -> Tensor:
        k, v = self.up(latent).unflatten(-1, (HEADS, -1)).transpose(1, 2).split([HEAD, HEAD], -1)
        return ((q @ k.mT + extra) * (HEAD + 2) ** -0.5).softmax(-1) @ v  # type: ignore[no-any-return]


class Absorbed(Latent):
    """The up-projection moved to the queries and behind the weighted sum: keys and values are never made."""

    def attend(self, q: Tensor, latent: Tensor, extra: Tensor) -> Tensor:
        to_key, to_value = self.up.weight.unflatten(0, (HEADS, -1)).split([HEAD, HEAD], 1)
        scores = torch.einsum("bhsx,hxr,btr->bhst", q, to_key, latent) + extra
        mixed = torch.einsum("bhst,btr->bhsr", (scores / (HEAD + 2) ** 0.5).softmax(-1), latent)
        return torch.einsum("bhsr,hxr->bhsx", mixed, to_value)


class Tied(Text):
    """One map for queries, keys and values: every product is of a value with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(WIDTH, WIDTH)

    def between(self, x: Tensor) -> Tensor:
        h = self.map(x)
        return x + F.scaled_dot_product_attention(h, h, h)


class TiedWritten(Tied):
    def between(self, x: Tensor) -> Tensor:
        h = self.map(x)
        scores = (h.unsqueeze(-2) * h.unsqueeze(-3)).sum(-1) / WIDTH**0.5
        return x + (scores.softmax(-1).unsqueeze(-1) * h.unsqueeze(-3)).sum(-2)


class TiedMatrices(Tied):
    def between(self, x: Tensor) -> Tensor:
        h = self.map(x)
        return x + (h @ h.transpose(1, 2) / WIDTH**0.5).softmax(-1) @ h  # type: ignore[no-any-return]


CASES = [
    Case(
        "einsum throughout",
        lambda: ready(Einsum()),
        written_as(Looped),
        {"attention": 1, "normalisation": 3, "gate": 1, "position": 2},
    ),
    Case(
        "differential attention",
        lambda: ready(Differential()),
        written_as(DifferentialApart),
        {"normalisation": 1, "position": 1},
    ),
    Case("sigmoid attention", lambda: ready(Sigmoid()), written_as(SigmoidWritten), {"position": 1}),
    Case(
        "softmax with a sink",
        lambda: ready(Sink()),
        written_as(SinkFirst),
        {"attention": 1, "learned": 1, "position": 1},
    ),
    Case(
        "latent attention",
        lambda: ready(Latent()),
        written_as(Absorbed),
        {"attention": 1, "normalisation": 1, "position": 2},
    ),
    Case("tied maps", lambda: ready(TiedMatrices()), written_as(Tied), {"attention": 1, "gate": 0}),
    Case("tied maps, written out", lambda: ready(TiedMatrices()), written_as(TiedWritten), {"attention": 1, "gate": 0}),
]
