"""Forward: what is known of a model's arguments and outputs without running it.

requires  a module; one with a ``config`` (as those of transformers have) tells more
ensures   nothing is decided by the model's class
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.capture.call import forward_parameters, takes_anything


@dataclass(frozen=True)
class Forward:
    """``names`` of the arguments (None: it takes any), the ``main`` one, which carries the content, the ``config`` (or
    None), type and device of the weights.

    ``known``: does the model itself say which argument is the main one? ``writes``: does it write a text of its own, so
    that a decoder needs a beginning? ``tokens``: are its outputs tokens (None: not known)?
    """

    names: frozenset[str] | None
    main: str
    config: Any = None
    dtype: torch.dtype = torch.float32
    device: str | torch.device = "cpu"
    known: bool = False
    writes: bool = False
    tokens: bool | None = None

    def takes(self, name: str) -> bool:
        """Has forward an argument of this name?"""
        return self.names is None or name in self.names

    def cast(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """On the model's device, floating values in its type."""
        return {
            n: v.to(self.device, self.dtype) if v.is_floating_point() else v.to(self.device) for n, v in inputs.items()
        }

    @property
    def labels(self) -> dict[int, str]:
        """The names of the classes, by index, as the configuration has them; empty where it has none."""
        names = getattr(self.config, "id2label", None) or {}
        return {int(i): str(name) for i, name in names.items()}


def forward_of(model: nn.Module) -> Forward:
    """What is known of a model now: it may be moved, or turned into another type, between two calls."""
    parameters, model = forward_parameters(model), _told(model)
    known = getattr(model, "main_input_name", None)
    names = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    config = getattr(model, "config", None)
    return Forward(
        names=None if takes_anything(parameters) else frozenset(names),
        main=str(known or next(iter(names), "")),
        config=config,
        dtype=weight.dtype,
        device=weight.device,
        known=known is not None and config is not None,
        writes=_asked(model, "can_generate") is True,
        tokens=_asked(model, "get_output_embeddings") is not None if hasattr(model, "get_output_embeddings") else None,
    )


#: What of a configuration reading needs.
_CONFIG = ("id2label", "pad_token_id", "decoder_start_token_id", "bos_token_id", "is_encoder_decoder")


def told(forward: Forward) -> dict[str, Any]:
    """What reading needs of a model beside its inputs, as plain values for a file."""
    config = {n: getattr(forward.config, n) for n in _CONFIG if getattr(forward.config, n, None) is not None}
    if "id2label" in config:
        config["id2label"] = {str(i): str(label) for i, label in config["id2label"].items()}
    return {
        "config": config,
        "main": forward.main,
        "known": forward.known,
        "writes": forward.writes,
        "tokens": forward.tokens,
    }


def restored(known: Mapping[str, Any], names: Iterable[str], dtype: torch.dtype, device: str | torch.device) -> Forward:
    """The forward of a model that was saved with these inputs; ``known``: what `told` gave, empty for older files."""
    names = list(names)
    main = known.get("main")
    return Forward(
        frozenset(names),
        main if main in names else names[0],
        SimpleNamespace(**known.get("config", {})),
        dtype,
        device,
        known=bool(known.get("known")),
        writes=bool(known.get("writes")),
        tokens=known.get("tokens"),
    )


def _told(model: nn.Module) -> nn.Module:
    """The module that says what it is: the one inside, where a wrapper passes on all it is given."""
    inside = list(model.children())
    wraps = len(inside) == 1 and takes_anything(inspect.signature(model.forward).parameters)
    return _told(inside[0]) if wraps and getattr(model, "config", None) is None else model


def _asked(model: nn.Module, method: str) -> Any:
    """What a method without arguments answers, None where there is no such method, or it refuses."""
    try:
        return getattr(model, method)()
    except (AttributeError, NotImplementedError, TypeError):
        return None
