"""Weights: has a model other ones than those that its graphs were made with?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.capture.checks import check_mode, check_weights
from lrp_fx.ir.program import Program


class Weights:
    """The tensors of one model as they were when it was looked at last.

    ``loose``: captured tensors that are neither parameters nor buffers, by place; ``narrow``: versions of those
    that a program of another precision may hold as copies (`promote_precision`).
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.loose: dict[tuple[nn.Module, str], Tensor] = {}
        self.narrow: dict[int, int] = {}
        self._identity: Any = None
        self._checked: Any = None

    def changed(self) -> bool:
        """Check mode and weights, the weights again only after they have changed. True where graphs made before hold
        others: replaced, converted, moved, or copied before they were written to. Raises `InputError`.
        """
        tensors = [*self.model.named_parameters(), *self.model.named_buffers()]
        identity = tuple((n, id(t), t.data_ptr(), t.dtype, t.device) for n, t in tensors)
        changing = [t for t in (*(t for _, t in tensors), *self.loose.values()) if not t.is_inference()]
        versions = (identity, tuple(t._version for t in changing))
        check_mode(self.model)
        replaced = any(getattr(module, name, None) is not tensor for (module, name), tensor in self.loose.items())
        changed = self._identity is not None and (identity != self._identity or replaced)
        self._identity = identity
        if versions != self._checked:
            check_weights(self.model)
            narrow = _narrow_versions(changing)
            copied = any(self.narrow.get(t, version) != version for t, version in narrow.items())
            changed = changed or (copied and any(t.dtype == torch.float64 for t in changing))
            self._checked, self.narrow = versions, narrow
        return changed

    def note(self, program: Program) -> None:
        """Look after the tensors of a program, too."""
        self.loose |= _loose_tensors(self.model, program)
        self.narrow |= _narrow_versions([t for t in self.loose.values() if not t.is_inference()])


def _loose_tensors(model: nn.Module, program: Program) -> dict[tuple[nn.Module, str], Tensor]:
    """Tensors of a program that are plain attributes of the model's modules: they may be replaced without a trace."""
    module = program.captured or program.module  # before passes that copy tensors (`promote_precision`)
    captured = {getattr(module, str(n.target)).data_ptr() for n in module.graph.nodes if n.op == "get_attr"}
    return {
        (m, name): v
        for m in model.modules()
        for name, v in vars(m).items()
        if isinstance(v, Tensor) and v.data_ptr() in captured
    }


def _narrow_versions(tensors: list[Tensor]) -> dict[int, int]:
    return {id(t): t._version for t in tensors if t.dtype in (torch.float32, torch.complex64)}
