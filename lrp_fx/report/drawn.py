"""Drawn: inputs of numbers as what is drawn of them: pictures, sound over time and frequency, lists of patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lrp_fx.render.data import Array, Raster, Series
from lrp_fx.report.lists import Frame, find_frames, pixels
from lrp_fx.report.patches import grid_of, pool, position_map
from lrp_fx.report.position import PositionSite
from lrp_fx.structure.forms import Form

#: How many pictures of one input are drawn (the frames of a film, the tiles of a scan).
MOST = 16
#: The most channels that a picture has.
CHANNELS = 4


class Given(Protocol):
    """What of a result is read here."""

    @property
    def score(self) -> Tensor: ...
    @property
    def content(self) -> dict[str, Tensor]: ...
    @property
    def position(self) -> list[PositionSite]: ...
    @property
    def inputs(self) -> dict[str, Tensor]: ...
    @property
    def forms(self) -> dict[str, Form]: ...


def array(x: Tensor) -> Array:
    return x.detach().to("cpu", torch.float64).numpy()


def own(x: Tensor, b: int, batch: int) -> Tensor:
    """Example ``b`` of a tensor whose first axis is the batch; all of it, where that counts something else (the patches
    of all images, the texts that an image is compared with): such inputs are explained for one example at a time."""
    return x[b] if len(x) == batch else x


def parts_of(given: Given, name: str, b: int) -> list[Raster | Series]:
    """What is drawn of one input of numbers for one example."""
    R, batch = given.content[name], given.score.numel()
    frames = find_frames(name, given.inputs, given.forms.get(name), batch)
    if frames is not None:
        return list(_listed(given, name, b, frames[min(b, len(frames) - 1)]))
    value = given.inputs.get(name)
    heat = array(own(R, b, batch))
    shown = array(own(value, b, batch)) if value is not None and value.shape == R.shape else np.zeros_like(heat)
    if heat.ndim == 2 and R.dim() == 3:
        return [_over_time(name, heat, shown, given.forms.get(name))]
    if heat.ndim < 3:
        return [Series(name, shown.ravel(), heat.ravel())]
    return list(_pictures(given, name, heat, shown, b))


def _over_time(name: str, heat: Array, shown: Array, form: Form | None) -> Raster:
    """Sound or vectors: time to the right, frequencies (or features) upwards."""
    axis = form.time - 1 if form is not None and form.time is not None else int(np.argmax(heat.shape))
    if axis == 0:
        heat, shown = heat.T, shown.T
    names = ("frequency", "time") if form is not None and form.sound else ("feature", "step")
    return Raster(name, heat[::-1], rgb(shown[None, ::-1]), axes=names)


def _pictures(given: Given, name: str, heat: Array, shown: Array, b: int) -> Sequence[Raster]:
    """One picture (C, H, W), or several (n, C, H, W) or (C, n, H, W)."""
    if heat.ndim == 3:
        grid, prefix = _patch_grid(given, heat.shape[1:], b)
        return [Raster(name, heat.sum(0), rgb(shown), grid, prefix)]
    heat, shown = (x.reshape(-1, *x.shape[-3:]) for x in (heat, shown))
    if heat.shape[1] > CHANNELS >= heat.shape[0]:  # a film with its channels first
        heat, shown = heat.swapaxes(0, 1), shown.swapaxes(0, 1)
    count = len(heat)
    names = [f"{name} {k + 1} of {count}" if count > 1 else name for k in range(count)]
    found = []
    for k, title in enumerate(names):
        grid, prefix = _patch_grid(given, heat.shape[2:], k, count)
        found.append(Raster(title, heat[k].sum(0), rgb(shown[k]), grid, prefix, input=name, group=k))
    return found


def _listed(given: Given, name: str, b: int, frames: Sequence[Frame]) -> Sequence[Raster]:
    """The frames of a list of patches: content and position by patch."""
    whole, R = given.inputs[name], given.content[name]
    content, placed = by_patch(R, given.position, None)
    mine, values = array(content)[b if R.dim() == 3 else 0], array(whole[b] if R.dim() == 3 else whole)
    position = None if placed is None else array(placed)[min(b, len(placed) - 1)]
    images = 1 + max(f.image for f in frames)
    found = []
    for f in frames:
        cells = f.cells.numpy()
        title = name + (f", image {f.image + 1} of {images}" if images > 1 else "")
        title += f", frame {f.frame + 1} of {f.frames}" if f.frames > 1 else ""
        grid = None if position is None else position[cells]
        picture = rgb(pixels(values, f).transpose(2, 0, 1))
        found.append(Raster(title, mine[cells], picture, grid, input=name, group=f.image))
    return found


def by_patch(R: Tensor, sites: Sequence[PositionSite], position: str | None) -> tuple[Tensor, Tensor | None]:
    """(B, N) content, and position where it is told by patch, of a list (N, features) or (B, N, features).

    position: an aggregation, by default ``signed``."""
    content = R.flatten(2).sum(2) if R.dim() == 3 else R.flatten(1).sum(1)[None]
    found: Tensor | None = None
    for site in sites:
        share = None if site.owner() is not None else site.per_token(position or "signed")
        if share is not None and share.shape[1] == content.shape[1]:
            found = share if found is None else found + share
    return content, found


def frames_of(R: Tensor, frames: Sequence[Sequence[Frame]]) -> Tensor | None:
    """(frames, rows, columns) of amounts by patch (B, N), None where images have grids of their own."""
    cells = [(R[b], f.cells.to(R.device)) for b, own in enumerate(frames) for f in own]
    if len({tuple(c.shape) for _, c in cells}) > 1:
        return None
    return torch.stack([row[c] for row, c in cells])


def rgb(picture: Array) -> Array:
    """(C, H, W) of any range as (H, W, 3) in 0..1; grey unless there are three channels."""
    if picture.shape[0] != 3:
        picture = np.repeat(picture.mean(0, keepdims=True), 3, axis=0)
    low, high = float(picture.min(initial=0.0)), float(picture.max(initial=0.0))
    result: Array = ((picture - low) / ((high - low) or 1.0)).transpose(1, 2, 0)
    return result


def _patch_grid(given: Given, size: tuple[int, ...], row: int, count: int | None = None) -> tuple[Array | None, int]:
    """Position relevance by patch, where position runs over a grid of patches; and how many leading tokens are no
    patches. ``count``: of how many pictures this is the ``row``-th, None for that of an example."""
    pixels, grid = position_map(given.position, size, "signed")
    if pixels is None or grid is None or (count is not None and len(pixels) != count):
        return None, 0
    found = (grid_of(site, R.shape[1], size) for site in given.position if (R := site.per_token()) is not None)
    prefix = next(f[0] for f in found if f is not None and f[1:] == grid)
    return array(pool(pixels, grid)[min(row, len(pixels) - 1)]), prefix


def groups(rasters: Sequence[Raster | Series]) -> Mapping[tuple[str, int], tuple[float, float]]:
    """(input, image) -> content and position of all that is drawn of it, in order."""
    found: dict[tuple[str, int], tuple[float, float]] = {}
    for part in rasters:
        key = part.input or part.name, part.group
        content, position = found.get(key, (0.0, 0.0))
        placed = part.position if isinstance(part, Raster) else None
        found[key] = (
            content + float(part.heat.sum()),
            position + (float(placed.sum()) if placed is not None else 0.0),
        )
    return found
