"""Fingerprint: a model in short, which another has only where it computes the same.

requires  a model
ensures   other for other weights, buffers (kept in files or not), configuration, attributes, adapters, hooks and code;
          the same in another process, on another device, and after the model has run
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import Tensor, nn

from lrp_fx.capture.checks import plain_tensors
from lrp_fx.file.tensors import fingerprint
from lrp_fx.ir.lasting import OF_A_COPY, lasting, runs_into
from lrp_fx.ir.read import holds_none


def model_fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's modules, its configuration, all of its tensors, and what else it holds."""
    found = hashlib.sha256(repr(model).encode())
    config: Any = getattr(model, "config", None)
    known = config.to_dict() if hasattr(config, "to_dict") else {}
    settings = {name: value for name, value in known.items() if name not in OF_A_COPY}
    found.update(json.dumps(settings, sort_keys=True, default=str).encode())
    changing = runs_into(model)
    unkept = {n: t for n, t in model.named_buffers(remove_duplicate=False) if n not in changing}
    for name, tensor in {**unkept, **model.state_dict()}.items():
        said = [(tuple(t.shape), str(t.dtype), _numbers(t)) for t in plain_tensors(tensor)]
        found.update(f"{name} {said}".encode())
    found.update(lasting(model).encode())
    return found.hexdigest()


def _numbers(tensor: Tensor) -> str | None:
    """None where a hook brings them when they are read (offloaded models): it is told with what the model holds."""
    return None if holds_none(tensor) else fingerprint(tensor)
