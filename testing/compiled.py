"""Compiled programs: transformers whose algorithm is known, as nobody trained them (examples/models/compiled_*)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

#: Letters behind BOS.
LETTERS = 5
_PARTS = {
    "q": "attn.query",
    "k": "attn.key",
    "v": "attn.value",
    "o": "attn.linear",
    "up": "mlp.linear_1",
    "down": "mlp.linear_2",
}


class _Block(nn.Module):
    def __init__(self, weights: dict[str, Tensor], number: int, scale: float, fused: bool) -> None:
        super().__init__()
        self.scale, self.fused = scale, fused
        for mine, name in _PARTS.items():
            w, b = (weights[f"layer_{number}.{name}.{part}"] for part in "wb")
            layer = nn.Linear(*w.shape)
            layer.weight.data, layer.bias.data = w.T.clone(), b.clone()
            setattr(self, mine, layer)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.fused:
            heads = (t[:, None] for t in (q, k, v))
            mixed = nn.functional.scaled_dot_product_attention(*heads, scale=self.scale)[:, 0]
        else:
            mixed = (q @ k.transpose(-1, -2) * self.scale).softmax(-1) @ v
        x = x + self.o(mixed)
        return x + self.down(torch.relu(self.up(x)))  # type: ignore[no-any-return]


class Compiled(nn.Module):
    """Tokens (B, 6), BOS first -> logits (B, 6, classes)."""

    def __init__(self, folder: Path, fused: bool = False) -> None:
        super().__init__()
        about: dict[str, Any] = json.loads((folder / "program.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "weights.safetensors")
        self.tokens = nn.Embedding.from_pretrained(weights["token_embed.embeddings"])
        self.positions = nn.Embedding.from_pretrained(weights["pos_embed.embeddings"])
        scale = about["key_size"] ** -0.5
        self.blocks = nn.ModuleList(_Block(weights, i, scale, fused) for i in range(about["layers"]))
        read = [j for j, label in enumerate(about["labels"]) if label.startswith(("reverse_", "sort_"))]
        self.head = nn.Linear(len(about["labels"]), len(read), bias=False)
        self.head.weight.data = torch.eye(len(about["labels"]))[read]
        self.classes = [about["labels"][j].split(":")[1] for j in read]
        self.vocabulary: dict[str, int] = about["enc"]
        self.double().eval()

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(x)  # type: ignore[no-any-return]


def words(model: Compiled, count: int, seed: int = 0) -> Tensor:
    """(count, 6): BOS and different letters, drawn."""
    g = torch.Generator().manual_seed(seed)
    letters = torch.tensor([number for token, number in model.vocabulary.items() if len(token) == 1])
    rows = [letters[torch.randperm(len(letters), generator=g)[:LETTERS]] for _ in range(count)]
    return torch.cat([torch.full((count, 1), model.vocabulary["BOS"]), torch.stack(rows)], 1)
