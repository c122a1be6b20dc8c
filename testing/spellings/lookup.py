"""Spellings of ``table[input_ids]``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from testing.spellings.common import VOCABULARY
from testing.spellings.common import Embedded as host  # noqa: F401


def embedding(input_ids: Tensor, table: Tensor) -> Tensor:
    return F.embedding(input_ids, table)


def indexed(input_ids: Tensor, table: Tensor) -> Tensor:
    return table[input_ids]


def selected(input_ids: Tensor, table: Tensor) -> Tensor:
    return table.index_select(0, input_ids.flatten()).unflatten(0, input_ids.shape)


def one_hot(input_ids: Tensor, table: Tensor) -> Tensor:
    return F.one_hot(input_ids, VOCABULARY).to(table.dtype) @ table


def one_hot_einsum(input_ids: Tensor, table: Tensor) -> Tensor:
    return torch.einsum("btv,vd->btd", F.one_hot(input_ids, VOCABULARY).to(table.dtype), table)


def rows_of_the_identity(input_ids: Tensor, table: Tensor) -> Tensor:
    return torch.eye(VOCABULARY, dtype=table.dtype)[input_ids] @ table


def scattered(input_ids: Tensor, table: Tensor) -> Tensor:
    return torch.zeros(*input_ids.shape, VOCABULARY, dtype=table.dtype).scatter_(-1, input_ids[..., None], 1.0) @ table


def compared(input_ids: Tensor, table: Tensor) -> Tensor:
    return (input_ids[..., None] == torch.arange(VOCABULARY)).to(table.dtype) @ table


def compared_and_chosen(input_ids: Tensor, table: Tensor) -> Tensor:
    return torch.where(input_ids.unsqueeze(-1).eq(torch.arange(VOCABULARY)), 1.0, 0.0).to(table.dtype) @ table


def compared_with_codes_in_another_order(input_ids: Tensor, table: Tensor) -> Tensor:
    codes = torch.arange(VOCABULARY).flip(0)
    return (input_ids[..., None] == codes).to(table.dtype) @ table.flip(0)


def columns(input_ids: Tensor, table: Tensor) -> Tensor:
    return table.t()[:, input_ids].permute(1, 2, 0)


def selected_columns(input_ids: Tensor, table: Tensor) -> Tensor:
    return table.t().index_select(1, input_ids.flatten()).t().unflatten(0, input_ids.shape)


SPELLINGS = (
    embedding,
    indexed,
    selected,
    one_hot,
    one_hot_einsum,
    rows_of_the_identity,
    scattered,
    compared,
    compared_and_chosen,
    compared_with_codes_in_another_order,
    columns,
    selected_columns,
)
