"""Lists: patches of all images in one list, laid back to pictures.

requires  an input of patches, and whole numbers beside it: rows and columns of each image (and its frames)
ensures   every patch stands in exactly one cell of one frame

Rows of the list stand where the model says they do (`lrp_fx.structure.forms`), row by row where it says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import isqrt

import numpy as np
import torch
from torch import Tensor

from lrp_fx.render.data import Array
from lrp_fx.structure.forms import Form


@dataclass(frozen=True)
class Frame:
    """One picture of a list: ``cells`` (rows, columns) holds the number of the patch that stands there. ``image``,
    ``frame``: which it is, counted from 0; ``frames``: how many that image has."""

    cells: Tensor
    image: int = 0
    frame: int = 0
    frames: int = 1


def find_frames(name: str, inputs: Mapping[str, Tensor], form: Form | None, batch: int) -> list[list[Frame]] | None:
    """For each example the frames of an input that is a list of patches; None where it is none.

    The list holds the patches of one example, (N, features) or (N, C, P, P), or of each, (B, N, features).
    """
    given = inputs.get(name)
    if given is None or not given.is_floating_point() or given.dim() not in (2, 3, 4):
        return None
    places = form.places if form is not None else ()
    grids = _grids(given, inputs, batch)
    if grids is not None:
        found = [_frames(grid, places) for grid in grids]
    elif places and len(places) == len(given):
        high, wide = (1 + max(p[k] for p in places) for k in (0, 1))
        found = [_frames([(1, high, wide)], places)] if high * wide == len(places) else []
    else:
        return None
    return found or None


def _grids(given: Tensor, inputs: Mapping[str, Tensor], batch: int) -> list[list[tuple[int, int, int]]] | None:
    """(frames, rows, columns) of the images of each example, from whole numbers that fit the count of patches."""
    for numbers in inputs.values():
        if numbers.is_floating_point() or numbers.dim() != 2 or numbers.shape[1] not in (2, 3) or (numbers < 1).any():
            continue
        sizes = [(r[0] if len(r) == 3 else 1, r[-2], r[-1]) for r in numbers.tolist()]
        counts = [t * h * w for t, h, w in sizes]
        if given.dim() != 3 and sum(counts) == len(given) and max(counts) > 1:
            return [sizes]
        if given.dim() == 3 and len(sizes) == batch == len(given) and 1 < max(counts) <= given.shape[1]:
            return [[size] for size in sizes]
    return None


def _frames(grid: list[tuple[int, int, int]], places: tuple[tuple[int, int], ...]) -> list[Frame]:
    found, start = [], 0
    for image, (frames, rows, columns) in enumerate(grid):
        for frame in range(frames):
            cells = _cells(start, rows, columns, places)
            found.append(Frame(cells, image, frame, frames))
            start += rows * columns
    return found


def _cells(start: int, rows: int, columns: int, places: tuple[tuple[int, int], ...]) -> Tensor:
    """The numbers of the patches of one frame by place."""
    count = rows * columns
    plain = torch.arange(start, start + count).reshape(rows, columns)
    own = places[start : start + count]
    if sorted(own) != list(product(range(rows), range(columns))):
        return plain
    cells = torch.empty_like(plain)
    cells[tuple(torch.tensor(own).T)] = plain.flatten()
    return cells


def pixels(patches: Array, frame: Frame) -> Array:
    """(rows * P, columns * P, channels): the picture itself; one grey pixel for each patch whose features are no
    pixels.

    Which of a patch's features are channels, rows and columns is told by the picture: it is the smoothest one.
    """
    candidates = list(_as_pixels(patches))
    squares = (
        min(candidates, key=_roughness)
        if candidates
        else patches.reshape(len(patches), -1).mean(1)[:, None, None, None]
    )
    rows, columns = frame.cells.shape
    side, channels = squares.shape[1], squares.shape[3]
    laid = squares[frame.cells.flatten().numpy()].reshape(rows, columns, side, side, channels)
    result: Array = laid.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, channels)
    return result


def _as_pixels(patches: Array) -> Iterator[Array]:
    """(N, P, P, channels) in every way in which the features may be pixels (the first, of two frames)."""
    count, features = len(patches), patches[0].size
    if patches.ndim == 4:
        yield patches.transpose(0, 2, 3, 1)
        return
    for channels, times in product((3, 1), (1, 2)):
        side = isqrt(features // (channels * times))
        if side < 2 or side * side * channels * times != features:
            continue
        yield patches.reshape(count, channels, times, side, side)[:, :, 0].transpose(0, 2, 3, 1)
        yield patches.reshape(count, times, side, side, channels)[:, 0]


def _roughness(squares: Array) -> float:
    """How much neighbouring pixels differ, as a share of how much any two do."""
    steps = [np.abs(np.diff(squares, axis=axis)).mean() for axis in (1, 2)]
    return float(sum(steps) / (np.abs(squares - squares.mean((0, 1, 2))).mean() or 1.0))
