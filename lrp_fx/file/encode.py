"""Encode: graphs and records as JSON, and back, with nothing in a file that could run.

A file names operations; it holds none. Names are looked up among torch's operators and a short list of functions on
numbers, whatever else a file asks for is refused.
"""

from __future__ import annotations

import dataclasses
import keyword
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from lrp_fx.errors import InputError
from lrp_fx.ir.program import FlatModule, Input
from lrp_fx.structure.forms import Form
from lrp_fx.structure.sites import Site
from lrp_fx.structure.windows import Windows
from lrp_fx.transpose.signature import DepthInfo, GraphSignature, InjectionInfo, Leaf, PairsInfo, SiteInfo

#: Functions on numbers (sizes) that a relevance graph may call.
NUMBERS: dict[str, Callable[..., Any]] = {
    **{
        f"operator.{n}": getattr(operator, n)
        for n in "add sub mul floordiv mod neg truediv pow eq ne lt le gt ge and_ or_ getitem".split()
    },
    **{f"math.{n}": getattr(math, n) for n in "ceil floor trunc".split()},
    **{f"torch.{n}": getattr(torch, n) for n in "sym_max sym_min sym_int sym_float sym_not sym_ite".split()},
}
_NAMES = {f: n for n, f in NUMBERS.items()}
#: Families of operators that are torch's own, and ours (`lrp_fx.kernels`).
FAMILIES = frozenset("aten prims lrp_fx".split())
_RECORDS: dict[str, Any] = {
    c.__name__: c
    for c in (GraphSignature, DepthInfo, Form, Input, InjectionInfo, Leaf, PairsInfo, Site, SiteInfo, Windows)
}
_CONSTANTS = (torch.dtype, torch.memory_format, torch.layout)


def encode(value: Any) -> Any:
    """A value of a graph or a record as JSON; what is no plain value has one key that says what it is."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, complex):
        return {"complex": [encode(value.real), encode(value.imag)]}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, _CONSTANTS):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, tuple):
        return {"tuple": [encode(v) for v in value]}
    if isinstance(value, (list, torch.Size)):
        return [encode(v) for v in value]
    if isinstance(value, Mapping):
        return {"dict": [[encode(k), encode(v)] for k, v in value.items()]}
    if type(value).__name__ in _RECORDS and dataclasses.is_dataclass(value):
        return {
            "record": type(value).__name__,
            "fields": {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)},
        }
    raise InputError(f"cannot be written to a file: {value!r} ({type(value).__name__})")


class Decoder:
    """Reads what `encode` wrote; ``nodes``: the graph's nodes by name, ``device``: where all tensors shall be, None
    where they were.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.nodes: dict[str, fx.Node] = {}
        self.device = device

    def __call__(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self(v) for v in value]
        if not isinstance(value, dict):
            return value
        kind = _KINDS.get(frozenset(value))
        if kind is None:
            raise InputError(f"the file holds something that is no part of a relevance graph: {str(value)[:100]}")
        return getattr(self, f"_{kind}")(value)

    def _float(self, value: dict[str, Any]) -> float:
        return float(value["float"])

    def _complex(self, value: dict[str, Any]) -> complex:
        real, imaginary = value["complex"]
        return complex(self(real), self(imaginary))

    def _node(self, value: dict[str, Any]) -> fx.Node:
        if value["node"] not in self.nodes:
            raise InputError(f"the file's graph is broken: %{value['node']} is used before it is computed")
        return self.nodes[value["node"]]

    def _torch(self, value: dict[str, Any]) -> Any:
        found = getattr(torch, str(value["torch"]), None)
        if not isinstance(found, _CONSTANTS):
            raise InputError(f"the file names torch.{value['torch']}, which is no type, layout or memory format")
        return found

    def _device(self, value: dict[str, Any]) -> torch.device:
        return self.device if self.device is not None else torch.device(value["device"])

    def _tuple(self, value: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(self(v) for v in value["tuple"])

    def _dict(self, value: dict[str, Any]) -> dict[Any, Any]:
        return {self(k): self(v) for k, v in value["dict"]}

    def _record(self, value: dict[str, Any]) -> Any:
        kind = _RECORDS.get(value["record"])
        if kind is None:
            raise InputError(f"the file holds a record of an unknown kind: {value['record']}")
        return kind(**{name: self(v) for name, v in value["fields"].items()})


#: All keys of what `encode` writes -> the kind that it is.
_KINDS = {
    **{frozenset((k,)): k for k in "float complex node torch device tuple dict".split()},
    frozenset(("record", "fields")): "record",
}


def encode_graph(graph: fx.Graph) -> list[dict[str, Any]]:
    """The nodes of a flat graph, in order."""
    return [
        {
            "name": n.name,
            "op": n.op,
            "target": _target_name(n),
            "args": encode(tuple(n.args)),
            "kwargs": encode(dict(n.kwargs)),
        }
        for n in graph.nodes
    ]


def _target_name(node: fx.Node) -> str:
    if node.op != "call_function":
        return str(node.target)
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    if node.target in _NAMES:
        return _NAMES[node.target]
    raise InputError(f"%{node.name} calls {node.target}, which cannot be written to a file")


def decode_graph(
    nodes: Iterable[dict[str, Any]],
    tensors: Mapping[str, Tensor],
    *,
    families: frozenset[str],
    device: torch.device | None,
) -> fx.GraphModule:
    """The graph as a module that holds ``tensors`` (by the names of the graph's attributes)."""
    graph, read = fx.Graph(), Decoder(device)
    holder = nn.Module()
    for name, tensor in tensors.items():
        _check_word(name)
        holder.register_buffer(name, tensor)
    for item in nodes:
        if item["op"] == "get_attr" and item["target"] not in tensors:
            raise InputError(f"the file's graph reads the tensor {item['target']}, which the file does not hold")
        _add(graph, read, item, families)
    graph.lint()
    return FlatModule(holder, graph)


def _add(graph: fx.Graph, read: Decoder, item: Mapping[str, Any], families: frozenset[str]) -> None:
    """A node of a file, checked, at the end of the graph."""
    op, name, target = item["op"], item["name"], item["target"]
    if op not in ("placeholder", "get_attr", "call_function", "output"):
        raise InputError(f"the file's graph holds a {op!r} node: a relevance graph calls operations only")
    args, kwargs = read(item["args"]), read(item["kwargs"])
    if type(args) is not tuple or type(kwargs) is not dict:
        raise InputError(f"the file's graph gives %{str(name)[:60]} arguments that are none")
    for word in (name, *([] if op == "call_function" else [target]), *kwargs):
        _check_word(word)  # the graph becomes Python source: words of a file must not
    if name in read.nodes or (
        op == "placeholder" and target in {*read.nodes, *(n.target for n in graph.find_nodes(op="placeholder"))}
    ):
        raise InputError(
            f"the file's graph has two things of one name, of which one would hide the other: %{name}, {target}"
        )
    node = graph.create_node(
        op, find_operation(target, families) if op == "call_function" else target, args, kwargs, name=name
    )
    if node.name != name:  # a name of Python's own, which is never written
        raise InputError(f"the file's graph uses a name that is none: {name[:60]!r}")
    read.nodes[name] = node


def _check_word(word: object) -> None:
    if not isinstance(word, str) or not word.isidentifier() or keyword.iskeyword(word):
        raise InputError(f"the file's graph uses a name that is none: {str(word)[:60]!r}")


def find_operation(name: str, families: frozenset[str] = FAMILIES) -> Any:
    """The operation of that name among torch's operators (and those of ``families``) and the functions on numbers."""
    if name in NUMBERS:
        return NUMBERS[name]
    family, _, rest = name.partition(".")
    operation, _, overload = rest.partition(".")
    if family not in families:
        raise InputError(
            f"the file calls {name}: only torch's own operators are allowed; load(..., operators=({family!r},)) "
            "allows those of a library you trust and have imported"
        )
    found = getattr(getattr(getattr(torch.ops, family), operation, None), overload, None)
    if not isinstance(found, torch._ops.OpOverload):
        raise InputError(f"the file calls {name}, which this version of torch ({torch.__version__}) does not have")
    if found._schema.is_mutable or any(a.name == "filename" for a in found._schema.arguments):
        raise InputError(
            f"the file calls {name}, which changes its arguments or opens files: a relevance graph only computes"
        )
    if not torch._C._dispatch_has_kernel(found.name()):  # type: ignore[no-untyped-call]  # TorchScript's own, such as `aten.warn`
        raise InputError(f"the file calls {name}, which is no operation on tensors: a relevance graph only computes")
    return found
