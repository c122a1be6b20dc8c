"""Unloaded: models made without memory for their weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary


@contextlib.contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Parameters of modules that are made inside lie on the meta device, and take no memory; buffers are as they would
    be. (Each parameter is there for a moment; several threads do not do this at once.)

    `lrp_fx.convert` takes such a model, and `Explainer.bind` its weights.
    """
    register = nn.Module.register_parameter
    known: Any = WeakIdKeyDictionary()  # one that several modules share stays one

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, param)
        if param is not None and not param.is_meta:
            empty = torch.empty_like(param, device="meta")
            self._parameters[name] = known.setdefault(param, nn.Parameter(empty, requires_grad=param.requires_grad))

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
