"""Changed: have dictionaries been changed since they were put into programs?

Weights that are trained on are the programs' own, and count at once. Weights that were replaced, and plain attributes
that were set (a threshold, the number of latents that are kept), need the dictionary to be traced again.

requires  dictionaries by place
ensures   a change of a module of theirs is seen; one of what a function closes over is not
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lrp_fx.dictionaries.dictionary import Dictionary, require_evaluation
from lrp_fx.ir.contents import PLAIN
from lrp_fx.ir.sparse import address_of


class Dictionaries:
    """The dictionaries of one compiler, as they were when they were looked at last."""

    def __init__(self, dictionaries: Mapping[str, Dictionary]) -> None:
        self.dictionaries = dictionaries
        self._seen = self._now()

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that encode and decode."""
        return [module for each in self.dictionaries.values() for module in each.modules]

    def changed(self) -> bool:
        """Are they other than when this was asked last? Raises `InputError` for one in training mode."""
        before, self._seen = self._seen, self._now()
        return bool(before != self._seen)

    def _now(self) -> Any:
        for place, dictionary in self.dictionaries.items():
            require_evaluation(place, dictionary)
        return [_held(module) for each in self.modules for module in each.modules()]


def _held(module: Any) -> Any:
    tensors = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    plain = {n: repr(v) for n, v in vars(module).items() if isinstance(v, PLAIN)}
    hooks = tuple(map(id, (*module._forward_hooks.values(), *module._forward_pre_hooks.values())))
    places = tuple((n, id(t), address_of(t), t.dtype, t.device) for n, t in tensors.items())
    return id(module), places, plain, hooks
