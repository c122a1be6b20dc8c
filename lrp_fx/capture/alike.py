"""Alike: which blocks of a model are the same but for their weights, and for numbers that count them.

Two modules are alike if they have the same classes, the same kinds of weights and the same plain attributes all the way
down, and no hooks. Whole numbers that count them may differ (a layer's index); that nobody asks for them is seen by
`Watched`.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeAlias

from torch import Tensor, nn

from lrp_fx.ir.contents import PLAIN

#: As many blocks as it takes for stamping to be worth its while.
MIN_BLOCKS = 3
_OWN = frozenset(vars(nn.Module()))


#: Blocks that are alike, with their places in the model; an attribute of a module.
Group: TypeAlias = list[tuple[str, nn.Module]]
Number: TypeAlias = tuple[nn.Module, str]


def repeated_blocks(model: nn.Module) -> tuple[list[Group], list[Number]]:
    """Groups of blocks that are alike, outermost first and none inside another, and the numbers that count them."""
    groups: list[Group] = []
    counted: list[Number] = []
    inside: set[nn.Module] = set()
    for path, module in model.named_modules():
        if module in inside or not isinstance(module, (nn.ModuleList, nn.Sequential)):
            continue
        for group, numbers in _alike_children(path, module):
            groups.append(group)
            counted += numbers
            inside.update(m for _, block in group for m in block.modules())
    return groups, counted


def _alike_children(path: str, module: nn.Module) -> Iterator[tuple[Group, list[Number]]]:
    found: list[tuple[Group, int, dict[Number, None]]] = []
    for place, (name, child) in enumerate(module.named_children()):
        named = (f"{path}.{name}" if path else name, child)
        for group, first, numbers in found:
            differing = _compared(group[0][1], child, place - first)
            if differing is not None:
                group.append(named)
                numbers.update(dict.fromkeys(differing))
                break
        else:
            if any(True for _ in child.parameters()):
                found.append(([named], place, {}))
    for group, _, numbers in found:
        own = [p for _, block in group for p in (*block.parameters(), *block.buffers())]
        if len(group) >= MIN_BLOCKS and len({id(p) for p in own}) == len(own):  # none of them shared
            yield group, list(numbers)


def _compared(a: nn.Module, b: nn.Module, distance: int) -> list[Number] | None:
    """Numbers in which two modules, the second so many places behind the first, differ by as much; None if they differ
    in anything else.
    """
    ours, theirs = dict(a.named_modules()), dict(b.named_modules())
    if list(ours) != list(theirs):
        return None
    found: list[Number] = []
    for x, y in zip(ours.values(), theirs.values(), strict=True):
        mine, yours = _plain_attributes(x), _plain_attributes(y)
        if type(x) is not type(y) or mine.keys() != yours.keys() or _weights(x) != _weights(y):
            return None
        if _is_hooked(x) or _is_hooked(y):
            return None
        for name, value in mine.items():
            if type(value) is int and type(yours[name]) is int and yours[name] - value == distance:
                found += [(x, name), (y, name)]
            elif not _alike(value, yours[name], a, b):
                return None
    return found


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    return {n: v for n, v in vars(module).items() if n not in _OWN} | {"training": module.training}


def _weights(module: nn.Module) -> list[Any]:
    tensors = [*module._parameters.items(), *module._buffers.items()]
    return [(n, None if t is None else (type(t), t.shape, t.stride(), t.dtype, t.device)) for n, t in tensors]


def _is_hooked(module: nn.Module) -> bool:
    """Has it hooks, or a forward of its own?"""
    return "forward" in vars(module) or any(getattr(module, n) for n in _OWN if n.endswith("_hooks"))


def _alike(x: Any, y: Any, a: nn.Module, b: nn.Module) -> bool:
    """Are two attributes of the blocks ``a`` and ``b`` one value, or alike?"""
    if x is y:
        return True
    if type(x) is not type(y) or isinstance(x, Tensor):
        return False
    if isinstance(x, PLAIN):
        return bool(x == y)
    if isinstance(x, (list, tuple, set, frozenset)):
        return len(x) == len(y) and all(_alike(u, v, a, b) for u, v in zip(x, y, strict=True))
    if isinstance(x, dict):
        return list(x) == list(y) and all(_alike(x[k], y[k], a, b) for k in x)
    if isinstance(x, functools.partial):
        return _alike((x.func, x.args, x.keywords), (y.func, y.args, y.keywords), a, b)
    if isinstance(x, types.MethodType):
        return x.__func__ is y.__func__ and _alike(x.__self__, y.__self__, a, b)
    if isinstance(x, nn.Module):  # one that is held twice: by the same name in both
        return [n for n, m in a.named_modules() if m is x] == [n for n, m in b.named_modules() if m is y] != []
    return False


class Watched(int):
    """A number that says when it is asked for."""

    asked: ClassVar[set[int]] = set()


def _watching(name: str) -> Callable[..., Any]:
    plain = getattr(int, name)

    def method(self: Watched, *args: Any) -> Any:
        Watched.asked.add(id(self))
        return plain(self, *args)

    return method


for _name in (
    "__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __floordiv__ __rfloordiv__ __truediv__ __rtruediv__ __mod__ "
    "__rmod__ __pow__ __rpow__ __divmod__ __rdivmod__ __and__ __rand__ __or__ __ror__ __xor__ __rxor__ __lshift__ "
    "__rshift__ __neg__ __pos__ __abs__ __invert__ __int__ __float__ __index__ __bool__ __hash__ __eq__ __ne__ __lt__ "
    "__le__ __gt__ __ge__ __str__ __repr__ __format__ __round__ __trunc__ __floor__ __ceil__"
).split():
    setattr(Watched, _name, _watching(_name))
