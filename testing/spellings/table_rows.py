"""Spellings of relative positions as rows of a table met by the queries: ``scores_ij += q_i . rows(i - j)`` (Shaw et
al. 2018).

Each is given q (B, H, T, d), the table (2 T - 1 or more rows, d) and the row of each pair (T, T); it gives (B, H, T,
T).
"""

from __future__ import annotations

import torch
from torch import Tensor

from testing.spellings.common import RelativeRows as host  # noqa: F401


def einsum(q: Tensor, table: Tensor, row: Tensor) -> Tensor:
    return torch.einsum("bhqd,qkd->bhqk", q, table[row])


def einsum_table_first(q: Tensor, table: Tensor, row: Tensor) -> Tensor:
    return torch.einsum("qkd,bhqd->bhqk", torch.nn.functional.embedding(row, table), q)


def einsum_tokens_first(q: Tensor, table: Tensor, row: Tensor) -> Tensor:
    return torch.einsum("qbhd,qkd->qbhk", q.permute(2, 0, 1, 3), table[row]).permute(1, 2, 0, 3)


def rows_of_one_matrix(q: Tensor, table: Tensor, row: Tensor) -> Tensor:
    """One product for each query, examples and heads together in the rows of a matrix."""
    b, h, t, d = q.shape
    rows = q.permute(2, 0, 1, 3).reshape(t, b * h, d) @ table[row].transpose(1, 2)
    return rows.reshape(t, b, h, t).permute(1, 2, 0, 3)


def columns_of_one_matrix(q: Tensor, table: Tensor, row: Tensor) -> Tensor:
    b, h, t, d = q.shape
    columns = torch.bmm(table[row], q.permute(2, 3, 0, 1).reshape(t, d, b * h))
    return columns.reshape(t, t, b, h).permute(2, 3, 0, 1)


def heads_in_rows(q: Tensor, table: Tensor, row: Tensor) -> Tensor:
    return (q.transpose(1, 2) @ table[row].mT).transpose(1, 2)


def one_row_at_a_time(q: Tensor, table: Tensor, row: Tensor) -> Tensor:
    return (q.unsqueeze(-2) @ table[row].mT).squeeze(-2)


def column_vectors(q: Tensor, table: Tensor, row: Tensor) -> Tensor:
    return (table[row] @ q.unsqueeze(-1)).squeeze(-1)


def picked_afterwards(q: Tensor, table: Tensor, row: Tensor) -> Tensor:
    """Every row of the table first, then those of the distances."""
    return (q @ table.T).gather(-1, row.expand(*q.shape[:2], -1, -1))


def picked_from_one_matrix(q: Tensor, table: Tensor, row: Tensor) -> Tensor:
    everything = torch.einsum("bhqd,rd->bhqr", q, table)
    return torch.gather(everything, 3, row[None, None].expand(*q.shape[:3], -1))


def multiplied_and_added_up(q: Tensor, table: Tensor, row: Tensor) -> Tensor:
    return (q.unsqueeze(-2) * table[row]).sum(-1)


SPELLINGS = [
    einsum, einsum_table_first, einsum_tokens_first, rows_of_one_matrix, columns_of_one_matrix, heads_in_rows,
    one_row_at_a_time, column_vectors, picked_afterwards, picked_from_one_matrix,
]  # fmt: skip
