"""Tensors: those of a relevance graph in a safetensors blob, or as references into a model's own weights file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from lrp_fx.errors import InputError
from lrp_fx.ir.sparse import address_of

#: Kernels for vectors begin by where memory does, and sum in another order: to the bit the same numbers need the same
#: place in it.
_ALIGNMENT = 64


def require_dense(tensors: Mapping[str, Tensor]) -> None:
    """Raise `InputError` for a sparse tensor: a file has no place for one."""
    sparse = [name for name, tensor in tensors.items() if tensor.layout is not torch.strided]
    if sparse:
        raise InputError(
            f"{sparse[0]} is sparse, which a file does not hold\n    next: write it out before the model is explained "
            "(weight.to_dense())"
        )


def pack(tensors: Mapping[str, Tensor]) -> tuple[bytes, dict[str, dict[str, Any]]]:
    """(blob, how to read each tensor from it); a tensor under two names is stored once, in the order of its memory."""
    stored: dict[str, Tensor] = {}
    places: dict[str, dict[str, Any]] = {}
    first: dict[Any, str] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)
        kept = first.setdefault(key, name)
        if kept == name:
            stored[name] = _plain(tensor)
        places[name] = {
            "stored": kept,
            "order": _order(tensor),
            "complex": tensor.is_complex(),
            "offset": _offset(tensor),
        }
    return safetensors.torch.save(stored), places


def unpack(blob: bytes, places: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """The tensors that `pack` wrote, with the strides and the alignment that they had (kernels round by them)."""
    try:
        stored = safetensors.torch.load(blob)
    except safetensors.SafetensorError as error:
        raise InputError(f"the file's weights cannot be read: {error}") from error
    offsets = {place["stored"]: place["offset"] for place in places.values()}
    stored = {name: _placed(stored[name], offset) for name, offset in offsets.items()}
    return {name: _restored(stored[place["stored"]], place) for name, place in places.items()}


def _offset(tensor: Tensor) -> int:
    """How far into a block of 64 bytes it begins, in whole numbers of its type; other devices than the CPU give whole
    blocks.
    """
    size = tensor.element_size()
    return tensor.data_ptr() % _ALIGNMENT // size * size if tensor.device.type == "cpu" else 0


def _placed(tensor: Tensor, offset: int) -> Tensor:
    """A contiguous tensor, where it begins so far into a block."""
    if tensor.data_ptr() % _ALIGNMENT == offset or not tensor.numel():
        return tensor
    if offset not in range(0, _ALIGNMENT, tensor.element_size()):
        raise InputError("the file's weights lie where no tensor begins")
    block = torch.empty(tensor.nbytes + 2 * _ALIGNMENT, dtype=torch.uint8)
    start = (offset - block.data_ptr()) % _ALIGNMENT
    placed = block[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
    return placed.copy_(tensor)


def _order(tensor: Tensor) -> list[int]:
    """Axes from the slowest to the fastest in memory."""
    strides = tensor.stride()
    return sorted(range(tensor.dim()), key=lambda a: (-strides[a], a))


def _plain(tensor: Tensor) -> Tensor:
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().permute(_order(tensor)).contiguous()
    return torch.view_as_real(plain).contiguous() if plain.is_complex() else plain


def _restored(stored: Tensor, place: Mapping[str, Any]) -> Tensor:
    value = torch.view_as_complex(stored) if place["complex"] else stored
    order = [int(a) for a in place["order"]]
    if sorted(order) != list(range(value.dim())):
        raise InputError("the file's weights are laid out in a way that no tensor is")
    return value.permute([order.index(a) for a in range(len(order))])


def fingerprint(tensor: Tensor) -> str:
    """SHA-256 of a tensor's numbers, whatever their strides."""
    plain = tensor.detach().cpu().contiguous()
    return hashlib.sha256(plain.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def references(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, dict[str, Any]]:
    """For every tensor that is a weight of the model: its names there, shape, type, order in memory and fingerprint."""
    names: dict[Any, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault((address_of(tensor), tuple(tensor.shape)), []).append(name)
    found = {n: names.get((t.data_ptr(), tuple(t.shape))) for n, t in tensors.items() if t.numel()}
    return {
        n: {"names": known, **_described(tensors[n]), "sha256": fingerprint(tensors[n])}
        for n, known in found.items()
        if known
    }


def _described(tensor: Tensor) -> dict[str, Any]:
    return {**_shape(tensor), "order": _order(tensor), "offset": _offset(tensor)}


def _shape(tensor: Tensor) -> dict[str, Any]:
    """What a fingerprint, which is one of bytes, does not cover."""
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def fetch(wanted: Mapping[str, Mapping[str, Any]], weights: str | Path) -> dict[str, Tensor]:
    """Referenced weights from a safetensors file, or from all such files of a folder; each must be the one that was
    explained.
    """
    path = Path(weights)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise InputError(f"no safetensors file at {path}")
    found: dict[str, Tensor] = {}
    for file in files:
        found |= _found({n: place for n, place in wanted.items() if n not in found}, file)
    missing = [place["names"][0] for name, place in wanted.items() if name not in found]
    if missing:
        raise InputError(f"{path} does not hold {', '.join(missing[:5])}{' and others' if len(missing) > 5 else ''}")
    for name, place in wanted.items():
        _check_shape(place, found[name], path)
    other = [place["names"][0] for name, place in wanted.items() if fingerprint(found[name]) != place["sha256"]]
    if other:
        raise InputError(
            f"{path} holds other numbers than those explained: "
            f"{', '.join(other[:5])}{' and others' if len(other) > 5 else ''}"
        )
    # each once, however many names it has: a file may ask for no more memory than the weights take
    kinds = {n: (id(found[n]), tuple(place["order"]), place["offset"]) for n, place in wanted.items()}
    laid_out = {kind: _laid_out(found[n], wanted[n]) for kind, n in {k: n for n, k in kinds.items()}.items()}
    return {n: laid_out[kind] for n, kind in kinds.items()}


def _laid_out(tensor: Tensor, place: Mapping[str, Any]) -> Tensor:
    plain = tensor.permute(place["order"]).contiguous()
    return _restored(_placed(plain, place["offset"]), {"complex": False, "order": place["order"]})


def _found(wanted: Mapping[str, Mapping[str, Any]], file: Path) -> dict[str, Tensor]:
    """The referenced weights that one file holds."""
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            keys = set(opened.keys())
            matches = {n: match for n, place in wanted.items() if (match := _match(place["names"], keys)) is not None}
            tensors = {match: opened.get_tensor(match) for match in set(matches.values())}
            return {n: tensors[match] for n, match in matches.items()}
    except (safetensors.SafetensorError, OSError, LookupError, ValueError, RuntimeError, MemoryError) as error:
        raise InputError(f"{file} cannot be read as safetensors: {error}") from error


def _check_shape(place: Mapping[str, Any], tensor: Tensor, path: Path) -> None:
    here, explained = (f"{found['dtype']} of shape {tuple(found['shape'])}" for found in (_shape(tensor), place))
    if here != explained:
        raise InputError(
            f"{path} holds another tensor than the one explained: {place['names'][0]} is {here}, the one explained "
            f"was {explained}"
        )


def _match(names: list[str], keys: set[str]) -> str | None:
    """The key of a weight: its own name, or the only one that ends in it or that it ends in (checkpoints of a part of a
    model).
    """
    exact = next((n for n in names if n in keys), None)
    close = [k for k in keys if any(k.endswith("." + n) or n.endswith("." + k) for n in names)]
    return exact or (close[0] if len(close) == 1 else None)
