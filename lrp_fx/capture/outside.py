"""Outside: values of the inputs that a model's Python takes out of torch while a call is recorded: to numpy, or as
numbers that it computes on with.

What is made of them comes back as a constant: the output is right for the call that was recorded, and relevance ends
where the values left. A number that only decides (``if x.max().item() > 0``) is no loss.

requires  a model that is recorded on one call (`lrp_fx.capture.record`)
ensures   the places where floating values left torch, found in the record; no mark of them stays in it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import ancestors
from lrp_fx.ir.operators import has
from lrp_fx.ir.source import source_line

#: A copy that nobody reads, and no model writes: it marks a value that is read in the record. A copy of the copy: it
#: left.
_MARK = torch.ops.aten.alias_copy.default
_ARRAYS = (Tensor.numpy, Tensor.__array__, Tensor.__dlpack__)
_NUMBERS = (Tensor.item, Tensor.tolist)


class Number(float):
    """A number that was read of a tensor, or made of one by Python's arithmetic. ``mark``: of the tensor; ``seen``: was
    it compared, or used by torch? (A list, shared by all that is made of what was read.)
    """

    mark: Tensor
    seen: list[bool]

    @classmethod
    def of(cls, value: float, mark: Tensor, seen: list[bool]) -> Number:
        made = cls(value)
        made.mark, made.seen = mark, seen
        return made


def _computes(name: str) -> Any:
    plain = getattr(float, name)

    def operation(self: Number, *others: Any) -> Any:
        result = plain(self, *others)
        return Number.of(result, self.mark, self.seen) if type(result) is float else result

    return operation


def _decides(name: str) -> Any:
    plain = getattr(float, name)

    def operation(self: Number, *others: Any) -> Any:
        self.seen.append(True)
        return plain(self, *others)

    return operation


for _name in "add radd sub rsub mul rmul truediv rtruediv pow rpow neg pos abs mod rmod floordiv rfloordiv".split():
    setattr(Number, f"__{_name}__", _computes(f"__{_name}__"))
for _name in "eq ne lt le gt ge bool".split():
    setattr(Number, f"__{_name}__", _decides(f"__{_name}__"))
Number.__hash__ = float.__hash__  # type: ignore[method-assign]


class MarksOutside(TorchFunctionMode):
    """While inside, what is given to numpy is marked, and numbers that are read say what becomes of them."""

    def __init__(self) -> None:
        super().__init__()
        self._read: list[Number] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._read:
            args, kwargs = pytree.tree_map_only(Number, self._used, (args, kwargs))
        if func in _ARRAYS and _is_floating(args[0]):
            _MARK(_MARK(args[0]))
        elif func is Tensor.__float__ and _is_floating(args[0]):
            _MARK(_MARK(args[0]))  # what Python makes of it cannot be told
        elif func in _NUMBERS and _is_floating(args[0]):
            mark, seen = _MARK(args[0]), list[bool]()
            found = func(*args, **(kwargs or {}))
            numbers = pytree.tree_map_only(float, lambda v: Number.of(v, mark, seen), found)
            self._read += pytree.tree_leaves(numbers)[:1]
            return numbers
        return func(*args, **(kwargs or {}))

    def settle(self) -> None:
        """What was read and never seen again left by a way that shows nothing (``math.exp(x.item())``)."""
        for number in self._read:
            if not number.seen:
                _MARK(number.mark)

    def _used(self, number: Number) -> float:
        _MARK(number.mark)
        number.seen.append(True)
        return float(number)


def _is_floating(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def taken_outside(graph: fx.Graph, names: Sequence[str]) -> dict[str, frozenset[str]]:
    """The user's source lines at which values made of the inputs left, and the inputs of each; marks are removed."""
    found: dict[str, frozenset[str]] = {}
    inputs = dict(zip(graph.find_nodes(op="placeholder"), names, strict=True))
    marks = graph.find_nodes(op="call_function", target=_MARK)
    for mark in marks:
        if any(user.target is _MARK for user in mark.users):
            above = ancestors([mark], until=lambda n: has(n, Fact.FILL))  # a fill reads the shape alone
            line = source_line(mark)
            found[line] = found.get(line, frozenset()) | {inputs[n] for n in above if n in inputs}
    for mark in reversed(marks):
        graph.erase_node(mark)
    return {line: of for line, of in found.items() if of}
