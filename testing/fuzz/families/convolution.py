"""Convolutions, pooling, windows, other resolutions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from testing.fuzz.weights import D, Weights

#: Functions that are written in several ways: the same value, the same relevance.
SAME = (("convolution", "convolution_of_windows", "convolution_by_taps"),)


def convolution(w: Weights, x: Tensor) -> Tensor:
    return F.conv1d(x.mT, w.kernel, w.bias, padding=1).mT


def convolution_of_windows(w: Weights, x: Tensor) -> Tensor:
    windows = F.pad(x.mT, (1, 1)).unfold(2, 3, 1)
    return torch.einsum("bdtk,edk->bte", windows, w.kernel) + w.bias


def convolution_by_taps(w: Weights, x: Tensor) -> Tensor:
    p = F.pad(x, (0, 0, 1, 1))
    return sum((p[:, i : i + x.shape[1]] @ w.kernel[..., i].mT for i in range(3)), w.bias)


def depthwise(w: Weights, x: Tensor) -> Tensor:
    return F.conv1d(x.mT, w.kernel[:, :1], padding=1, groups=D).mT


def causal_convolution(w: Weights, x: Tensor) -> Tensor:
    return F.conv1d(F.pad(x.mT, (2, 0)), w.kernel[:, :1], groups=D).mT


def dilated(w: Weights, x: Tensor) -> Tensor:
    return F.conv1d(x.mT, w.kernel, padding=2, dilation=2).mT


def grouped(w: Weights, x: Tensor) -> Tensor:
    return F.conv1d(x.mT, w.kernel[:, :4], padding="same", groups=2).mT


def plane_convolution(w: Weights, x: Tensor) -> Tensor:
    return F.conv2d(x[:, None], w.kernel[None, :1, :3], padding=1)[:, 0]


def transposed_convolution(w: Weights, x: Tensor) -> Tensor:
    return F.conv_transpose1d(x.mT, w.kernel, stride=2, padding=1, output_padding=1).mT[:, : x.shape[1]]


def average_pool(w: Weights, x: Tensor) -> Tensor:
    return F.avg_pool1d(x.mT, 3, 1, 1).mT


def maximum_pool(w: Weights, x: Tensor) -> Tensor:
    # of a value that is not contiguous, torch exports other strides than the kernel returns
    return F.max_pool1d(x.mT.contiguous(), 3, 1, 1).mT


def plane_pool(w: Weights, x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1)


def power_pool(w: Weights, x: Tensor) -> Tensor:
    return F.lp_pool1d(F.pad(x.mT, (2, 0)).abs() + 0.1, 2, 3, 1).mT


def adaptive_average(w: Weights, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool1d(x, D // 2).repeat(1, 1, 2)


def adaptive_maximum(w: Weights, x: Tensor) -> Tensor:
    return F.adaptive_max_pool1d(x, D // 2).repeat_interleave(2, -1)


def interpolated(w: Weights, x: Tensor) -> Tensor:
    return F.interpolate(x.mT, scale_factor=2.0, mode="linear").mT[:, : x.shape[1]]


def interpolated_nearest(w: Weights, x: Tensor) -> Tensor:
    return F.interpolate(x.mT, scale_factor=2).mT[:, 1 : x.shape[1] + 1]


def resized_plane(w: Weights, x: Tensor) -> Tensor:
    return F.interpolate(x[:, None], size=x.shape[1:], mode="bilinear", align_corners=False)[:, 0] + x


def bicubic(w: Weights, x: Tensor) -> Tensor:
    return F.interpolate(x[:, None], scale_factor=2.0, mode="bicubic")[:, 0, : x.shape[1], :D]


def patches(w: Weights, x: Tensor) -> Tensor:
    return F.unfold(x[:, None], 3, padding=1).unflatten(1, (3, 3)).mean((1, 2)).view_as(x)


def folded(w: Weights, x: Tensor) -> Tensor:
    return F.fold(F.unfold(x[:, None], 3, padding=1), tuple(x.shape[1:]), 3, padding=1)[:, 0] / 9


def pixel_shuffled(w: Weights, x: Tensor) -> Tensor:
    return F.pixel_unshuffle(F.pixel_shuffle(x.mT.unsqueeze(-1), 2), 2)[..., 0].mT.roll(1, -1)


def channel_shuffled(w: Weights, x: Tensor) -> Tensor:
    return F.channel_shuffle(x.mT[..., None], 2)[..., 0].mT
