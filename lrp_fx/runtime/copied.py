"""Copied: a deep copy of a model, with tensors in it that Python's own copy refuses.

Packed and quantised weights are tensors made of others (which cannot always be cloned as one), and what a model keeps
of a computation is no leaf of autograd: both are copied by the tensors that they are made of.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lrp_fx.errors import InputError, raise_if_out_of_memory


def copied(model: nn.Module, instead: dict[int, Any]) -> nn.Module:
    """A deep copy; ``instead``: what stands in it for objects of the model, by their ids. Raises `InputError` where
    something of the model cannot be copied.
    """
    known = dict(instead)
    try:
        for name, tensor in _held(model, instead):
            if id(tensor) not in known:
                known[id(tensor)] = _of(tensor, name)
        return copy.deepcopy(model, known)
    except InputError:
        raise
    except Exception as error:
        raise_if_out_of_memory(error)
        said = next(iter(str(error).splitlines()), "")[:200]
        raise InputError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {said})\n    next: explain the model "
            "as it is, or before it is quantised"
        ) from error


def _held(module: nn.Module, instead: dict[int, Any], name: str = "") -> list[tuple[str, Tensor]]:
    """Tensors that a module holds, as parameters, buffers or plain attributes; not those of modules replaced."""
    if id(module) in instead:
        return []
    own = {**vars(module), **module._parameters, **module._buffers}
    inside = [t for n, child in module._modules.items() if child for t in _held(child, instead, f"{name}{n}.")]
    return [*((name + n, t) for n, t in own.items() if isinstance(t, Tensor)), *inside]


def _of(tensor: Tensor, name: str) -> Tensor:
    try:
        return copy.deepcopy(tensor)
    except Exception as error:
        raise_if_out_of_memory(error)
        try:
            return _rebuilt(tensor)
        except Exception as refused:
            raise_if_out_of_memory(refused)
            raise InputError(
                f"{name} ({type(tensor).__name__}) cannot be copied\n    next: explain the model as it is, or before "
                "it is quantised"
            ) from error


def _rebuilt(tensor: Tensor) -> Tensor:
    """The same of copies of the tensors that it is made of."""
    if not is_traceable_wrapper_subclass(tensor):
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)
    names, context = tensor.__tensor_flatten__()
    inner = {n: _of(getattr(tensor, n), n) for n in names}
    made = type(tensor).__tensor_unflatten__(inner, context, tensor.size(), tensor.stride())
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
