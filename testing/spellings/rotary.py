"""Spellings of the half-split rotation: features i and i + d/2 turn by position * frequency_i.

Each is given x (B, H, T, d), the positions (T), the frequencies (d/2) and tables of cosines and sines (32, d).
"""

from __future__ import annotations

import torch
from torch import Tensor

from testing.spellings.common import Rotated as host  # noqa: F401


def _rotate_half(x: Tensor) -> Tensor:
    n = x.shape[-1] // 2
    return torch.cat([-x[..., n:], x[..., :n]], -1)


def _angles(positions: Tensor, frequencies: Tensor) -> Tensor:
    return positions[:, None].to(frequencies.dtype) * frequencies


def half_split(x: Tensor, positions: Tensor, frequencies: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    angles = torch.cat([_angles(positions, frequencies)] * 2, -1)
    return x * angles.cos() + _rotate_half(x) * angles.sin()


def outer_product_of_angles(
    x: Tensor, positions: Tensor, frequencies: Tensor, cosines: Tensor, sines: Tensor
) -> Tensor:
    angles = torch.outer(positions.to(frequencies.dtype), frequencies).repeat(1, 2)
    return _rotate_half(x) * torch.sin(angles) + x * torch.cos(angles)


def cosines_joined_late(x: Tensor, positions: Tensor, frequencies: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    angles = torch.einsum("t,f->tf", positions.to(x.dtype), frequencies)
    cos, sin = (torch.cat([t, t], -1)[None, None] for t in (angles.cos(), angles.sin()))
    return x * cos + _rotate_half(x) * sin


def two_halves(x: Tensor, positions: Tensor, frequencies: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    angles = _angles(positions, frequencies)
    a, b = x.chunk(2, -1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def buffer_indexed(x: Tensor, positions: Tensor, frequencies: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    return x * cosines[positions] + _rotate_half(x) * sines[positions]


def buffer_sliced(x: Tensor, positions: Tensor, frequencies: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    t = x.shape[2]
    return x * cosines[:t] + _rotate_half(x) * sines[:t]


def rolled_with_signs(x: Tensor, positions: Tensor, frequencies: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    n = x.shape[-1] // 2
    signs = torch.where(torch.arange(2 * n) < n, -1.0, 1.0).to(x.dtype)
    angles = torch.cat([_angles(positions, frequencies)] * 2, -1)
    return x * angles.cos() + x.roll(n, -1) * signs * angles.sin()


def signs_on_the_sines(x: Tensor, positions: Tensor, frequencies: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    angles = _angles(positions, frequencies)
    cos, sin = torch.cat([angles.cos(), angles.cos()], -1), torch.cat([-angles.sin(), angles.sin()], -1)
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def stacked(x: Tensor, positions: Tensor, frequencies: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    a, b = x.unflatten(-1, (2, -1)).unbind(-2)
    angles = _angles(positions, frequencies)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -2).flatten(-2)


def complex_polar(x: Tensor, positions: Tensor, frequencies: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    angles = _angles(positions, frequencies)
    turns = torch.polar(torch.ones_like(angles), angles)
    pairs = torch.view_as_complex(x.unflatten(-1, (2, -1)).transpose(-1, -2).contiguous())
    return torch.view_as_real(pairs * turns).transpose(-1, -2).flatten(-2)


def block_matrix(x: Tensor, positions: Tensor, frequencies: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    angles = _angles(positions, frequencies)
    cos, sin = torch.diag_embed(angles.cos()), torch.diag_embed(angles.sin())
    turns = torch.cat([torch.cat([cos, -sin], -1), torch.cat([sin, cos], -1)], -2)
    return (turns @ x.unsqueeze(-1)).squeeze(-1)


def rotation_as_matrix(x: Tensor, positions: Tensor, frequencies: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    n = x.shape[-1] // 2
    eye = torch.eye(n, dtype=x.dtype)
    quarter = torch.cat([torch.cat([torch.zeros_like(eye), eye], -1), torch.cat([-eye, torch.zeros_like(eye)], -1)], -2)
    angles = torch.cat([_angles(positions, frequencies)] * 2, -1)
    return x * angles.cos() + (x @ quarter) * angles.sin()


def added_in_place(x: Tensor, positions: Tensor, frequencies: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    angles = torch.cat([_angles(positions, frequencies)] * 2, -1)
    y = x * angles.cos()
    y += _rotate_half(x) * angles.sin()
    return y


SPELLINGS = [
    half_split, outer_product_of_angles, cosines_joined_late, two_halves, buffer_indexed, buffer_sliced,
    rolled_with_signs, signs_on_the_sines, stacked, complex_polar, block_matrix, rotation_as_matrix, added_in_place,
]  # fmt: skip
