"""Spellings of ``table[arange(tokens)]``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from testing.spellings.common import Placed as host  # noqa: F401


def embedding(tokens: int, table: Tensor) -> Tensor:
    return F.embedding(torch.arange(tokens), table)


def indexed(tokens: int, table: Tensor) -> Tensor:
    return table[torch.arange(tokens)]


def cut(tokens: int, table: Tensor) -> Tensor:
    return table[:tokens]


def narrowed(tokens: int, table: Tensor) -> Tensor:
    return table.narrow(0, 0, tokens)


def selected(tokens: int, table: Tensor) -> Tensor:
    return torch.index_select(table, 0, torch.arange(tokens))


def gathered(tokens: int, table: Tensor) -> Tensor:
    return table.gather(0, torch.arange(tokens)[:, None].expand(-1, table.shape[1]))


def one_hot(tokens: int, table: Tensor) -> Tensor:
    return F.one_hot(torch.arange(tokens), table.shape[0]).to(table.dtype) @ table


def rows_of_the_identity(tokens: int, table: Tensor) -> Tensor:
    return torch.eye(table.shape[0], dtype=table.dtype)[torch.arange(tokens)] @ table


def compared(tokens: int, table: Tensor) -> Tensor:
    return (torch.arange(tokens)[:, None] == torch.arange(table.shape[0])).to(table.dtype) @ table


def compared_and_added_up(tokens: int, table: Tensor) -> Tensor:
    told = torch.arange(tokens)[:, None] == torch.arange(table.shape[0])
    return (told[..., None] * table).sum(-2)


SPELLINGS = (
    embedding,
    indexed,
    cut,
    narrowed,
    selected,
    gathered,
    one_hot,
    rows_of_the_identity,
    compared,
    compared_and_added_up,
)
