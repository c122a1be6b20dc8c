"""Mixtures of experts, squeeze and excitation, streams beside each other, several outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from testing.handmade import ready
from testing.unseen.common import WIDTH, Case, Text, written_as

EXPERTS, HIDDEN = 4, 6


class Experts(Text):
    """Two of four experts for each token, their weights renormalised: a loop over experts, each on all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.gate, self.up = (
            nn.Parameter(torch.zeros(EXPERTS, HIDDEN, WIDTH)),
            nn.Parameter(torch.zeros(EXPERTS, HIDDEN, WIDTH)),
        )
        self.down = nn.Parameter(torch.zeros(EXPERTS, WIDTH, HIDDEN))

    def expert(self, e: int, x: Tensor) -> Tensor:
        return F.linear(F.silu(F.linear(x, self.gate[e])) * F.linear(x, self.up[e]), self.down[e])

    def between(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).softmax(-1).topk(2, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        result = torch.zeros_like(x)
        for e in range(EXPERTS):
            share = torch.where(chosen == e, weights, 0.0).sum(-1, keepdim=True)
            result = result + share * self.expert(e, x)
        return x + result


class DenseExperts(Experts):
    """All experts at once by einsum, routed by one-hot vectors; softmax over the chosen logits only."""

    def between(self, x: Tensor) -> Tensor:
        logits, chosen = torch.topk(self.router(x), 2, dim=-1)
        share = torch.einsum("bsk,bske->bse", logits.softmax(-1), F.one_hot(chosen, EXPERTS).to(x.dtype))
        inner = F.silu(torch.einsum("bsd,ehd->bseh", x, self.gate)) * torch.einsum("bsd,ehd->bseh", x, self.up)
        return x + torch.einsum("bse,bseh,edh->bsd", share, inner, self.down)


class Excited(nn.Module):
    """Convolutions over a sequence of vectors, channels gated by what is in the whole sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite, self.head = (
            nn.Conv1d(WIDTH, 6, 3, padding=1),
            nn.Linear(6, 3),
            nn.Linear(3, 6),
            nn.Linear(6, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x.transpose(1, 2)))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean(-1)))))
        return self.head((y * gate.unsqueeze(-1)).amax(-1))  # type: ignore[no-any-return]


class ExcitedWritten(Excited):
    """Convolution as a matrix product of windows, adaptive pooling, 1 x 1 maps, the gate by einsum."""

    def forward(self, x: Tensor) -> Tensor:
        windows = F.pad(x, (0, 0, 1, 1)).unfold(1, 3, 1)
        y = F.relu(torch.einsum("btik,oik->bot", windows, self.conv.weight) + self.conv.bias[:, None])
        pooled = F.adaptive_avg_pool1d(y, 1)
        small = F.relu(F.conv1d(pooled, self.squeeze.weight[..., None], self.squeeze.bias))
        gate = F.conv1d(small, self.excite.weight[..., None], self.excite.bias).sigmoid().squeeze(-1)
        return self.head(torch.einsum("bct,bc->bct", y, gate).max(-1).values)  # type: ignore[no-any-return]


class Streams(Text):
    """Three residual streams beside each other, mixed by learned and by computed weights (hyper-connections)."""

    N = 3

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.take, self.give = (
            nn.Parameter(torch.zeros(2, self.N, self.N)),
            nn.Parameter(torch.zeros(2, self.N)),
            nn.Linear(WIDTH, self.N),
        )
        self.norm, self.layers = (
            nn.RMSNorm(WIDTH, eps=1e-5),
            nn.ModuleList([nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH)) for _ in range(2)]),
        )

    def between(self, x: Tensor) -> Tensor:
        streams = x.unsqueeze(-2).expand(-1, -1, self.N, -1)
        for i, layer in enumerate(self.layers):
            read = torch.einsum("n,btnd->btd", self.take[i], streams)
            given = torch.tanh(self.give(self.norm(read)))
            streams = torch.einsum("mn,btnd->btmd", self.mix[i], streams) + given.unsqueeze(-1) * layer(read).unsqueeze(
                -2
            )
        return streams.sum(-2)


class StreamsApart(Streams):
    """The streams in a list."""

    def between(self, x: Tensor) -> Tensor:
        streams = [x] * self.N
        for i, layer in enumerate(self.layers):
            read = sum(self.take[i, n] * s for n, s in enumerate(streams))
            assert isinstance(read, Tensor)
            written = layer(read)
            given = self.give(self.norm(read)).tanh()
            mixed = [torch.stack([self.mix[i, m, n] * streams[n] for n in range(self.N)]).sum(0) for m in range(self.N)]
            streams = [s + written * given[..., m : m + 1] for m, s in enumerate(mixed)]
        return streams[0] + streams[1] + streams[2]


@dataclass
class Answer:
    pooled: Tensor
    scores: dict[str, Tensor]


torch.utils._pytree.register_dataclass(Answer)


class Several(Text):
    """Several outputs in a record; the second is explained."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, input_ids: Tensor) -> Answer:
        x = self.embed(input_ids)
        x = x + x * torch.sigmoid(self.up(x))
        return Answer(x.mean(1), {"tokens": x, "first": self.head(x.mean(1)), "second": self.other(x[:, -1])})


class SeveralApart(Several):
    def forward(self, input_ids: Tensor) -> Answer:
        x = self.embed(input_ids)
        x = x * (1 / (1 + (-self.up(x)).exp())) + x
        return Answer(
            x.mean(1),
            {
                "tokens": x,
                "first": self.head(x.mean(1)),
                "second": F.linear(x, self.other.weight, self.other.bias)[:, -1],
            },
        )


def sequences(batch: int, length: int) -> dict[str, Tensor]:
    return {
        "x": torch.randn(
            batch, length, WIDTH, generator=torch.Generator().manual_seed(batch * 100 + length), dtype=torch.float64
        )
    }


CASES = [
    Case("mixture of experts", lambda: ready(Experts()), written_as(DenseExperts), {"router": 1}),
    Case("squeeze and excitation", lambda: ready(Excited()), written_as(ExcitedWritten), {"gate": 1}, sequences),
    Case("streams beside each other", lambda: ready(Streams()), written_as(StreamsApart), {"normalisation": 2}),
    Case("several outputs", lambda: ready(Several()), written_as(SeveralApart), {"gate": 1}, output="second"),
]
