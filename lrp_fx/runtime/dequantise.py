"""Dequantise: a copy of a model whose quantised layers are plain linear layers that compute the same.

Quantisers keep weights as integers, codes or packed objects, each in a form of its own, and some of their kernels show
no graph. What a linear layer computes can be asked of the layer itself, whatever it holds: run on the identity it gives
its weight, run on zeros its bias.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lrp_fx.capture.quantised import quantised_layers
from lrp_fx.errors import InputError

#: How far a layer may lie from the map that was read of it, relative to its largest value: above rounding and the
#: quantisation of what is fed to it, it is no linear layer.
_LIMIT = 0.05
#: Rows of the identity that are run at a time.
_ROWS = 1024


def dequantised(model: nn.Module) -> nn.Module:
    """A copy of the model with `torch.nn.Linear` in place of each quantised linear layer, in the type that it answers
    in. Embeddings are read row by row. The model itself is not changed; what is not quantised is copied.

    A layer counts as quantised if it has ``in_features`` and ``out_features`` (or ``num_embeddings``) and its weight is
    no plain floating-point parameter. A layer that quantises its inputs as well becomes one that does not: its answers
    differ by that.

    Raises `InputError` where nothing is quantised, and for a layer that does not compute a linear map.
    """
    found = dict(quantised_layers(model))
    if not found:
        raise InputError("nothing to dequantise: every linear layer of the model holds a floating-point weight")
    plain = {id(layer): _plain(layer, name) for name, layer in found.items()}
    # the copy has the plain layers where the quantised ones stand, some of which cannot be copied
    return copy.deepcopy(model, dict(plain))


def _plain(layer: nn.Module, name: str) -> nn.Module:
    """The same map with a floating-point weight."""
    with torch.no_grad():
        if isinstance(layer, nn.Embedding):
            rows = layer(torch.arange(layer.num_embeddings, device=_device(layer)))
            return nn.Embedding(rows.shape[0], rows.shape[1], padding_idx=layer.padding_idx, _weight=rows.clone())
        width, kind = int(layer.in_features), _kind(layer)  # type: ignore[arg-type]
        one = torch.eye(width, dtype=kind, device=_device(layer))
        bias = layer(one.new_zeros(1, width))[0]
        weight = torch.cat([layer(part) - bias for part in torch.split(one, _ROWS)]).mT.contiguous()
        linear = nn.Linear(width, len(bias), bias=bool(bias.any()), dtype=weight.dtype, device=weight.device)
        linear.weight.copy_(weight)
        if linear.bias is not None:
            linear.bias.copy_(bias)
        _check(layer, linear, one, name)
    return linear.train(layer.training)


def _check(layer: nn.Module, linear: nn.Linear, like: Tensor, name: str) -> None:
    draw = torch.randn(16, like.shape[1], generator=torch.Generator().manual_seed(0)).to(like)
    wanted = layer(draw).float()
    off = float((linear(draw).float() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))
    if not off <= _LIMIT:
        raise InputError(
            f"{name} ({type(layer).__name__}) is no linear map: it answers {off:.2g} (of its largest value) off the "
            "one that it gives for the identity\n    next: explain the model before it is quantised"
        )


def _device(layer: nn.Module) -> torch.device:
    held = [*layer.parameters(), *layer.buffers()]
    return held[0].device if held else torch.device("cpu")


def _kind(layer: nn.Module) -> torch.dtype:
    """The type of floats that the layer takes and gives: the first that it answers in."""
    for kind in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        width = int(layer.in_features)  # type: ignore[arg-type]
        try:
            if layer(torch.zeros(1, width, dtype=kind, device=_device(layer))).dtype == kind:
                return kind
        except (RuntimeError, TypeError, AssertionError):  # it takes another type
            continue
    return torch.get_default_dtype()
