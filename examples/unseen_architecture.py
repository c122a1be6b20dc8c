"""A transformer that no library has seen.

Everything is written differently from the usual: attention with einsum, rotary positions as complex numbers, a learned
position table besides, RMS normalisation by hand, and a gated branch parallel to attention. Nothing is registered or
patched: operations are recognised by how data flows, and every single one is balanced (``conserve="site"``).

    python examples/unseen_architecture.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import lrp_fx

WIDTH, HEADS, LENGTH, VOCAB = 32, 4, 64, 50


class Block(nn.Module):
    """Attention and a gated branch side by side, both read the same normalised stream."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(1 + 0.1 * torch.randn(WIDTH))
        self.qkv = nn.Parameter(torch.randn(3, HEADS, WIDTH, WIDTH // HEADS) / WIDTH**0.5)
        self.out = nn.Parameter(torch.randn(HEADS, WIDTH // HEADS, WIDTH) / WIDTH**0.5)
        self.up, self.gate, self.down = nn.Linear(WIDTH, 48), nn.Linear(WIDTH, 48), nn.Linear(48, WIDTH)

    def forward(self, x: Tensor, angles: Tensor, keep: Tensor) -> Tensor:
        h = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6) ** 0.5 * self.gain
        q, k, v = torch.einsum("btd,nhde->nbhte", h, self.qkv)
        scores = torch.einsum("bhqe,bhke->bhqk", rotate(q, angles), rotate(k, angles)) / (WIDTH // HEADS) ** 0.5
        weights = scores.masked_fill(~keep, -1e9).softmax(-1)
        attended = torch.einsum("bhqk,bhke,hed->bqd", weights, v, self.out)
        return x + attended + self.down(torch.sigmoid(self.gate(h)) * self.up(h))


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions: pairs of features as complex numbers, turned by an angle that grows with the position."""
    turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(-2)


class Unseen(nn.Module):
    """Token classifier with two kinds of positions; the logits are read at the last token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(VOCAB, WIDTH), nn.Parameter(0.3 * torch.randn(LENGTH, WIDTH))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, 5)
        self.register_buffer("frequencies", 0.5 ** torch.arange(WIDTH // HEADS // 2))

    def forward(self, input_ids: Tensor) -> Tensor:
        steps = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.embed(input_ids) + self.places[steps]
        keep = steps.unsqueeze(0) <= steps.unsqueeze(1)
        for block in self.blocks:
            x = block(x, steps.unsqueeze(1) * self.frequencies, keep)
        return self.head(x[:, -1])


def main() -> None:
    torch.manual_seed(0)
    model = Unseen().eval()
    ids = torch.randint(0, VOCAB, (1, 9))

    explainer = lrp_fx.convert(model, conserve="site")
    relevance = explainer(input_ids=ids)
    relevance.show()

    print("recognised")
    for site in explainer.sites:
        print(f"  {site.kind:<14}{site.variant:<28}{site.module or 'model':<12}{site.rule}")
    print(f"only approximated: {explainer.coverage['unexplained'] or 'nothing'}")
    worst = relevance.ledger.worst_sites(1)[0]
    print(f"{len(relevance.ledger.sites)} sites balance; the worst is off by {worst.error:.1e} of what passes it")


if __name__ == "__main__":
    main()
