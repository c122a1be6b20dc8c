"""Fills: what stands in the place of a unit that is taken away."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from lrp_fx.errors import InputError, TargetError
from lrp_fx.evaluation.units import Patches, Units
from lrp_fx.preprocess.names import token_index

AUTO, DROP = "auto", "drop"
#: Names of a tokenizer's tokens, in the order in which ``auto`` asks for them.
TOKENS = ("mask", "unk", "pad")
IMAGES = ("mean", "zero", "blur")
#: The id that marks a token which is to be dropped.
GONE = -1


@dataclass(frozen=True)
class Fill:
    """``value``: an id, a number, or a tensor that broadcasts to the units (T, ...). ``about``: in words."""

    value: float | Tensor
    about: str

    @property
    def drops(self) -> bool:
        return isinstance(self.value, int) and self.value == GONE


def fill_of_tokens(fill: Any, tokenizer: Any, size: int | None) -> Fill:
    """The id that takes the place of a token.

    fill: ``"mask"``, ``"unk"`` or ``"pad"``: the tokenizer's token of this name; ``"auto"``: the first of these that it
        has; ``"drop"``: none, the text becomes shorter; a token of the vocabulary; an id.
    size: of the vocabulary, where it is known.

    Raises `InputError` for what the tokenizer lacks, with what it has.
    """
    has = {name: i for name in TOKENS if (i := getattr(tokenizer, f"{name}_token_id", None)) is not None}
    if fill == DROP:
        return Fill(GONE, "dropped")
    if isinstance(fill, str):
        name = next(iter(has), AUTO) if fill == AUTO else fill
        found = has.get(name, _token(fill, tokenizer))
        if found is None:
            raise InputError(_lacking(fill, has, tokenizer))
        return Fill(int(found), f"{name} token {_named(int(found), tokenizer)}" if name in has else f"token {fill!r}")
    if (
        isinstance(fill, bool)
        or not isinstance(fill, (int, Tensor))
        or (isinstance(fill, Tensor) and fill.numel() != 1)
    ):
        raise InputError(f"fill={fill!r}: give a name ({', '.join(TOKENS)}, {DROP}), a token, or an id")
    number = int(fill)
    if number < 0 or (size is not None and number >= size):
        limits = "" if size is None else f": ids are 0 to {size - 1}"
        raise InputError(f"fill={number} is no id of the vocabulary{limits}")
    return Fill(number, f"id {_named(number, tokenizer)}")


def _token(text: str, tokenizer: Any) -> int | None:
    """The id of a text that is one token, None for anything else."""
    if tokenizer is None or text in (AUTO, *TOKENS):
        return None
    try:
        return token_index(text, tokenizer)
    except TargetError:
        return None


def _named(number: int, tokenizer: Any) -> str:
    return str(number) if tokenizer is None else f"{tokenizer.convert_ids_to_tokens([number])[0]} ({number})"


def _lacking(fill: str, has: dict[str, int], tokenizer: Any) -> str:
    if tokenizer is None:
        return (
            f"fill={fill!r} needs a tokenizer\n    next: give fill= an id, or {DROP!r}, or say which tokenizer is the "
            "model's: convert(model, tokenizer=...)"
        )
    there = ", ".join(repr(name) for name in has)
    kind = f"no {fill} token" if fill in TOKENS else f"no token {fill!r}"
    return (
        f"fill={fill!r}: the tokenizer has {kind if fill != AUTO else 'none of ' + ', '.join(TOKENS)}\n    next: give "
        f"fill= {f'{there}, ' if there else ''}{DROP!r}, a token such as '.', or an id"
    )


def fill_of_numbers(fill: Any, value: Tensor, units: Units) -> Fill:
    """What takes the place of a patch or a frame of an input (1, ...).

    fill: ``"mean"`` (the default, of the example, by channel), ``"zero"``, ``"blur"`` (images), a number, or a tensor
        that broadcasts to the units. Raises `InputError` for anything else.
    """
    if isinstance(fill, Tensor):
        return Fill(fill.cpu().to(value.dtype), f"a tensor {tuple(fill.shape)}")
    if isinstance(fill, Real) and not isinstance(fill, bool):
        return Fill(float(fill), f"{float(fill):g}")
    if fill == "zero":
        return Fill(0.0, "zero")
    if fill in (AUTO, "mean"):
        axes = tuple(range(2, value.dim())) if isinstance(units, Patches) else (1,)
        mean = value.mean(axes, keepdim=True).expand_as(value)
        return Fill(units.read(mean)[0].cpu(), "mean by channel")
    if fill == "blur" and isinstance(units, Patches):
        return Fill(units.read(_blurred(value))[0].cpu(), "blurred")
    known = IMAGES if isinstance(units, Patches) else IMAGES[:2]
    raise InputError(f"fill={fill!r}: here there are {', '.join(known)}, a number, or a tensor of the units' shape")


def _blurred(value: Tensor) -> Tensor:
    """An image (1, C, H, W) without its details: three means over a seventh of its side."""
    width = max(3, min(value.shape[-2:]) // 7) | 1
    pad = width // 2
    for _ in range(3):
        wide = torch.nn.functional.pad(value, (pad, pad, pad, pad), mode="replicate")
        value = torch.nn.functional.avg_pool2d(wide, width, stride=1)
    return value
