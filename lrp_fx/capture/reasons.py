"""Reasons: why no method captures a model, where that is a property of the model and can be told.

requires  a model whose capture was refused, and inputs it runs on
ensures   a reason and a way out, or None; the random state of the process is as it was
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from lrp_fx.capture.compare import inference_configuration, largest_difference, own_tensors
from lrp_fx.capture.hooks import hooks_restored
from lrp_fx.capture.quantised import quantised_layers
from lrp_fx.errors import is_ours, raise_if_out_of_memory
from lrp_fx.ir.passes import is_own_fault

_TORCH = str(torch.__path__[0])


def reason(model: nn.Module, inputs: dict[str, Any]) -> tuple[str, str] | None:
    """(why, what to do next); None where nothing is known."""
    return _draws(model, inputs) or _holds_script(model) or _is_quantised(model)


def _draws(model: nn.Module, inputs: dict[str, Any]) -> tuple[str, str] | None:
    """Does it give other outputs for the same inputs?"""
    watch = _Draws()
    with torch.random.fork_rng(), torch.no_grad(), inference_configuration(model):
        try:
            with hooks_restored(model):
                with watch:
                    first = _tensors(model(**own_tensors(inputs)))
                second = _tensors(model(**own_tensors(inputs)))
        except Exception as error:  # of the model, which refuses to run twice
            raise_if_out_of_memory(error)
            if is_own_fault(error):
                raise
            return None
    if len(first) == len(second) and all(largest_difference(a, b) == 0 for a, b in zip(first, second, strict=True)):
        return None
    why = "the model gives other outputs for the same inputs, so that no graph can be compared with it"
    if not watch.found:
        return f"{why}: it keeps something from one call to the next", "call a model whose forward changes nothing"
    return (
        f"{why}: it draws random numbers in evaluation mode ({', '.join(watch.found)})",
        "turn that off (dropout takes training=self.training), or give the numbers to forward as an input",
    )


def _tensors(result: Any) -> list[Tensor]:
    return [v for v in pytree.tree_leaves(result) if isinstance(v, Tensor)]


class _Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations that draw random numbers, with the user's lines."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags and len(self.found) < 3:
            where = next(_users_lines(), "")
            what = f"{func.overloadpacket} at {where}" if where else str(func.overloadpacket)
            self.found += [what] if what not in self.found else []
        return func(*args, **(kwargs or {}))


def _users_lines() -> Iterator[str]:
    """The lines of the call stack that are neither torch's nor ours, the innermost first."""
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith((_TORCH, "<")) and not is_ours(frame.filename):
            yield f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}: {frame.line}"


def _holds_script(model: nn.Module) -> tuple[str, str] | None:
    """Are weights packed into objects of TorchScript, as `torch.ao.quantization` does?"""
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
        return "it is TorchScript, which cannot be traced", "explain the model that it was made of"
    holding = [
        n or type(m).__name__
        for n, m in model.named_modules()
        if any(isinstance(v, torch.ScriptObject) for v in vars(m).values())
    ]
    if not holding:
        return None
    return (
        "weights are packed into TorchScript objects, which no graph can hold "
        f"({holding[0]} and {len(holding) - 1} more)",
        "explain lrp_fx.dequantised(model), or the model before it is quantised",
    )


def _is_quantised(model: nn.Module) -> tuple[str, str] | None:
    """Are weights in a form that the kernels of a quantiser read, of which not all show a graph?"""
    found = list(quantised_layers(model))
    if not found:
        return None
    (name, layer), more = found[0], len(found) - 1
    return (
        f"weights are quantised ({name}: {type(layer).__module__.split('.')[0]}'s {type(layer).__name__}, and {more} "
        "more layers), and what computes with them shows no graph",
        "explain lrp_fx.dequantised(model), or the model before it is quantised",
    )
