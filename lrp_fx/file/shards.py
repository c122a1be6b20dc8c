"""Shards: tensors by name from safetensors files, read a piece at a time, into memory that is there already.

requires  a safetensors file, a folder of them, or the index of one
ensures   what a file holds is known before any of it is read; beside what is written into, a piece is in memory
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from lrp_fx.errors import InputError

#: Bytes that are read at once: pages of a file that was read count as memory until it is closed.
_PIECE = 1 << 24
_INDEX = ".index.json"
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
_UNREADABLE = (safetensors.SafetensorError, OSError, ValueError, LookupError)


@dataclass(frozen=True)
class Stored:
    """A tensor in a file. ``dtype``: None for a type that torch does not have."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None

    def write_into(self, tensor: Tensor) -> None:
        """Read it into a tensor of its shape, piece by piece; raises `InputError` where the file cannot be read."""
        try:
            if not self.shape:
                with safetensors.safe_open(self.file, framework="pt") as opened:
                    tensor.copy_(opened.get_tensor(self.name))
                return
            for rows in self._pieces(tensor):
                with safetensors.safe_open(self.file, framework="pt") as opened:
                    tensor[rows].copy_(opened.get_slice(self.name)[rows])
        except _UNREADABLE as error:
            raise InputError(f"{self.file} cannot be read as safetensors: {error}") from error

    def _pieces(self, tensor: Tensor) -> Iterator[slice]:
        count = self.shape[0]
        step = max(1, _PIECE * count // max(tensor.nbytes, 1))
        yield from (slice(i, min(i + step, count)) for i in range(0, count, step))


def stored(place: str | Path) -> dict[str, Stored]:
    """What a file, a folder of files, or the files of an index hold, by name; raises `InputError`."""
    found: dict[str, Stored] = {}
    for file in _files(Path(place)):
        for name, tensor in _held(file):
            if name in found:
                raise InputError(f"{name} is in {found[name].file} and in {file}\n    next: give one of the files")
            found[name] = tensor
    return found


def _held(file: Path) -> Iterator[tuple[str, Stored]]:
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (it is no mapping)
                part = opened.get_slice(name)
                yield name, Stored(file, name, tuple(part.get_shape()), _TYPES.get(part.get_dtype()))
    except _UNREADABLE as error:
        raise InputError(f"{file} cannot be read as safetensors: {error}") from error


def _files(place: Path) -> list[Path]:
    """Those of an index, where there is one: a folder may hold the same weights twice."""
    indices = [place] if place.name.endswith(_INDEX) else sorted(place.glob(f"*safetensors{_INDEX}"))
    if len(indices) == 1:
        return _of_index(indices[0])
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    if not files or not files[0].is_file():
        raise InputError(
            f"no safetensors file at {place}\n    next: give a .safetensors file, a folder of them, or a "
            "model.safetensors.index.json"
        )
    return files


def _of_index(index: Path) -> list[Path]:
    try:
        told: Any = json.loads(index.read_text(encoding="utf-8"))
        names = sorted(set(told["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is no index of safetensors files: {error}") from error
    strange = [n for n in names if not isinstance(n, str) or Path(n).name != n]
    if strange:
        raise InputError(f"{index} names {strange[0]!r}, which is no file beside it")
    missing = [n for n in names if not (index.parent / n).is_file()]
    if missing:
        raise InputError(
            f"{index} names {', '.join(missing[:3])}{' and others' if len(missing) > 3 else ''}, and there is no such "
            "file beside it\n    next: download all shards"
        )
    return [index.parent / n for n in names]
