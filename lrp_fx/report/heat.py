"""Heat: relevance of an input of numbers by pixel, by time, by patch."""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.report.drawn import CHANNELS, Given, by_patch, frames_of
from lrp_fx.report.lists import Frame, find_frames
from lrp_fx.report.patches import pool, position_map


def heatmap(given: Given, name: str | None, position: str | None, credit: str) -> Tensor:
    """What `Relevance.heatmap` says."""
    name, R = _floating(given, name)
    frames = _frames(given, name)
    if frames is not None:
        return _laid(given, R, frames, position)
    if R.dim() == 5:  # several pictures of an example, or a film with its channels first
        return R.sum(1 if R.shape[2] > CHANNELS >= R.shape[1] else 2)
    form = given.forms.get(name)
    time = form.time if form is not None and form.time is not None else 1
    heat = R.sum(1) if R.dim() == 4 else R.sum(3 - time) if R.dim() == 3 else R
    if position is None:
        return heat
    added, _ = _position_map(given, R, position, credit)
    return heat + added.to(heat.dtype)


def patches(given: Given, name: str | None, position: str | None, credit: str, *, content: bool) -> Tensor:
    """What `Relevance.patches` says."""
    name, R = _floating(given, name)
    frames = _frames(given, name)
    if frames is not None:
        return _laid(given, R, frames, position, content=content)
    added, grid = _position_map(given, R, position or "signed", credit)
    found = pool(R.sum(1), grid) if content else torch.zeros_like(pool(R.sum(1), grid))
    return found if position is None else found + pool(added, grid).to(found.dtype)


def _frames(given: Given, name: str) -> list[list[Frame]] | None:
    """Where the patches of an input stand that is a list of them."""
    return find_frames(name, given.inputs, given.forms.get(name), given.score.numel())


def _laid(given: Given, R: Tensor, frames: list[list[Frame]], position: str | None, *, content: bool = True) -> Tensor:
    own, added = by_patch(R, given.position, position)
    found = own if content else torch.zeros_like(own)
    if position is not None and added is not None:
        found = found + added.to(found.dtype)
    laid = frames_of(found, frames)
    if laid is None:
        raise InputError(
            "the images have grids of their own, which no tensor holds\n    next: .content by row, or a picture: "
            "show(), to_html(), plot()"
        )
    return laid


def _floating(given: Given, name: str | None) -> tuple[str, Tensor]:
    floats = {
        n: R
        for n, R in given.content.items()
        if R.dim() > 2 or (n in given.inputs and given.inputs[n].is_floating_point())
    }
    if not floats or (name is not None and name not in floats):
        raise InputError(f"no floating input {name or ''} to draw; inputs are {', '.join(given.content)}")
    return (name, floats[name]) if name is not None else next(iter(floats.items()))


def _position_map(given: Given, R: Tensor, position: str, credit: str) -> tuple[Tensor, tuple[int, int]]:
    added, grid = position_map(given.position, R.shape[-2:], position, credit) if R.dim() == 4 else (None, None)
    if added is None or grid is None:
        raise InputError("no position relevance runs over patches of this input; see .position for what there is")
    return added, grid
