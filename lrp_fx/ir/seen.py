"""Seen: a plain value as text, which is another as soon as the value is.

requires  any value
ensures   equal texts for values that hold the same, whichever objects they are and in whichever process; no addresses:
          what can be told by nothing else has a number that no other gets as long as the process lives
"""

from __future__ import annotations

import hashlib
import itertools
import types
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrp_fx.ir.contents import PLAIN, Part, code_text, is_closed, is_given, of_class, own_classes, parts
from lrp_fx.ir.read import holds_none, numbers_of

_DEEPEST, _MOST = 32, 1 << 16
#: What Python writes in full.
_TEXT = frozenset({int, float, str, bool, bytes, complex, type(None), torch.dtype, torch.device})


def told(value: Any) -> str:
    """Numbers and strings, and containers of them, as Python writes them; others by their class and a digest of all
    that they hold.
    """
    if _is_text(value):
        return repr(value)
    writer = Writer()
    writer.write(value)
    return f"{type(value).__qualname__} {writer.digest()}"


def _is_text(value: Any, depth: int = 0) -> bool:
    """Does its ``repr`` say all of it?"""
    kind = type(value)
    if kind in _TEXT:
        return True
    if depth > _DEEPEST:
        return False
    if kind in (list, tuple):
        return all(_is_text(v, depth + 1) for v in value)
    return kind is dict and all(_is_text(k, depth + 1) and _is_text(v, depth + 1) for k, v in value.items())


class Writer:
    """Writes what a value holds, all the way down, and makes a digest of it."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)
        self._above: list[Any] = []
        self._classes: dict[type, int] = {}
        self._left = _MOST

    def digest(self) -> str:
        return self._digest.hexdigest()

    def write(self, value: Any) -> None:
        kind: Any = type(value)
        self._put(_name(kind))
        self._left -= 1
        above = next((steps for steps, each in enumerate(reversed(self._above)) if each is value), None)
        if kind in _TEXT:
            self._put(repr(value))
        elif above is not None:
            self._put(f"{above} above")
        elif len(self._above) >= _DEEPEST or self._left < 0:
            self._put(self._alone(value))
        else:
            self._above.append(value)
            self._write_inside(value)
            self._above.pop()

    def _write_inside(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self._write_tensor(value)
        elif isinstance(value, type):
            self._write_class(value)
        elif isinstance(value, types.CodeType):
            self._put(code_text(value))
        elif isinstance(value, (bytearray, memoryview)):
            self._put(bytes(value))
        elif isinstance(value, (types.BuiltinFunctionType, types.ModuleType)):
            self._put(f"{getattr(value, '__module__', '')} {getattr(value, '__qualname__', value.__name__)}")
        elif isinstance(value, PLAIN):  # of a class of one's own
            plain: Any = next(c for c in PLAIN if isinstance(value, c))
            self._put(plain.__repr__(value))
            self.write(dict(getattr(value, "__dict__", {})))
            self._write_classes(value)
        elif hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
            self._write_array(value)
        elif is_closed(value):
            self._put(self._alone(value))
        else:
            self._write_parts(parts(value))
            self._write_classes(value)

    def _write_parts(self, held: Iterable[Part]) -> None:
        for part in held:
            self._put("part")
            names = part.names if part.names is not None else itertools.count()
            for name, each in zip(names, part.values, strict=False):
                self.write(name)
                self.write(each)

    def _write_classes(self, value: Any) -> None:
        if type(value).__module__ != "builtins":
            for kind in own_classes(value):
                self._write_class(kind)

    def _write_class(self, kind: type) -> None:
        """By its name, and once by what it says of its objects; one of Python or torch by its name alone."""
        self._put(_name(kind))
        if kind in self._classes:
            self._put(f"class {self._classes[kind]}")
            return
        self._classes[kind] = len(self._classes)
        if is_given(kind):
            return
        self._put(*map(_name, kind.__mro__))
        part = of_class(kind)
        for name, each in zip(part.names or (), part.values, strict=False):
            called = getattr(each, "fget", None) or getattr(each, "__func__", None) or each
            if isinstance(called, types.FunctionType):
                self._put(str(name))
                self._write_parts(parts(called)[: 2 if called.__closure__ else 1])  # not the globals of every method
            elif not str(name).startswith("__") and str(name) not in _OF_CLASSES and not _reads_slot(each):
                self._put(str(name))
                self.write(each)

    def _write_array(self, value: Any) -> None:
        array = np.asarray(value)
        self._put(f"{array.dtype} {array.shape}")
        if array.dtype.hasobject:
            self.write(array.tolist())
        else:
            self._put(array.tobytes())
        if not is_closed(value) and not isinstance(value, np.ndarray):
            self._write_parts(parts(value))

    def _write_tensor(self, tensor: Tensor) -> None:
        self._put(f"{tensor.dtype} {tuple(tensor.shape)} {tensor.device}")
        if holds_none(tensor):
            self._put(_number(tensor))
            return
        for part in numbers_of(tensor, whole=1 << 22):
            self._put(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())

    def _alone(self, value: Any) -> str:
        """What is told of what cannot be looked into."""
        return _alone(value)

    def _put(self, *texts: str | bytes) -> None:
        for text in texts:
            data = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
            self._digest.update(len(data).to_bytes(8, "little") + data)


_OF_CLASSES = frozenset({"_abc_impl"})


def _reads_slot(each: Any) -> bool:
    return isinstance(each, (types.MemberDescriptorType, types.GetSetDescriptorType))


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


# ------------------------------------------------------------------------------------------------ told by nothing else
_count = itertools.count()
_numbered: dict[int, tuple[Any, int]] = {}


def _alone(value: Any) -> str:
    """What it says of itself, or a number where that is its address."""
    said = repr(value)
    return _number(value) if " at 0x" in said else said


def _number(value: Any) -> str:
    """A number of its own: what can be told of nothing else is held as long as it is known by it."""
    key = id(value)
    if key not in _numbered:
        try:
            held: Any = weakref.ref(value, lambda _: _numbered.pop(key, None))
        except TypeError:  # small things, mostly
            held = value
        _numbered[key] = (held, next(_count))
    return f"number {_numbered[key][1]}"
