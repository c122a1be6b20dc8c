"""Traces: flat graphs of traced functions, by what they were traced for; those that any program may use are shared.

A trace depends on the function, on its abstract arguments, and on what is known of their symbols: ranges, traced
sizes, conditions. Where all of these are equal, however the symbols are called, it is the same graph, in whatever
program, and is copied instead of traced again: an abstract value is kept as its sizes, strides and type, and made anew
in the other program's own mode.

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
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree

from lrp_fx.ir.program import FlatModule
from lrp_fx.ir.symbols import conditions, traced_sizes, unnamed

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
        self._held: dict[Any, Any] = {}
        self._values: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.own)

    def get(self, key: Any, mode: Any) -> Traced | None:
        """What was traced for the key; ``mode``: that of the program's abstract values."""
        found = self.own.get(key)
        if found is None and known_of(mode) is not None and (asked := _shared_key(key, mode)) is not None:
            stored = _STORE.get(asked[0])
            if stored is not None:
                found = self.own[key] = Traced(stored.module(mode, asked[1], self._values), stored.sinks)
        return found

    def keep(self, key: Any, traced: Traced, mode: Any, before: Any = None, holds: Any = None) -> None:
        """Keep a trace, and share it if ``before``, `known_of` the mode when it was begun, is what is known still.

        ``before``: None for what is not to be shared. ``holds``: what the key names by identity, kept with it.
        """
        self.own[key] = traced
        self._held[key] = holds
        if before is None or before != known_of(mode):
            return  # it has decided something by the sizes: another program has to be told
        shared = _shared_key(key, mode)
        stored = _Stored.of(traced, shared[1], holds) if shared is not None else None
        if shared is not None and stored is not None:
            _STORE.put(shared[0], stored)


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
    environment = mode.shape_env
    if environment is None:
        return _kernels()
    sizes, ranges = traced_sizes(environment), environment.var_to_range
    if environment.deferred_runtime_asserts or not ranges.keys() <= sizes.keys():
        return None  # sizes that depend on values
    return _kernels(), frozenset((s, sizes[s], r.lower, r.upper) for s, r in ranges.items()), conditions(environment)


def _shared_key(key: Any, mode: Any) -> tuple[Any, tuple[Any, ...]] | None:
    """What programs share a trace for, and the program's symbols by their number in it."""
    return unnamed((_kernels(), key), mode.shape_env)


def _kernels() -> tuple[Any, ...]:
    """Which kernels may be taken, those of fused attention above all, and in what types."""
    cuda: Any = torch.backends.cuda
    names = ("flash", "mem_efficient", "math", "cudnn")
    fused = tuple(getattr(cuda, f"{name}_sdp_enabled")() for name in names)
    casts = tuple(torch.get_autocast_dtype(d) for d in ("cpu", "cuda") if torch.is_autocast_enabled(d))
    return (
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        *fused,
        cuda.cudnn_sdp_enabled(),
        casts,
    )


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
    """A traced function as data; ``symbols``: of the program that it is from, by number; ``holds`` keeps alive what its
    key names by identity.
    """

    graph: fx.Graph
    symbols: tuple[Any, ...]
    constants: dict[str, Tensor]
    sinks: tuple[str, ...]
    holds: Any

    @classmethod
    def of(cls, traced: Traced, symbols: tuple[Any, ...], holds: Any) -> _Stored | None:
        """None where it cannot be told from its values' data."""
        module = traced.module
        constants = {str(n.target): getattr(module, str(n.target)) for n in module.graph.find_nodes(op="get_attr")}
        if not all(map(_is_number, constants.values())) or _holds_sizes(module.graph):
            return None
        try:
            graph = copied(module.graph, lambda value: _as_data(value, frozenset(symbols)))
            return cls(graph, symbols, constants, traced.sinks, holds)
        except _NotData:
            return None

    def module(self, mode: Any, symbols: tuple[Any, ...], values: dict[Any, Any]) -> fx.GraphModule:
        """The traced function in a mode with these symbols; ``values``: those made in it before, added to."""
        root = nn.Module()
        for name, constant in self.constants.items():
            root.register_buffer(name, constant)
        own = {theirs: ours for theirs, ours in zip(self.symbols, symbols, strict=True) if theirs != ours}
        return FlatModule(root, copied(self.graph, lambda data: _in_mode(_renamed(data, own), mode, values)))


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


def _holds_sizes(graph: fx.Graph) -> bool:
    """Has it a symbol of its program in a call, which no argument gave?"""
    found: list[Any] = []
    for node in graph.nodes:
        map_aggregate((node.args, node.kwargs), lambda a: found.append(a) if isinstance(a, torch.SymInt) else a)
    return bool(found)


def _is_number(constant: Any) -> bool:
    """Is it a single number? Larger constants belong to a model."""
    return isinstance(constant, Tensor) and not isinstance(constant, FakeTensor) and constant.numel() == 1


def _is_data(value: Any) -> bool:
    return isinstance(value, (_Value, _Size))


def _as_data(value: Any, symbols: frozenset[Any]) -> Any:
    """``symbols``: those that a value may have."""
    if value is None or type(value) in (int, float, bool):
        return value
    if isinstance(value, torch.SymInt):
        return _Size(_expression(value, symbols))
    if type(value) is not FakeTensor or value.layout != torch.strided or value.is_conj() or value.is_neg():
        raise _NotData
    sizes, strides = (tuple(_expression(n, symbols) for n in numbers) for numbers in (value.shape, value.stride()))
    return _Value(sizes, strides, value.dtype, value.device)


def _expression(size: Any, symbols: frozenset[Any]) -> Any:
    if isinstance(size, int):
        return size
    if not size.node.expr.free_symbols <= symbols:
        raise _NotData
    return size.node.expr


def _renamed(data: Any, own: dict[Any, Any]) -> Any:
    """A value with a program's own symbols for another's."""
    if not own or not _is_data(data):
        return data
    if isinstance(data, _Size):
        return _Size(_replaced(data.expression, own))
    sizes, strides = (tuple(_replaced(n, own) for n in numbers) for numbers in (data.sizes, data.strides))
    return _Value(sizes, strides, data.dtype, data.device)


def _replaced(expression: Any, own: dict[Any, Any]) -> Any:
    return expression if isinstance(expression, int) else expression.xreplace(own)


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
    return environment.create_symintnode(expression, hint=int(expression.xreplace(traced_sizes(environment))))


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
