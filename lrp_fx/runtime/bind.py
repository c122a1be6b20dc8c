"""Bind: the weights of a model that was converted without them, written into the places that wait for them.

requires  a model with stand-ins (`lrp_fx.capture.unloaded`), and its weights in files or by name
ensures   nothing is written before all names, shapes and types are right; weights are in memory once
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.capture.checks import is_finite
from lrp_fx.capture.offloaded import offloaded
from lrp_fx.capture.unloaded import awaited, has_come, with_stand_ins
from lrp_fx.errors import InputError, warn_user
from lrp_fx.file.shards import Stored, stored

_SHOWN = 5
#: Bytes that tensors are aligned to.
_ALIGNMENT = 64


def bind_weights(model: nn.Module, source: Mapping[str, Tensor] | str | Path, *, strict: bool) -> None:
    """Fill a model's tensors from files or from a mapping by name; ``strict``: refuse names that it does not have.

    Raises `InputError` for tensors that are missing, of another shape or type, or not finite.
    """
    held: Mapping[str, Any] = source if isinstance(source, Mapping) else stored(source)
    wanted = _wanted(model)
    found = {names: next((n for n in names if n in held), None) for names in wanted}
    _check_names(model, held, wanted, found, strict=strict)
    pairs = [(wanted[names], name, held[name]) for names, name in found.items() if name is not None]
    _check_kinds(pairs)
    for tensor, name, given in pairs:
        _write(tensor, given)
        if not is_finite(tensor.data):
            raise InputError(f"the weights are not finite: {name}\n    next: bind() finite ones; nothing is explained")
    has_come(model)


def ready_to_bind(model: nn.Module) -> nn.Module:
    """A copy of a model on the meta device that waits for its weights; one whose weights are offloaded has them."""
    fetch = offloaded(model)
    held = (*model.named_parameters(), *model.named_buffers())
    other = next(((n, t.device) for n, t in held if t.device.type not in ("cpu", "meta")), None)
    if other is not None:
        raise InputError(
            f"some weights are on the meta device (offloaded, or not loaded), and {other[0]} is on {other[1]}: a "
            "graph runs on one device\n    next: load the model onto one device, or onto the CPU: "
            "lrp_fx.convert(folder, weights=False), and bind()"
        )
    made = with_stand_ins(model)
    if fetch:
        _bind_offloaded(made, fetch)
    return made


def _bind_offloaded(model: nn.Module, fetch: Mapping[str, Callable[[], Tensor]]) -> None:
    """Give a model with stand-ins what its hooks would have fetched, one tensor after the other."""
    waiting = set(awaited(model))
    for names, tensor in _wanted(model).items():
        if waiting & set(names):
            name = next((n for n in names if n in fetch), None)
            if name is None:
                raise InputError(
                    f"{names[0]} is on the meta device, and no hook fetches it\n    next: load the model onto one "
                    "device, or lrp_fx.convert(folder, weights=False)"
                )
            _write(tensor, fetch[name]())
    has_come(model)
    size = sum(t.nbytes for t in _wanted(model).values()) / 2**20
    warn_user(
        "the weights are offloaded, and fetched for each module when it runs; the explainer holds all of them, on the "
        f"CPU ({size:.0f} MiB)\n    next: to do without the model beside it, lrp_fx.convert(folder, weights=False)"
    )


def _wanted(model: nn.Module) -> dict[tuple[str, ...], Tensor]:
    """Each tensor that a file of the model's weights holds, once, by all of its names."""
    names: dict[int, list[str]] = {}
    tensors: dict[int, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            names.setdefault(id(tensor), []).append(name)
            tensors[id(tensor)] = tensor
    return {tuple(given): tensors[key] for key, given in names.items()}


def _check_names(
    model: nn.Module,
    held: Mapping[str, Any],
    wanted: Mapping[tuple[str, ...], Tensor],
    found: Mapping[tuple[str, ...], str | None],
    *,
    strict: bool,
) -> None:
    waiting, known = set(awaited(model)), {name for names in wanted for name in names}
    missing = [names[0] for names, name in found.items() if name is None and waiting & set(names)]
    strange = [name for name in held if name not in known]
    if missing:
        beside = f"; it holds {_listed(strange)}, which the model does not have" if strange else ""
        raise InputError(
            f"the weights do not hold {_listed(missing)}{beside}\n    next: the names have to be those of "
            "model.state_dict(): load it where they are made so (from_pretrained), and bind(loaded.state_dict())"
        )
    if strange and strict:
        raise InputError(
            f"the weights hold {_listed(strange)}, which the model does not have\n    next: bind(..., strict=False) "
            "leaves them out, if they are of no use here"
        )


def _check_kinds(pairs: Sequence[tuple[Tensor, str, Any]]) -> None:
    other = [
        f"{name} {tuple(given.shape)}, and the model's is {tuple(tensor.shape)}"
        for tensor, name, given in pairs
        if tuple(given.shape) != tuple(tensor.shape)
    ]
    if other:
        raise InputError(
            f"weights of other shapes: {_listed(other)}\n    next: make the model with the configuration of these "
            "weights"
        )
    away = [name for _, name, given in pairs if isinstance(given, Tensor) and given.is_meta]
    if away:
        raise InputError(f"{_listed(away)} on the meta device: there are no numbers to bind")
    lossy = [
        f"{name} is {given.dtype}, and the model's {tensor.dtype}"
        for tensor, name, given in pairs
        if not _holds(tensor.dtype, given.dtype)
    ]
    if lossy:
        raise InputError(
            f"weights of a type that the model's does not hold: {_listed(lossy)}\n    next: make the model in the type "
            "of the weights (model.to(torch.bfloat16), say) before it is converted"
        )


def _holds(wide: torch.dtype, narrow: torch.dtype | None) -> bool:
    """Is every number of one type a number of the other?"""
    if narrow is None or wide == narrow or not (wide.is_floating_point and narrow.is_floating_point):
        return narrow == wide
    return narrow.itemsize < wide.itemsize


def _write(tensor: Tensor, given: Tensor | Stored) -> None:
    """Files are read into the place that waits; a tensor that may serve as it is takes that place."""
    place = tensor.data
    if isinstance(given, Stored):
        given.write_into(place)
    elif _may_serve(given, place):
        tensor.data = given.detach()
    else:
        place.copy_(given.detach())


def _may_serve(given: Tensor, place: Tensor) -> bool:
    """Would it be computed with as one in the place of it? Kernels round by strides and by where memory begins."""
    same = given.dtype == place.dtype and given.device == place.device and given.shape == place.shape
    return same and given.stride() == place.stride() and given.data_ptr() % _ALIGNMENT == 0


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
