"""Traces: flat graphs of traced functions, by what they were traced for; those that any program may use are shared.

A trace depends on the function, on its abstract arguments, and on what is known of their symbols: ranges, traced
sizes, conditions. Where all of these are equal it is the same graph, in whatever program, and is copied instead of
traced again: an abstract value is kept as its sizes, strides and type, and made anew in the other program's own mode.

requires  keys that say all that a function does
ensures   a shared trace is the graph that tracing again would give
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from lrp_fx.ir.program import FlatModule

#: How many are kept for all programs; the one that was not asked for the longest goes first.
KEPT = 512


@dataclass(frozen=True)
class Traced:
    """A traced function; ``sinks``: names of the sinks among its outputs."""

    module: fx.GraphModule
    sinks: tuple[str, ...] = ()


class Traces:
    """The traces of one program, and behind them those that all programs share."""

    def __init__(self) -> None:
        self.own: dict[Any, Traced] = {}
        self._values: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.own)

    def get(self, key: Any, mode: Any) -> Traced | None:
        """What was traced for the key; ``mode``: that of the program's abstract values."""
        found = self.own.get(key)
        if found is None and (known := known_of(mode)) is not None and (stored := _STORE.get((known, key))) is not None:
            found = self.own[key] = Traced(stored.module(mode, self._values), stored.sinks)
        return found

    def keep(self, key: Any, traced: Traced, mode: Any, before: Any = None, holds: Any = None) -> None:
        """Keep a trace, and share it if ``before``, `known_of` the mode when it was begun, is what is known still.

        ``before``: None for what is not to be shared. ``holds``: what the key names by identity, kept with it.
        """
        self.own[key] = traced
        if before is None or before != known_of(mode):
            return  # it has decided something by the sizes: another program has to be told
        stored = _Stored.of(traced, holds)
        if stored is not None:
            _STORE.put((before, key), stored)


def forget() -> None:
    """Share nothing that was traced so far."""
    _STORE.clear()


@contextmanager
def apart() -> Iterator[None]:
    """What is traced in here is shared among the programs made in here, and with no others: parts of the compiler may
    be replaced meanwhile.
    """
    before = _STORE.exchange(OrderedDict())
    try:
        yield
    finally:
        _STORE.exchange(before)


def known_of(mode: Any) -> Any:
    """All that tracing may take for granted of symbols and of kernels; None if it cannot be told."""
    kernels = (torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(), *_fused_attention())
    environment = mode.shape_env
    if environment is None:
        return kernels
    sizes, ranges = _traced_sizes(environment), environment.var_to_range
    if environment.deferred_runtime_asserts or not ranges.keys() <= sizes.keys():
        return None  # sizes that depend on values
    return (
        *kernels,
        tuple(sorted((str(s), s, sizes[s], r.lower, r.upper) for s, r in ranges.items())),
        tuple(guard.expr for guard in environment.guards),
        frozenset(environment.replacements.items()),
        frozenset(environment.divisible),
    )


def _fused_attention() -> tuple[bool, ...]:
    """Which kernels fused attention may take."""
    cuda: Any = torch.backends.cuda
    return (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled())


# ------------------------------------------------------------------------------------------------ in any mode
@dataclass(frozen=True)
class _Value:
    """An abstract tensor as data: numbers, or expressions of symbols."""

    sizes: tuple[Any, ...]
    strides: tuple[Any, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class _Size:
    expression: Any


class _NotData(Exception):
    """A value that is more than its sizes, strides and type."""


@dataclass(frozen=True)
class _Stored:
    """A traced function as data; ``holds`` keeps alive what its key names by identity."""

    graph: fx.Graph
    constants: dict[str, Tensor]
    sinks: tuple[str, ...]
    holds: Any

    @classmethod
    def of(cls, traced: Traced, holds: Any) -> _Stored | None:
        """None where it cannot be told from its values' data."""
        module = traced.module
        constants = {str(n.target): getattr(module, str(n.target)) for n in module.graph.find_nodes(op="get_attr")}
        if not all(map(_is_number, constants.values())):
            return None
        try:
            return cls(copied(module.graph, _as_data), constants, traced.sinks, holds)
        except _NotData:
            return None

    def module(self, mode: Any, values: dict[Any, Any]) -> fx.GraphModule:
        """The traced function in a mode; ``values``: those made in it before, added to."""
        root = nn.Module()
        for name, constant in self.constants.items():
            root.register_buffer(name, constant)
        return FlatModule(root, copied(self.graph, lambda data: _in_mode(data, mode, values)))


def copied(graph: fx.Graph, change: Callable[[Any], Any] | None = None) -> fx.Graph:
    """The graph with names that say nothing of what was dropped from it, and nothing beside its nodes but their values,
    changed.
    """
    new, env = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in graph.nodes:
        args, kwargs = (fx.map_arg(a, lambda n: env[n]) for a in (node.args, node.kwargs))
        name = node.name if node.op == "placeholder" else None
        made = env[node] = new.create_node(node.op, node.target, args, kwargs, name, node.type)
        if "val" in node.meta:
            value = node.meta["val"]
            made.meta["val"] = value if change is None else pytree.tree_map(change, value, is_leaf=_is_data)
    return new


def _is_number(constant: Any) -> bool:
    """Is it a single number? Larger constants belong to a model."""
    return isinstance(constant, Tensor) and not isinstance(constant, FakeTensor) and constant.numel() == 1


def _is_data(value: Any) -> bool:
    return isinstance(value, (_Value, _Size))


def _as_data(value: Any) -> Any:
    if value is None or type(value) in (int, float, bool):
        return value
    if isinstance(value, torch.SymInt):
        return _Size(_expression(value))
    if type(value) is not FakeTensor or value.layout != torch.strided or value.is_conj() or value.is_neg():
        raise _NotData
    sizes, strides = (tuple(map(_expression, numbers)) for numbers in (value.shape, value.stride()))
    return _Value(sizes, strides, value.dtype, value.device)


def _expression(size: Any) -> Any:
    return size if isinstance(size, int) else size.node.expr


def _in_mode(data: Any, mode: Any, values: dict[Any, Any]) -> Any:
    """A value in a mode; equal ones are one."""
    if not _is_data(data):
        return data
    if data not in values:
        if isinstance(data, _Size):
            values[data] = _size(data.expression, mode)
        else:
            sizes, strides = ([_size(s, mode) for s in numbers] for numbers in (data.sizes, data.strides))
            with mode:
                values[data] = torch.empty_strided(sizes, strides, dtype=data.dtype, device=data.device)
    return values[data]


def _size(expression: Any, mode: Any) -> Any:
    if isinstance(expression, int):
        return expression
    environment = mode.shape_env
    return environment.create_symintnode(expression, hint=int(expression.xreplace(_traced_sizes(environment))))


def _traced_sizes(environment: Any) -> Any:
    """The number behind each symbol; its name changed with torch 2.11."""
    name = "backed_var_to_val" if hasattr(environment, "backed_var_to_val") else "var_to_val"
    return getattr(environment, name)


class _Store:
    """The traces of all programs, the latest used last; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, _Stored] = OrderedDict()

    def get(self, key: Any) -> _Stored | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: Any, stored: _Stored) -> None:
        with self._lock:
            self._kept[key] = stored
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()

    def exchange(self, kept: OrderedDict[Any, _Stored]) -> OrderedDict[Any, _Stored]:
        """Other traces in the place of these, which are returned."""
        with self._lock:
            before, self._kept = self._kept, kept
        return before


_STORE = _Store()
