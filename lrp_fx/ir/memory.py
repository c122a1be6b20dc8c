"""Memory: what a flat graph needs while it runs, told without computing a number.

The graph runs on abstract tensors, call by call in its own order, as it does on real ones: what a result is a view of,
which operand it takes the place of, and when the last look at it goes are facts of the same calls. A block of memory
counts from the call that asks for it until nothing holds it any more.

requires  a flat graph, and a module that holds its tensors
ensures   bytes by node; nothing is computed, and nothing of the module is changed
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from lrp_fx.ir.code import Instead, run_once

#: Blocks of memory are given in multiples of it.
_BLOCK = 64


@dataclass
class Used:
    """What a run holds beside the module's tensors and its inputs, in bytes.

    ``peak``: at most, while the node named ``at`` runs; ``behind``: by the name of a node, what is held when it has
    run; ``returned``: what the results take.
    """

    peak: int = 0
    at: str = ""
    behind: dict[str, int] = field(default_factory=dict)
    returned: int = 0


def used_by(graph: fx.Graph, module: Any, inputs: Sequence[Tensor], instead: Instead | None = None) -> Used:
    """What ``run_once(graph, module, inputs, instead)`` uses for inputs of these shapes, types and devices, of which
    nothing else is looked at.
    """
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        given = [mode.from_tensor(t, static_shapes=True) for t in inputs]
        with _Counting(_Abstract(module, mode), given) as counting:
            counting.results = run_once(graph, counting.held, given, _told(graph, instead or {}, counting))
        used: Used = counting.ended()
    return used


class _Abstract:
    """The tensors of a module as abstract ones, made when they are asked for."""

    def __init__(self, module: Any, mode: FakeTensorMode) -> None:
        self._module, self._mode = module, mode
        self._storages: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        made = self._mode.from_tensor(found, static_shapes=True) if isinstance(found, Tensor) else found
        if isinstance(made, Tensor):
            self._storages.add(made.untyped_storage()._cdata)
        setattr(self, name, made)
        return made

    def has(self, storage: int) -> bool:
        """Is it the memory of one of them?"""
        return storage in self._storages


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts blocks of memory that calls ask for. ``held``: the module's tensors, which are none of them."""

    def __init__(self, held: _Abstract, given: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held, self.results = held, None
        self._used, self._alive, self._node = Used(), 0, ""
        self._blocks: dict[int, Any] = {}
        self._given = {t.untyped_storage()._cdata for t in given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._take(tensor.untyped_storage())
        return found

    def begin(self, node: str) -> None:
        """The node before has run, and what nobody reads behind it is gone."""
        self._used.behind[self._node] = self._alive
        self._node = node

    def ended(self) -> Used:
        """What was counted, when all has run."""
        self.begin("")
        alive = self._alive
        self.results = None
        self._used.returned = alive - self._alive
        return self._used

    def _take(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._blocks or key in self._given or self.held.has(key):
            return
        size = -(-storage.nbytes() // _BLOCK) * _BLOCK
        self._blocks[key] = weakref.ref(storage, self._letting_go(key, size))
        self._alive += size
        if self._alive > self._used.peak:
            self._used.peak, self._used.at = self._alive, self._node

    def _letting_go(self, key: int, size: int) -> Callable[[Any], None]:
        def let_go(_: Any) -> None:
            del self._blocks[key]
            self._alive -= size

        return let_go


def _told(graph: fx.Graph, instead: Instead, counting: _Counting) -> Mapping[fx.Node, tuple[Any, dict[str, Any]]]:
    """The same calls, each of which says first that it begins."""

    def telling(node: fx.Node, target: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counting.begin(node.name)
            return target(*args, **kwargs)

        return call

    found = {}
    for node in graph.nodes:
        if node.op == "call_function":
            target, more = instead.get(node, (node.target, {}))
            found[node] = (telling(node, target), more)
    return found
