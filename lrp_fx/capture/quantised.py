"""Quantised: the layers of a model whose weights are kept in another form than as floating-point parameters."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn


def quantised_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and layer: linear layers and embeddings, by their sizes, whose weight is no plain floating-point parameter
    (integers, codes, a subclass of tensors, a packed object, a function).
    """
    for name, module in model.named_modules():
        if (is_linear(module) or isinstance(module, nn.Embedding)) and not _is_plain(getattr(module, "weight", None)):
            inside = (m for m in module.modules() if m is not module)
            if not any(is_linear(m) for m in inside):  # an adapter around a layer: that layer it is
                yield name, module


def is_linear(module: nn.Module) -> bool:
    """Does a layer say how many features it takes and gives?"""
    return all(isinstance(getattr(module, n, None), int) for n in ("in_features", "out_features"))


def _is_plain(weight: object) -> bool:
    return (
        type(weight) is nn.Parameter
        and type(weight.data) is Tensor
        and (weight.is_floating_point() or weight.is_complex())
    )
