"""Patches: position relevance of images laid back onto the picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lrp_fx.report.position import KEY, PositionSite

#: Leading entries of a patch sequence that are no patches (class tokens, registers), at most.
MAX_PREFIX = 8


def patch_grid(tokens: int, size: Sequence[int]) -> tuple[int, int, int] | None:
    """(prefix, rows, columns) of a sequence of ``tokens`` that holds a few leading tokens and then equal square patches
    of a
    picture of ``size`` (H, W), row by row; None if no such grid fits."""
    height, width = size
    for prefix in range(MAX_PREFIX + 1):
        for rows in range(2, height + 1):
            side = height // rows
            if height % rows == 0 and width % side == 0 and rows * (width // side) == tokens - prefix:
                return prefix, rows, width // side
    return None


def grid_of(site: PositionSite, tokens: int, size: Sequence[int]) -> tuple[int, int, int] | None:
    """The same of a site's tokens: what is added to a grid has its rows and columns."""
    if not site.grid:
        return patch_grid(tokens, size)
    fits = len(site.cells) == 2 and all(pixels % cells == 0 for pixels, cells in zip(size, site.cells, strict=True))
    return (0, site.cells[0], site.cells[1]) if fits else None


def position_map(
    sites: Sequence[PositionSite], size: Sequence[int], position: str, credit: str = KEY
) -> tuple[Tensor | None, tuple[int, int] | None]:
    """(B, H, W): position relevance of all sites that run over patches, each patch's spread evenly over its pixels; and
    the finest grid met. Rows of leading tokens (a class token's position) stand nowhere in the picture and are left
    out."""
    total: Tensor | None = None
    finest: tuple[int, int] | None = None
    for site in sites:
        share = site.per_token(position, credit)
        grid = None if share is None or site.owner(credit) is not None else grid_of(site, share.shape[1], size)
        if share is None or grid is None:
            continue
        prefix, rows, columns = grid
        cells = share[:, prefix:].reshape(-1, rows, columns)
        pixels = spread(cells, size)
        total = pixels if total is None else total + pixels
        if finest is None or rows * columns > finest[0] * finest[1]:
            finest = (rows, columns)
    return total, finest


def spread(cells: Tensor, size: Sequence[int]) -> Tensor:
    """(B, rows, columns) as (B, H, W): every cell's amount in equal parts on its pixels."""
    down, across = size[0] // cells.shape[1], size[1] // cells.shape[2]
    return torch.repeat_interleave(torch.repeat_interleave(cells, down, 1), across, 2) / (down * across)


def pool(pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, H, W) as (B, rows, columns): sums over patches."""
    batch, height, width = pixels.shape
    rows, columns = grid
    return pixels.reshape(batch, rows, height // rows, columns, width // columns).sum((2, 4))
