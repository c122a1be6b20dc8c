"""Guards of the inputs themselves: what tensors there are, the values beside them, and the device they lie on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, fx

from lrp_fx.guards.guard import Arguments, Guard, Reader, Writer
from lrp_fx.ir.program import Input


@dataclass(frozen=True)
class TensorGuard(Guard):
    """The tensors by name, in the order of the graph's arguments: types, number of axes, and sizes that are fixed."""

    kind = "tensors"
    inputs: tuple[Input, ...]

    def refusal(self, call: Arguments) -> str | None:
        given, names = call.tensors, [i.name for i in self.inputs]
        if set(given) != set(names):
            return f"this graph was made for {', '.join(names)}; got {', '.join(given) or 'no tensor'}"
        for info in self.inputs:
            value = given[info.name]
            if value.dtype != info.dtype or not info.admits(value.shape):
                sizes = ", ".join("any" if d else str(s) for d, s in zip(info.dynamic, info.shape, strict=True))
                return f"{info.name} must be {info.dtype} of shape ({sizes}); got {value.dtype} {tuple(value.shape)}"
        return None

    def encode(self, write: Writer) -> dict[str, Any]:
        return {"inputs": write.value(self.inputs)}

    @classmethod
    def decode(cls, facts: Mapping[str, Any], read: Reader) -> Self:
        inputs = read.value(facts["inputs"])
        if not isinstance(inputs, tuple) or not all(isinstance(i, Input) for i in inputs):
            raise ValueError("inputs that are none")
        return cls(inputs)


@dataclass(frozen=True, eq=False)
class PlainGuard(Guard):
    """The values beside the tensors, as text: they are part of what was traced. One that is None may be left out."""

    kind = "plain"
    values: Mapping[str, str]

    def refusal(self, call: Arguments) -> str | None:
        given = {n: v for n, v in call.plain.items() if v != "None" or n in self.values}
        if given == self.values:
            return None
        return f"this graph was made for {_listed(self.values)} beside its tensors; got {_listed(given)}"

    def encode(self, write: Writer) -> dict[str, Any]:
        return {"values": dict(self.values)}

    @classmethod
    def decode(cls, facts: Mapping[str, Any], read: Reader) -> Self:
        return cls({str(n): str(v) for n, v in facts["values"].items()})


def _listed(plain: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value[:60]}" for name, value in plain.items()) or "no other values"


@dataclass(frozen=True, eq=False)
class ValueGuard(Guard):
    """The values of the tensors, where a graph is the record of one call."""

    kind = "values"
    values: Mapping[str, Tensor]

    def refusal(self, call: Arguments) -> str | None:
        given = call.tensors
        other = [n for n, held in self.values.items() if not torch.equal(held.to(given[n].device), given[n])]
        if not other:
            return None
        return (
            "this graph is the record of one call and holds for its values only; other values were given for "
            f"{', '.join(other)}"
        )

    def encode(self, write: Writer) -> dict[str, Any]:
        return {"values": write.tensors(self.values)}

    @classmethod
    def decode(cls, facts: Mapping[str, Any], read: Reader) -> Self:
        return cls(read.tensors(facts["values"]))


@dataclass(frozen=True)
class DeviceGuard(Guard):
    """The kind of device that a graph was made on, where it calls a kernel (fused attention) that no other has."""

    kind = "device"
    device: str
    fused: bool

    def refusal(self, call: Arguments) -> str | None:
        kinds = {value.device.type for value in call.tensors.values()}
        return None if self.device in kinds else self.refusal_on(next(iter(kinds), self.device))

    def refusal_on(self, kind: str) -> str | None:
        """Why the graph does not run on devices of this kind."""
        if not self.fused or kind == self.device:
            return None
        return (
            f"this graph calls the fused attention of {self.device}, which {kind} does not have: explain the model on "
            f"{kind} and save it there"
        )

    def encode(self, write: Writer) -> dict[str, Any]:
        return {"device": self.device, "fused": self.fused}

    @classmethod
    def decode(cls, facts: Mapping[str, Any], read: Reader) -> Self:
        return cls(str(facts["device"]), bool(facts["fused"]))


def device_guard(module: fx.GraphModule, device: torch.device) -> DeviceGuard:
    """For a relevance graph that was made on this device."""
    names = {str(n.target) for n in module.graph.nodes if n.op == "call_function"}
    return DeviceGuard(device.type, any(name.startswith("aten._scaled_dot_product") for name in names))
