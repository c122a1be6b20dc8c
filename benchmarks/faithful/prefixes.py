"""Next-token logits of many texts that begin alike: what a causal model makes of a beginning is computed once.

Texts are the leaves of a tree whose nodes are tokens. Many of its nodes go to the model as one row, in which each sees
those that stand before it in its text, at the places that they have there. Texts with some tokens replaced, in the
orders of rankings that agree in part, have about half as many nodes as tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

#: Nodes that are asked together: enough for products to be efficient, few enough for attention between all to be cheap.
NODES = 640


def answers(model: Any, ids: Tensor, nodes: int = NODES) -> Tensor:
    """(M, V): the logits of what follows texts (M, T) without padding. ``model``: a causal one of transformers, which
    takes a mask between all tokens.
    """
    unique, which = torch.unique(ids, dim=0, return_inverse=True)  # sorted, so neighbours begin alike
    found = [_asked(model, part) for part in _parts(unique, nodes)]
    return torch.cat(found)[which]


def shared(texts: Tensor) -> Tensor:
    """(M,): how many first tokens each of sorted texts (M, T) has in common with the one before it."""
    same = (texts[1:] == texts[:-1]).long().cumprod(1).sum(1)
    return torch.cat([same.new_zeros(1), same])


def _parts(texts: Tensor, nodes: int) -> Iterator[Tensor]:
    """Consecutive texts whose tree has at most so many nodes; a single one may have more."""
    length, first, count = texts.shape[1], 0, 0
    for i, common in enumerate(shared(texts).tolist()):
        new = length - (common if i > first else 0)
        if i > first and count + new > nodes:
            yield texts[first:i]
            first, count, new = i, 0, length
        count += new
    yield texts[first:]


def _asked(model: Any, texts: Tensor) -> Tensor:
    length = texts.shape[1]
    paths: list[Tensor] = []
    count = 0
    for common in shared(texts).tolist():
        own = torch.arange(count, count + length - common)
        paths.append(torch.cat([paths[-1][:common], own]) if paths else own)
        count += length - common
    places = torch.stack(paths)
    ids, depth = (torch.zeros(count, dtype=torch.int64) for _ in range(2))
    ids[places], depth[places] = texts, torch.arange(length).expand_as(places)
    hidden = torch.full((count, count), torch.finfo(torch.float32).min)
    before = torch.ones(length, length, dtype=torch.bool).tril()
    for path in paths:
        hidden[path.unsqueeze(1).expand_as(before)[before], path.expand_as(before)[before]] = 0
    logits: Tensor = model(
        input_ids=ids[None],
        position_ids=depth[None],
        attention_mask=hidden[None, None],
        logits_to_keep=places[:, -1],
        use_cache=False,
    ).logits[0]
    return logits
