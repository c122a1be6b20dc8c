"""Offloaded: where the weights of a model are that hooks fetch before each module runs (``device_map``, offloading).

requires  a model whose modules have hooks as accelerate puts them: ``weights_map`` gives a tensor by its name
ensures   the model and its hooks are as they were; a tensor is fetched when it is asked for
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

#: Where a module has its hook, and a hook that is several has them.
HOOK, _PARTS = "_hf_hook", "hooks"


def offloaded(model: nn.Module) -> dict[str, Callable[[], Tensor]]:
    """What gives each tensor of the model that is on the meta device, and that a hook fetches, by its name."""
    found: dict[str, Callable[[], Tensor]] = {}
    for path, module in model.named_modules():
        for held in _maps(vars(module).get(HOOK)):
            inside = (*module.named_parameters(), *module.named_buffers())
            for name in (n for n, t in inside if t.is_meta and n in held):
                found.setdefault(f"{path}.{name}".lstrip("."), partial(_fetched, held, name))
    return found


def _maps(hook: Any) -> Iterator[Mapping[str, Any]]:
    for part in getattr(hook, _PARTS, None) or [hook]:
        held = getattr(part, "weights_map", None)
        if held is not None:
            yield held


def _fetched(held: Mapping[str, Any], name: str) -> Tensor:
    value = held[name]
    return value.detach() if isinstance(value, Tensor) else torch.as_tensor(value)
