"""Unloaded: a model whose weights are not there yet, which can be captured and measured and not explained.

Its parameters lie on the meta device, which has no numbers, and which a graph that is to run elsewhere cannot be traced
on. A copy of it gets stand-ins: tensors of the same shapes, strides and types on the CPU, in memory that the operating
system hands over when it is written to. Weights are written into them later, so that they are in memory once.

requires  a model with parameters on the meta device, and with all that no file of weights will hold
ensures   the model that was given is as it was; what runs the copy runs it on abstract values where that can be
"""

from __future__ import annotations

import copy
import mmap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lrp_fx.capture.offloaded import HOOK
from lrp_fx.errors import InputError

#: Smaller tensors are not worth a page of their own.
_SMALL = 1 << 14
#: Attribute of a model that waits for weights, which copies have too: the names of the tensors that it waits for.
_AWAITED = "_lrp_fx_awaits"
#: Where a module has the forward that offloading put in the place of its own, and its own.
_WRAPPED, _ORIGINAL = "forward", "_old_forward"


def is_unloaded(model: nn.Module) -> bool:
    """Is a tensor of the model on the meta device?"""
    return any(t.is_meta for t in (*model.parameters(), *model.buffers()))


def waits(model: nn.Module) -> bool:
    """Is it, or a model inside it, one that stand-ins were put into and no weights yet?"""
    return any(_AWAITED in vars(module) for module in model.modules())


def awaited(model: nn.Module) -> tuple[str, ...]:
    """The names of the tensors that a model waits for; one with several names comes several times."""
    found: tuple[str, ...] = vars(model).get(_AWAITED, ())
    return found


def has_come(model: nn.Module) -> None:
    """All of a model's weights are there."""
    vars(model).pop(_AWAITED, None)


def require_weights(model: nn.Module) -> None:
    """Raise `InputError` for a model that waits for its weights."""
    if waits(model):
        raise InputError(
            "the model has no weights yet: it was converted from the meta device\n    next: explainer.bind(folder), "
            "with its safetensors files, or bind(state_dict)"
        )


def with_stand_ins(model: nn.Module) -> nn.Module:
    """A copy of the model in which stand-ins are in the place of what is on the meta device. Of a model with hooks that
    fetch weights, what is not there is shared with the copy, which has no hooks.

    Raises `InputError`, by name, for what no file of weights will hold.
    """
    _refuse_lost(model)
    hooks = {id(hook): None for m in model.modules() if (hook := vars(m).get(HOOK)) is not None}
    shared = {id(t): t for t in (*model.parameters(), *model.buffers()) if hooks and not t.is_meta}
    made = copy.deepcopy(model, {**shared, **hooks})
    if hooks and callable(tie := getattr(made, "tie_weights", None)):
        tie()  # offloading made two of a tensor that two modules share
    _unhook(made)
    vars(made)[_AWAITED] = _fill(made)
    return made


def _refuse_lost(model: nn.Module) -> None:
    packed = [n for n, p in model.named_parameters() if p.is_meta and is_traceable_wrapper_subclass(p)]
    if packed:
        kind = type(model.get_parameter(packed[0])).__name__
        raise InputError(
            f"{packed[0]} is a {kind} on the meta device: weights in a form of their own are not bound later\n    "
            "next: load the model, and convert it then"
        )
    lost = [n for n, b in _lasting(model, lasting=False) if b.is_meta]
    lost += [
        f"{path}.{n}".lstrip(".")
        for path, m in model.named_modules()
        for n, v in vars(m).items()
        if isinstance(v, Tensor) and v.is_meta
    ]
    if lost:
        raise InputError(
            f"{', '.join(lost[:3])}{f' and {len(lost) - 3} more' if len(lost) > 3 else ''} on the meta device: no "
            "file of weights holds buffers that are not persistent, or plain attributes: their numbers are lost\n    "
            "next: lrp_fx.convert(folder, weights=False), or make the model inside lrp_fx.parameters_on_meta(), which "
            "leaves them where they are"
        )


def _lasting(model: nn.Module, *, lasting: bool) -> Iterator[tuple[str, Tensor]]:
    """Buffers that a file of weights holds, or those that it does not."""
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if (name not in module._non_persistent_buffers_set) is lasting:
                yield f"{path}.{name}".lstrip("."), buffer


def _unhook(model: nn.Module) -> None:
    """The forward of each module is its own again, not one that fetches weights first."""
    for module in model.modules():
        if _ORIGINAL in vars(module):
            original = vars(module).pop(_ORIGINAL)
            vars(module).pop(_WRAPPED, None)
            vars(module).pop(HOOK, None)
            if getattr(original, "__func__", None) is not type(module).forward:
                vars(module)[_WRAPPED] = original


def _fill(model: nn.Module) -> tuple[str, ...]:
    """Put stand-ins where tensors are on the meta device, one for each, and tell their names."""
    made: dict[int, Tensor] = {}
    names: list[str] = []
    for path, module in model.named_modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None and tensor.is_meta:
                    held[name] = made.setdefault(id(tensor), _stand_in(tensor))
                    names.append(f"{path}.{name}".lstrip("."))
    return tuple(names)


def _stand_in(tensor: Tensor) -> Tensor:
    size = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) if tensor.numel() else 0
    found = _untouched(size, tensor.dtype).as_strided(tensor.shape, tensor.stride())
    if not isinstance(tensor, nn.Parameter):
        return found
    made = nn.Parameter(found, requires_grad=tensor.requires_grad)
    vars(made).update(vars(tensor))
    return made


def _untouched(count: int, dtype: torch.dtype) -> Tensor:
    """So many zeros, which take memory when they are written over."""
    size = count * dtype.itemsize
    if size < _SMALL:
        return torch.zeros(count, dtype=dtype)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS if hasattr(mmap, "MAP_PRIVATE") else 0
    pages = mmap.mmap(-1, size, flags) if flags else mmap.mmap(-1, size)
    return torch.frombuffer(pages, dtype=dtype, count=count)


def run_waiting(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """What a model that waits for weights gives: shapes and types of outputs, and no number. One whose Python looks at
    numbers (of a buffer, say) is run on those of the stand-ins.
    """
    try:
        return run_abstractly(model, named=inputs)
    except (DataDependentOutputException, DynamicOutputShapeException):
        return model(**pytree.tree_map_only(Tensor, torch.clone, dict(inputs)))


def run_abstractly(run: nn.Module, inputs: Sequence[Any] = (), named: Mapping[str, Any] | None = None) -> Any:
    """What a model, or its graph, gives on abstract values."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return run(*_abstract(mode, inputs), **_abstract(mode, named or {}))


def _abstract(mode: FakeTensorMode, inputs: Any) -> Any:
    return pytree.tree_map_only(Tensor, lambda t: mode.from_tensor(t, static_shapes=True), inputs)
