"""Parts: a dictionary's encoder and decoder as a flat graph, and that graph inside a program.

requires  a dictionary and the abstract values that it reads and reconstructs
ensures   the operations of its functions, its tensors as arguments; `InputError` where it does not fit the value
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.stateless import _reparametrize_module

from lrp_fx.dictionaries.dictionary import Dictionary
from lrp_fx.errors import InputError, LrpError
from lrp_fx.ir.graph import ancestors, copy_node, output_node, value_of
from lrp_fx.ir.tracing import trace

PARAMETER, CONSTANT = "parameter", "constant"


@dataclass(frozen=True)
class Parts:
    """``module``: a flat graph (value, *tensors) -> [latents, reconstruction]; ``tensors``: name -> (tensor, its
    origin), in order.
    """

    name: str
    module: fx.GraphModule
    tensors: dict[str, tuple[Tensor, str]]


def traced(name: str, dictionary: Dictionary, at: fx.Node, read: Tensor) -> Parts:
    """A dictionary as a graph. name: of its latents; at: the node that it reconstructs; read: the abstract value that
    it encodes.
    """
    mode = read.fake_mode  # type: ignore[attr-defined]
    place, value = name.rpartition(".")[0], value_of(at)
    tensors = _tensors(dictionary.modules)
    _require_type(place, [t for t, _ in tensors.values()], read)
    with mode:
        fakes = [mode.from_tensor(t.detach(), static_shapes=True) for t, _ in tensors.values()]
    said: list[Any] = []

    def run(x: Tensor, *given: Tensor) -> list[Tensor]:
        with torch.no_grad(), _with(dictionary.modules, list(given)):
            latents = dictionary.encoder(x)
            said[:] = [latents]
            x_hat = dictionary.decoder(latents)
        said[:] = [latents, x_hat]
        return [latents, x_hat]

    allowed, mode.allow_non_fake_inputs = mode.allow_non_fake_inputs, True
    try:
        module = trace(run, [read, *fakes], mode)
    except LrpError:
        raise
    except Exception as error:
        raise InputError(_misfit(place, value, read, error, said)) from error
    finally:
        mode.allow_non_fake_inputs = allowed
    latents, x_hat = said
    _require_fit(place, value, latents, x_hat)
    return Parts(name, module, tensors)


def inlined(module: fx.GraphModule, parts: Parts, read: fx.Node, at: fx.Node) -> tuple[fx.Node, fx.Node]:
    """The operations of a dictionary at the insertion point: its latents and its reconstruction."""
    graph, source = module.graph, parts.module
    latents: Any = output_node(source.graph).args[0][0]  # type: ignore[index]
    encodes = set(ancestors([latents]))
    given: Iterator[tuple[str, tuple[Tensor, str]]] = iter(parts.tensors.items())
    env: dict[fx.Node, fx.Node] = {}
    for number, node in enumerate(source.graph.nodes):
        if node.op == "placeholder":
            env[node] = read if not number else _attribute(module, parts.name, *next(given), node)
        elif node.op == "get_attr":
            held = getattr(source, str(node.target))
            env[node] = _attribute(module, parts.name, str(node.target), (held, PARAMETER), node)
        elif node.op != "output":
            env[node] = copy_node(graph, node, lambda n: env[n])
            env[node].meta = _placed(node, at, parts.name if node in encodes else parts.name.rpartition(".")[0])
    found: Any = output_node(source.graph).args[0]
    return env[found[0]], env[found[1]]


def _placed(node: fx.Node, at: fx.Node, path: str) -> dict[str, Any]:
    """What is recorded of an operation of a dictionary: it belongs to the module that its activation comes from."""
    stack = {**(at.meta.get("nn_module_stack") or {}), f"dictionary {path}": (path, Dictionary)}
    return {"val": node.meta["val"], "nn_module_stack": stack, "stack_trace": at.meta.get("stack_trace")}


def _attribute(module: fx.GraphModule, place: str, name: str, given: tuple[Tensor, str], node: fx.Node) -> fx.Node:
    """One of a dictionary's tensors as an attribute of the program's module, under its own name."""
    tensor, origin = given
    attribute = base = re.sub(r"\W", "_", f"{place.rpartition('.')[0]}_{name}")
    number = 0
    while hasattr(module, attribute):
        number += 1
        attribute = f"{base}_{number}"
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(attribute, tensor)
    else:
        module.register_buffer(attribute, tensor)
    new = module.graph.get_attr(attribute)
    value = node.meta.get("val")
    new.meta = {"val": value if value is not None else tensor, "origin": origin}
    return new


def _tensors(modules: Sequence[nn.Module]) -> dict[str, tuple[Tensor, str]]:
    """Parameters and buffers by name, those of the second module behind those of the first; each once."""
    found: dict[str, tuple[Tensor, str]] = {}
    for number, module in enumerate(modules):
        start = f"{('encoder', 'decoder')[number]}." if len(modules) > 1 else ""
        found |= {f"{start}{n}": (p, PARAMETER) for n, p in module.named_parameters()}
        found |= {f"{start}{n}": (b, CONSTANT) for n, b in module.named_buffers()}
    return found


@contextlib.contextmanager
def _with(modules: Sequence[nn.Module], given: list[Tensor]) -> Iterator[None]:
    """Modules that hold these tensors, in the order of `_tensors`, inside the block."""
    with contextlib.ExitStack() as stack:
        for module in modules:
            names = [n for n, _ in (*module.named_parameters(), *module.named_buffers())]
            own, given = dict(zip(names, given, strict=False)), given[len(names) :]
            stack.enter_context(_reparametrize_module(module, own, tie_weights=True))
        yield


# ------------------------------------------------------------------------------------------------ what does not fit
def _require_type(place: str, tensors: Sequence[Tensor], read: Tensor) -> None:
    """A dictionary of another type or device than the model's would be cast, weight by weight, without a word."""
    for tensor in tensors:
        if tensor.is_floating_point() and (tensor.dtype, tensor.device) != (read.dtype, read.device):
            raise InputError(
                f"the dictionary at {place!r} is {tensor.dtype} on {tensor.device}, what it reads is {read.dtype} on "
                f"{read.device}\n    next: dictionary.to({str(read.device)!r}, {read.dtype})"
            )


def _require_fit(place: str, value: Tensor, latents: Any, x_hat: Any) -> None:
    for what, given in (("encode", latents), ("decode", x_hat)):
        if not isinstance(given, Tensor) or not given.is_floating_point():
            raise InputError(
                f"the dictionary at {place!r}: {what} returns {type(given).__name__}, not one floating-point tensor"
                "\n    next: give lrp_fx.Dictionary functions that return the latents, and the reconstruction, alone"
            )
    if tuple(x_hat.shape) != tuple(value.shape) or x_hat.dtype != value.dtype:
        raise InputError(
            f"the dictionary at {place!r} makes {tuple(x_hat.shape)} {x_hat.dtype} of a value of shape "
            f"{tuple(value.shape)} {value.dtype}\n    next: put it at the place that it was trained to reconstruct"
        )


def _misfit(place: str, value: Tensor, read: Tensor, error: Exception, said: list[Any]) -> str:
    where = "decode" if said else "encode"
    shape = tuple(said[0].shape) if said and isinstance(said[0], Tensor) else tuple(read.shape)
    what = str(error).strip().splitlines()
    return (
        f"the dictionary at {place!r} cannot be traced: {where} of a value of shape {shape} raises "
        f"{type(error).__name__}: {what[0] if what else ''}\n    next: it reads (..., {read.shape[-1]}) and "
        f"reconstructs {tuple(value.shape)}, by operations of torch alone; what decides in Python by values is none"
    )
