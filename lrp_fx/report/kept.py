"""Kept: a result in one file, tensors as safetensors and all else as JSON in its header.

requires  a result of this package's classes
ensures   read again it is the same: tensors to the bit, those that were one are one, and nothing that a file says is
          run; a file that differs by a bit, or is of something else, is refused

The header's metadata has one entry, `FORMAT`, which is JSON: ``version``, ``sha256`` of all the rest, and ``tree``, the
result without its tensors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import secrets
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lrp_fx.capture.outputs import opened
from lrp_fx.errors import InputError
from lrp_fx.report.activation import Activation, Activations
from lrp_fx.report.edges import Edges, Unit
from lrp_fx.report.explained import Explained
from lrp_fx.report.ledger import DepthBooks, Ledger, SiteBalance
from lrp_fx.report.position import PositionSite
from lrp_fx.report.tokens import TokenBooks
from lrp_fx.report.vocabulary import Vocabulary
from lrp_fx.structure.forms import Form
from lrp_fx.structure.windows import Windows
from lrp_fx.transpose.signature import DepthInfo

FORMAT, VERSION = "lrp_fx.relevance", 2
PARTS = (
    Explained,
    DepthBooks,
    Ledger,
    SiteBalance,
    PositionSite,
    TokenBooks,
    Vocabulary,
    Form,
    Windows,
    DepthInfo,
    Activation,
    Activations,
    Unit,
    Edges,
)


class Output(dict[str, Any]):
    """What a model returned, by name: ``output.logits`` or ``output["logits"]``."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"no output {name!r}; there are {', '.join(self)}")


# ------------------------------------------------------------------------------------------------ writing
class Encoder:
    """Values as JSON; tensors and objects that come twice are named the second time."""

    def __init__(self, classes: tuple[type, ...]) -> None:
        self.classes = classes
        self.tensors: dict[str, Tensor] = {}
        self._known: dict[Any, str] = {}
        self._objects: dict[int, tuple[int, Any]] = {}  # the object itself is held, or its number might come again

    def value(self, value: Any) -> Any:
        """Raises `InputError` for what is neither plain, a tensor, a container of these, nor a part of a result."""
        if isinstance(value, Tensor):
            return {"tensor": self._tensor(value)}
        if value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, (list, tuple, frozenset, set)):
            items = sorted(value) if isinstance(value, (frozenset, set)) else value
            kind = "list" if isinstance(value, list) else "tuple" if isinstance(value, tuple) else "set"
            return {kind: [self.value(v) for v in items]}
        if type(value) in self.classes:
            return self._object(value)
        if isinstance(value, Mapping):
            kind = "output" if isinstance(value, Output) else "dict"
            return {kind: [[self.value(k), self.value(v)] for k, v in value.items()]}
        raise InputError(
            f"a {type(value).__name__} cannot be kept in a file\n    next: relevance.save(path, output=False) leaves "
            "what the model returned out"
        )

    def _tensor(self, tensor: Tensor) -> str:
        plain = tensor.detach()
        if plain.layout != torch.strided:
            raise InputError(f"a tensor of the layout {plain.layout} cannot be kept in a file")
        key = (plain.data_ptr(), plain.dtype, tuple(plain.shape), plain.stride(), str(plain.device))
        if key not in self._known or not plain.numel():
            self._known[key] = str(len(self.tensors))
            self.tensors[self._known[key]] = plain
        return self._known[key]

    def _object(self, value: Any) -> Any:
        if id(value) in self._objects:
            return {"again": self._objects[id(value)][0]}
        fields = {f.name: self.value(getattr(value, f.name)) for f in dataclasses.fields(value)}
        self._objects[id(value)] = len(self._objects), value
        return {"object": type(value).__name__, "fields": fields}


def as_output(output: Any) -> Any:
    """What a model returned, its objects and mappings of other classes by name."""
    held = opened(output)
    return _by_name(output if held is None else held)


def _by_name(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Output({str(k): _by_name(v) for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(map(_by_name, value)) if type(value) in (list, tuple) else tuple(map(_by_name, value))
    return value


def write(path: str | Path, result: Any, classes: tuple[type, ...]) -> None:
    """Put a result into a file, whole or not at all; raises `InputError` where it cannot be written."""
    encoder = Encoder((*PARTS, *classes))
    tree = encoder.value(result)
    tensors = {n: t.cpu().contiguous().clone() for n, t in encoder.tensors.items()}
    head = {"version": VERSION, "sha256": _digest(tree, tensors), "tree": tree}
    data = safetensors.torch.save(tensors, metadata={FORMAT: _json(head)})
    place = Path(os.path.realpath(path))
    beside = place.with_name(f".{secrets.token_hex(8)}.part")
    try:
        if place.exists() and not place.is_file():
            raise OSError("there is something that is no file")
        beside.write_bytes(data)
        beside.replace(place)
    except OSError as error:
        raise InputError(
            f"{path} could not be written: {error.strerror or error}\n    next: save to a folder that may be written "
            "to and has room"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def _json(tree: Any) -> str:
    return json.dumps(tree, allow_nan=False, separators=(",", ":"))


def _digest(tree: Any, tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(_json(tree).encode())
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return found.hexdigest()


# ------------------------------------------------------------------------------------------------ reading
class Decoder:
    """The values that an `Encoder` wrote; raises ValueError, KeyError or TypeError for what it did not."""

    def __init__(self, classes: tuple[type, ...], tensors: Mapping[str, Tensor]) -> None:
        self.classes = {c.__name__: c for c in classes}
        self.tensors = tensors
        self._objects: list[Any] = []

    def value(self, told: Any) -> Any:
        if not isinstance(told, dict):
            return told
        kind, content = next(iter(told.items()), (None, None))
        made: dict[str, Callable[[Any], Any]] = {
            "tensor": lambda name: self.tensors[name],
            "float": float,
            "dtype": _dtype,
            "list": lambda items: [self.value(v) for v in items],
            "tuple": lambda items: tuple(self.value(v) for v in items),
            "set": lambda items: frozenset(self.value(v) for v in items),
            "dict": lambda items: {self.value(k): self.value(v) for k, v in items},
            "output": lambda items: Output({self.value(k): self.value(v) for k, v in items}),
            "again": lambda number: self._objects[number],
            "object": lambda name: self._object(name, told["fields"]),
        }
        return made[str(kind)](content)

    def _object(self, name: str, fields: Mapping[str, Any]) -> Any:
        kind = self.classes[name]
        if {f.name for f in dataclasses.fields(kind)} != set(fields):
            raise ValueError(f"a {name} has other parts than those of the file")
        values = {n: self.value(v) for n, v in fields.items()}
        hints = typing.get_type_hints(kind)
        wrong = [n for n, v in values.items() if not _fits(v, hints[n])]
        if wrong:
            raise TypeError(f"{', '.join(wrong)} of a {name} is something else")
        made = kind(**values)
        self._objects.append(made)
        return made


def _fits(value: Any, hint: Any) -> bool:
    """Is a value of the class that an annotation names? (What is in containers is not looked at.)"""
    if hint is Any:
        return True
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in typing.get_args(hint))
    kind = typing.get_origin(hint) or hint
    return isinstance(value, (int, float) if kind is float else kind)


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"{name} is no type of tensors")
    return found


#: What reading a file that is none of ours may run into.
_BROKEN = (
    *(safetensors.SafetensorError, OSError, LookupError, ValueError, TypeError, AttributeError),
    *(RecursionError, OverflowError, MemoryError),
)


def read(path: str | Path, kind: type, classes: tuple[type, ...]) -> Any:
    """The result in a file; raises `InputError` for a file that is none of ours, of another version, or damaged."""
    place = Path(path)
    if not place.is_file():
        raise InputError(f"no file {path}")
    try:
        with safetensors.safe_open(place, framework="pt") as file:
            named = file.metadata() or {}
            if FORMAT not in named:
                raise ValueError("it is a file of something else")
            head = json.loads(named[FORMAT])
            if head["version"] != VERSION:
                raise ValueError(f"it is of version {head['version']}, and this release reads {VERSION}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if _digest(head["tree"], tensors) != head["sha256"]:
            raise ValueError("it is not what was written: its checksum is another")
        found = Decoder((*PARTS, *classes), tensors).value(head["tree"])
        if not isinstance(found, kind):
            raise TypeError(f"it holds no {kind.__name__}")
    except _BROKEN as error:
        why = f"{type(error).__name__}: {error}"
        raise InputError(f"{path} is no result written by {kind.__name__}.save, or it is damaged ({why})") from error
    return found
