"""Run: a relevance graph on inputs, for one target or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.optimize.reuse_buffers import reuse_buffers


def run_together(module: Any, tensors: Sequence[Tensor], arguments: list[list[Tensor]]) -> list[tuple[Any, ...]]:
    """The outputs of a relevance graph for each list of target arguments: what does not depend on them is computed
    once.
    """
    if len(arguments) == 1 or not arguments[0]:
        return [module(*tensors, *arguments[0])] * len(arguments)
    others: list[Any] = []

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        flat = module(*tensors, *given)
        others[:] = [None if isinstance(value, Tensor) else value for value in flat]
        return tuple(value for value in flat if isinstance(value, Tensor))

    warn = getattr(torch._C._functorch, "_set_vmap_fallback_warning_enabled", lambda enabled: None)
    warn(False)  # kernels without a batched form run one by one
    try:
        batched = torch.vmap(run)(*(torch.stack(values) for values in zip(*arguments, strict=True)))
    finally:
        warn(True)
    rows = []
    for k in range(len(arguments)):
        values = iter(batched)
        rows.append(tuple(next(values)[k] if other is None else other for other in others))
    return rows


class Running:
    """A relevance graph as it is run. It follows the graph: changed and recompiled, as `torch.fx` allows, that is what
    runs.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self._made: tuple[str, fx.GraphModule] | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        """Inputs of sizes that the graph holds for (`lrp_fx.guards.sizes`): where others were broadcast, a result might
        need more room.
        """
        return self.copy(*inputs)

    @property
    def copy(self) -> fx.GraphModule:
        """The copy that writes in place, of the graph's present code."""
        made = self._made
        if made is None or made[0] is not self.module.code:
            made = self._made = (self.module.code, reuse_buffers(self.module))
        return made[1]
