"""Complex numbers and spectra."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from testing.fuzz.weights import D, Weights


def spectrum_real(w: Weights, x: Tensor) -> Tensor:
    return torch.fft.fft(x, dim=1).real / 2


def spectrum_imaginary(w: Weights, x: Tensor) -> Tensor:
    return torch.fft.fft(x, dim=-1).imag / 2


def spectrum_of_plane(w: Weights, x: Tensor) -> Tensor:
    return torch.fft.fft2(x).real / 3


def spectrum_magnitude(w: Weights, x: Tensor) -> Tensor:
    return torch.fft.fft(x, dim=1).abs() / 2


def spectral_filter(w: Weights, x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x, dim=1) * w.places[: x.shape[1] // 2 + 1], n=x.shape[1], dim=1)


def spectral_convolution(w: Weights, x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x, n=16, dim=1) * torch.fft.rfft(w.places, dim=0), n=16, dim=1)[
        :, : x.shape[1]
    ]


def spectral_product(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.fft.ifft(torch.fft.fft(x, dim=1) * torch.fft.fft(y, dim=1), dim=1).real / 3


def conjugated(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x, dim=-1).conj() * torch.fft.rfft(y, dim=-1), n=D, dim=-1) / 3


def complex_rotation(w: Weights, x: Tensor) -> Tensor:
    n = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * torch.logspace(0, -2, D // 2, dtype=x.dtype)
    turn = torch.polar(torch.ones_like(n), n)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)


def complex_pair(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.view_as_real(torch.complex(x, y) * torch.complex(w.scale, w.bias)).mean(-1)


def complex_length(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.complex(x, y).abs()


def complex_angle(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.complex(x.abs() + 0.5, y).angle()


def complex_exponential(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return torch.exp(torch.complex(x * 0.3, y)).real


def shifted_spectrum(w: Weights, x: Tensor) -> Tensor:
    return torch.fft.ifft(torch.fft.fftshift(torch.fft.fft(x, dim=1), dim=1), dim=1).real


def cosine_transform(w: Weights, x: Tensor) -> Tensor:
    n = torch.arange(D, dtype=x.dtype)
    return x @ torch.cos(math.pi / D * (n[:, None] + 0.5) * n) / 2
