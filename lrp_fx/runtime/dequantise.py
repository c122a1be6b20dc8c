"""Dequantise: a copy of a model whose quantised layers are plain linear layers that compute the same.

Quantisers keep weights as integers, codes or packed objects, each in a form of its own, and some of their kernels show
no graph. What a linear layer computes can be asked of the layer itself, whatever it holds: run on the identity it gives
its weight, run on zeros its bias.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from lrp_fx.capture.quantised import quantised_layers
from lrp_fx.errors import InputError
from lrp_fx.runtime.copied import copied

#: How far a layer may lie from the map that was read of it, relative to its largest value: above rounding and the
#: quantisation of what is fed to it, it is no linear layer.
_LIMIT = 0.05
#: Rows of the identity that are run at a time.
_ROWS = 1024


def dequantised(model: nn.Module) -> nn.Module:
    """A copy of the model with `torch.nn.Linear` in place of each quantised linear layer, in the type that it computes
    in and in the mode that it is in. Embeddings are read row by row. The model itself is not changed; what is not
    quantised, or is no such layer (a convolution), is copied as it is.

    A layer counts as quantised if it has ``in_features`` and ``out_features`` (or ``num_embeddings``) and its weight is
    no plain floating-point parameter. A layer that quantises its inputs as well becomes one that does not: its answers
    differ by that.

    Raises `InputError` where nothing is quantised, for a layer that does not compute a linear map, and for a model that
    cannot be copied.
    """
    found = dict(quantised_layers(model))
    if not found:
        raise InputError("nothing to dequantise: every linear layer of the model holds a floating-point weight")
    usual = _usual_kind(model)
    # the copy has the plain layers where the quantised ones stand, some of which cannot be copied
    return copied(model, {id(layer): _plain(layer, name, usual) for name, layer in found.items()})


def _plain(layer: nn.Module, name: str, usual: torch.dtype) -> nn.Module:
    """The same map with a floating-point weight, in the mode that the layer is in."""
    with torch.no_grad():
        found = _embedding(layer) if isinstance(layer, nn.Embedding) else _linear(layer, name, usual)
    return found.train(layer.training)


def _embedding(layer: nn.Embedding) -> nn.Module:
    rows = layer(torch.arange(layer.num_embeddings, device=_device(layer)))
    return nn.Embedding(rows.shape[0], rows.shape[1], padding_idx=layer.padding_idx, _weight=rows.clone())


def _linear(layer: nn.Module, name: str, usual: torch.dtype) -> nn.Module:
    width, (read, kept) = int(layer.in_features), _kinds(layer, usual)  # type: ignore[arg-type]
    one = torch.eye(width, dtype=read, device=_device(layer))
    bias = layer(one.new_zeros(1, width))[0]
    weight = torch.cat([layer(part) - bias for part in torch.split(one, _ROWS)]).mT.contiguous()
    linear = nn.Linear(width, len(bias), bias=bool(bias.any()), dtype=weight.dtype, device=weight.device)
    linear.weight.copy_(weight)
    if linear.bias is not None:
        linear.bias.copy_(bias)
    _check(layer, linear, one, name)
    return linear.to(kept)


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


def _kinds(layer: nn.Module, usual: torch.dtype) -> tuple[torch.dtype, torch.dtype]:
    """The type of floats that the layer is read in, and the one that it takes and gives: the first that it answers in,
    of that which its weight is said to have, that of the model, and all others. (Less is lost where it answers in
    more digits, too.)
    """
    weight = getattr(layer, "weight", None)
    said = [weight.dtype] if isinstance(weight, Tensor) and weight.is_floating_point() else []
    kinds = (*said, usual, torch.float32, torch.float64, torch.bfloat16, torch.float16)
    kept = next((kind for kind in kinds if _answers(layer, kind)), torch.get_default_dtype())
    is_short = kept in (torch.bfloat16, torch.float16)
    return torch.float32 if is_short and _answers(layer, torch.float32) else kept, kept


def _answers(layer: nn.Module, kind: torch.dtype) -> bool:
    """Does it give this type where it is fed it?"""
    width = int(layer.in_features)  # type: ignore[arg-type]
    try:
        return bool(layer(torch.zeros(1, width, dtype=kind, device=_device(layer))).dtype == kind)
    except (RuntimeError, TypeError, AssertionError):  # it takes another type
        return False


def _usual_kind(model: nn.Module) -> torch.dtype:
    """The type of floats that most of a model's plain parameters have: what its layers are fed."""
    counts: Counter[torch.dtype] = Counter()
    for weight in model.parameters():
        if type(weight.data) is Tensor and weight.is_floating_point():
            counts[weight.dtype] += weight.numel()
    return counts.most_common(1)[0][0] if counts else torch.get_default_dtype()
