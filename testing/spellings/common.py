"""The small models that spellings are put into: table and positions -> projection -> spelling -> head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

VOCABULARY, LENGTH, WIDTH, HEADS, CLASSES = 11, 5, 8, 2, 3
Spelling = Callable[..., Tensor]


class Tokens(nn.Module):
    """Content and position as the sum of two tables, and a head on the mean over tokens."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__()
        self.spelling = spelling
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(LENGTH + 3, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def embed(self, input_ids: Tensor) -> Tensor:
        x: Tensor = self.table(input_ids) + self.positions(torch.arange(input_ids.shape[1]))
        return x

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.between(self.embed(input_ids)).mean(1))
        return logits

    def between(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Embedded(Tokens):
    """x + Wx; the spelling looks up the rows of tokens."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.project = nn.Linear(WIDTH, WIDTH)

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.spelling(input_ids, self.table.weight) + self.positions(torch.arange(input_ids.shape[1]))

    def between(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.project(x))


class Placed(Embedded):
    """The same; the spelling looks up the rows of places, given how many there are."""

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids) + self.spelling(input_ids.shape[1], self.positions.weight)  # type: ignore[no-any-return]


class Normalised(Tokens):
    """x + norm(Wx) with weight (and bias) of the norm given to the spelling."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.project = nn.Linear(WIDTH, WIDTH)
        self.weight = nn.Parameter(torch.randn(WIDTH))
        self.bias = nn.Parameter(torch.randn(WIDTH))

    def between(self, x: Tensor) -> Tensor:
        return x + self.spelling(self.project(x), self.weight, self.bias)


class Activated(Tokens):
    """x + V act(Wx)."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def between(self, x: Tensor) -> Tensor:
        return x + self.down(self.spelling(self.up(x)))  # type: ignore[no-any-return]


class Gated(Tokens):
    """x + V gate(Wx), the spelling takes the fused projection apart."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.fused, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def between(self, x: Tensor) -> Tensor:
        return x + self.down(self.spelling(self.fused(x)))  # type: ignore[no-any-return]


class Highway(Tokens):
    """A gate, a map and what passes by, each of tokens; the spelling is given all three."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.gate, self.map = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def between(self, x: Tensor) -> Tensor:
        return self.spelling(torch.sigmoid(self.gate(x)), torch.relu(self.map(x)), x)


class Attending(Tokens):
    """One attention of several heads; the spelling is given q, k and v as (B, H, T, d)."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def between(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        return x + self.o(self.attend(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.spelling(q, k, v)


class GatedAttention(Attending):
    """The same with a gate of each element; the spelling is given it, too."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.gate = nn.Linear(WIDTH, WIDTH)

    def between(self, x: Tensor) -> Tensor:
        u, q, k, v = (w(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for w in (self.gate, self.q, self.k, self.v))
        return x + self.o(self.spelling(u, q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Softmaxed(Attending):
    """The same with only the softmax spelled differently."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.spelling(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5) @ v


class Sunk(Attending):
    """A score of its own for each head beside the scores of the keys; the spelling gives the weights of the keys."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.sink = nn.Parameter(torch.randn(HEADS))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.spelling(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, self.sink) @ v


class Rotated(Attending):
    """Rotary positions on q and k (four features per head), no table of positions."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.register_buffer("frequencies", 100.0 ** -torch.arange(0, 1, 0.5, dtype=torch.float64))
        angles = torch.arange(32)[:, None] * self.frequencies
        self.register_buffer("cosines", torch.cat([angles, angles], -1).cos())
        self.register_buffer("sines", torch.cat([angles, angles], -1).sin())

    def embed(self, input_ids: Tensor) -> Tensor:
        x: Tensor = self.table(input_ids)
        return x

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = (self.spelling(t, torch.arange(t.shape[2]), self.frequencies, self.cosines, self.sines) for t in (q, k))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)


class RelativeRows(Attending):
    """Queries meet a row of a table for each distance, the spelling gives their part of the scores; no other
    position.
    """

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.rows = nn.Parameter(torch.randn(2 * LENGTH + 1, WIDTH // HEADS))

    def embed(self, input_ids: Tensor) -> Tensor:
        x: Tensor = self.table(input_ids)
        return x

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        place = torch.arange(q.shape[2])
        row = place[:, None] - place[None, :] + LENGTH
        return torch.softmax(q @ k.mT + self.spelling(q, self.rows, row), -1) @ v


class Routed(Tokens):
    """x + experts(x): the spelling is given x, the scores of three experts, and their maps (experts, out, in)."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.router = nn.Linear(WIDTH, 3, bias=False)
        self.gate, self.up, self.down = (
            nn.Parameter(torch.randn(3, *shape)) for shape in ((6, WIDTH), (6, WIDTH), (WIDTH, 6))
        )

    def between(self, x: Tensor) -> Tensor:
        return x + self.spelling(x, self.router(x), self.gate, self.up, self.down)


def build(host: type[Tokens], spelling: Spelling) -> Tokens:
    """The model with the same weights for every spelling, in float64."""
    torch.manual_seed(0)
    return host(spelling).double().eval()


def input_ids() -> Tensor:
    return torch.randint(0, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(1))
