"""A small model written by hand, and functions that inject position into its tokens, queries and keys, or scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from testing.architectures import VOCAB

WIDTH, HEADS = 32, 4
HEAD = WIDTH // HEADS


class Small(nn.Module):
    """Two pre-norm causal layers; functions inject position into tokens, queries and keys, or scores; ``parts`` are
    theirs.
    """

    def __init__(self, place: Any = None, turn: Any = None, scores: Any = None, **parts: Any) -> None:
        super().__init__()
        self.place, self.turn, self.scores = place, turn, scores
        self.embed, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, 3)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv, self.out = (nn.ModuleList(nn.Linear(WIDTH, n * WIDTH) for _ in range(2)) for n in (3, 1))
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, input_ids: Tensor) -> Any:
        x = self.embed(input_ids)
        x = self.place(self, x) if self.place else x
        n = x.shape[1]
        hidden = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        for norm, qkv, out in zip(self.norms, self.qkv, self.out, strict=True):
            q, k, v = (t.reshape(-1, n, HEADS, HEAD).transpose(1, 2) for t in qkv(norm(x)).chunk(3, -1))
            q, k = self.turn(q, k) if self.turn else (q, k)
            scores = self.scores(self, q, k) if self.scores else q @ k.transpose(-1, -2)
            x = x + out(((scores / HEAD**0.5).masked_fill(hidden, -1e9).softmax(-1) @ v).transpose(1, 2).flatten(2))
        return self.head(x[:, -1])


def steps(x: Tensor) -> Tensor:
    return torch.arange(x.shape[-2], device=x.device, dtype=x.dtype)


def angles(x: Tensor, width: int = HEAD, base: float | Tensor = 100.0) -> Tensor:
    return torch.outer(
        steps(x),
        torch.as_tensor(base, dtype=x.dtype) ** (-torch.arange(0, width, 2, device=x.device, dtype=x.dtype) / width),
    )


def sinusoids(x: Tensor) -> Tensor:
    a = angles(x, WIDTH)
    return torch.stack([a.sin(), a.cos()], -1).flatten(1)


def of_their_type(x: Tensor) -> Tensor:
    """Sinusoids in the type and the sizes of the values they are added to, which say nothing about those values."""
    return sinusoids(torch.zeros(1).type_as(x).expand_as(x[0]))[None].expand_as(x)


def interleaved(x: Tensor, angle: Tensor) -> Tensor:
    """Pairs of features at even and odd places turn, in four products joined by stack."""
    cos, sin, a, b = angle.cos(), angle.sin(), x[..., ::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)


def complex_numbers(x: Tensor, angle: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def half_split(x: Tensor, angle: Tensor) -> Tensor:
    (a, b), cos, sin = x.chunk(2, -1), angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    return x * cos + torch.cat([-b, a], -1) * sin


def rotary(
    how: Callable[[Tensor, Tensor], Tensor], base: Callable[[Tensor], Any] = lambda q: 100.0
) -> Callable[[], nn.Module]:
    return lambda: Small(turn=lambda q, k: (how(q, angles(q, base=base(q))), how(k, angles(k, base=base(q)))))


def longer(q: Tensor) -> Tensor:
    """Dynamic NTK: the base grows with the length of the text, by the length only."""
    return 100.0 * torch.clamp(torch.ones((), dtype=q.dtype) * q.shape[-2] / 4 * 2 - 1, min=1.0) ** (HEAD / (HEAD - 2))


def rows_and_columns(x: Tensor, angle: Tensor) -> Tensor:
    """Half of the features turn with the row, half with the column of tokens laid out in rows of five."""
    n, speeds = steps(x), angles(x, HEAD // 2)[1]
    places = torch.div(n, 5, rounding_mode="floor"), torch.remainder(n, 5)
    return torch.cat(
        [interleaved(part, torch.outer(place, speeds)) for part, place in zip(x.chunk(2, -1), places, strict=True)], -1
    )


def xpos(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation with a decay that cancels up to the distance: queries grow, keys shrink."""
    zeta = (torch.arange(0, HEAD, 2, dtype=q.dtype, device=q.device) + 0.4 * HEAD) / (1.4 * HEAD)
    scale = (zeta ** (steps(q) / 8)[:, None]).repeat(1, 2)
    return half_split(q, angles(q)) * scale, half_split(k, angles(k)) / scale


def distance(q: Tensor) -> Tensor:
    return steps(q)[:, None] - steps(q)


def linear(model: Any, q: Tensor, k: Tensor) -> Tensor:
    """ALiBi in the other spelling: minus the distance, times a slope per head."""
    slopes = 2.0 ** -torch.arange(1, HEADS + 1, dtype=q.dtype, device=q.device)
    return q @ k.transpose(-1, -2) - slopes[:, None, None] * distance(q).abs()


def network(model: Any, q: Tensor, k: Tensor) -> Tensor:
    signed_log = distance(q).sign() * distance(q).abs().log1p()
    bias: Tensor = model.net(signed_log.unsqueeze(-1)).permute(2, 0, 1)
    return q @ k.transpose(-1, -2) + bias


def transformer_xl(model: Any, q: Tensor, k: Tensor) -> Tensor:
    """Sinusoids of distances through a learned map, met by the queries; the rows are slid into place by reshaping."""
    n = q.shape[-2]
    r = model.map(sinusoids(q).flip(0)).reshape(n, HEADS, HEAD).transpose(0, 1)
    content: Tensor = (q + model.u) @ k.transpose(-1, -2)
    by_place = nn.functional.pad((q + model.v) @ r.transpose(-1, -2), (1, 0))
    return content + by_place.reshape(q.shape[0], HEADS, n + 1, n)[:, :, 1:]


def shaw(model: Any, q: Tensor, k: Tensor) -> Tensor:
    """A learned row per clipped distance, met by the queries (Shaw et al. 2018)."""
    return q @ k.transpose(-1, -2) + torch.einsum(
        "bhqd,qkd->bhqk", q, model.rows(distance(q).to(torch.int64).clamp(-4, 4) + 4)
    )


def sliced(model: Any, x: Tensor) -> Tensor:
    rows: Tensor = model.table[:, : x.shape[1]]
    return x + rows


def picked_flat(model: Any, x: Tensor) -> Tensor:
    """Rows for all tokens of all texts in one list, then laid out again."""
    place = torch.ones(x.shape[:2], dtype=torch.int64, device=x.device).cumsum(1)
    rows: Tensor = model.table[0].index_select(0, place.view(-1)).view(x.shape[0], x.shape[1], -1)
    return x + rows


def beside(model: Any, x: Tensor) -> Tensor:
    mixed: Tensor = model.mix(torch.cat([x, model.table[:, : x.shape[1]].expand_as(x)], -1))
    return mixed


def behind_prefix(model: Any, x: Tensor) -> Tensor:
    """Prompt tuning: learned tokens in front, positions for them and for the text."""
    return sliced(model, torch.cat([model.prefix.expand(x.shape[0], -1, -1), x], 1))


def table(n: int = 64, width: int = WIDTH) -> nn.Parameter:
    return nn.Parameter(torch.randn(1, n, width))
