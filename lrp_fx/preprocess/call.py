"""Call: what a caller gives an explainer, as the arguments of the model's forward.

requires  whatever stands between the brackets of a call
ensures   tensors as they were given; texts, images and sounds as the reader reads them; lists of numbers as tensors;
          one example by itself as a batch of one
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrp_fx.capture.arguments import role_of
from lrp_fx.errors import InputError
from lrp_fx.preprocess.forward import Forward
from lrp_fx.preprocess.kinds import CHAT, IMAGE, SOUND, TEXT, kind_of, listed
from lrp_fx.preprocess.reader import Reader
from lrp_fx.preprocess.text import padded

#: Names by which a text, images and sounds are given, where the model has no arguments of these names.
_BY_NAME = ("text", "images", "audio", "decoder_text")
_OTHERWISE = {"image": "images", "texts": "text"}
_Call = tuple[tuple[Any, ...], dict[str, Any]]


def read_call(reader: Reader, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> _Call:
    """The same call in the model's own arguments.

    Raises `InputError` for texts, images and sounds that cannot be read, and for lists that are no table of numbers.
    """
    forward = reader.forward
    args, inputs = tuple(map(listed, args)), {n: listed(v) if n in _BY_NAME else v for n, v in inputs.items()}
    if len(args) == 1 and isinstance(args[0], (list, tuple)) and not args[0]:
        raise InputError("an empty list was given: there is nothing to explain")
    args, inputs = _spread(forward, args, inputs)
    args, inputs = _read(reader, forward, args, inputs)
    args, inputs = _ragged(reader, forward, args, inputs)
    return _batched(forward, *_numbers(args, inputs))


def _spread(forward: Forward, args: tuple[Any, ...], inputs: dict[str, Any]) -> _Call:
    """What a tokenizer or processor returned, given as it is: its entries by name. Those of them that the model does
    not take are left out; those of other dictionaries are not.
    """
    if len(args) != 1 or not isinstance(args[0], Mapping) or kind_of(args[0]) is not None or forward.names is None:
        return args, inputs
    given = dict(args[0])
    taken = [n for n in given if n in forward.names]
    encoded = hasattr(args[0], "convert_to_tensors")
    if not taken or not (encoded or len(taken) == len(given)):
        return args, inputs
    twice = [n for n in taken if n in inputs]
    if twice:
        raise InputError(f"{', '.join(twice)} is given twice, in the dictionary and by name")
    return (), {**{n: given[n] for n in taken}, **inputs}


def _read(reader: Reader, forward: Forward, args: tuple[Any, ...], inputs: dict[str, Any]) -> _Call:
    """Texts, chats, images and sounds replaced by what the reader makes of them."""
    named: dict[str, Any] = {}
    for name in (*_BY_NAME, *_OTHERWISE):
        if name in inputs and not (forward.names is not None and name in forward.names):
            if isinstance(inputs[name], Tensor):
                continue
            named[_OTHERWISE.get(name, name)] = inputs.pop(name)
    raw = [a for a in args if _is_raw(reader, a)]
    if not raw and set(named) <= {"decoder_text"}:
        return args, {**inputs, **named}
    if any(isinstance(v, Tensor) for v in args) or (raw and reader.is_empty and _has_tensors(inputs)):
        return args, {**inputs, **named}  # a word among tensors is the model's own affair
    others = [a for a in args if not _is_raw(reader, a)]
    if others:
        raise InputError(
            f"{type(others[0]).__name__} beside a {kind_of(raw[0])}: give the model's own arguments by name"
        )
    read = reader.inputs(*raw, **named)
    twice = [n for n in read if n in inputs and n != "attention_mask"]
    if any(n == forward.main for n in twice):
        raise InputError(f"{forward.main} is given, and so is what it is made of")
    return (), {**read, **inputs}


def _is_raw(reader: Reader, value: Any) -> bool:
    """Does a value have to be read? (An array does where the reader knows what to do with one.)"""
    kind = kind_of(value)
    if kind in (TEXT, CHAT):
        return True
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    has_array = isinstance(first, np.ndarray)
    return kind in (IMAGE, SOUND) and not (has_array and reader.processor is None)


def _has_tensors(inputs: Mapping[str, Any]) -> bool:
    return any(isinstance(v, (Tensor, Mapping)) for v in inputs.values())


def _ragged(reader: Reader, forward: Forward, args: tuple[Any, ...], inputs: dict[str, Any]) -> _Call:
    """Rows of ids of different lengths, and nothing else, padded: where a mask can say so."""
    given = args[0] if len(args) == 1 and not inputs else inputs.get(forward.main) if len(inputs) == 1 else None
    if not isinstance(given, (list, tuple)) or not _table(given) or _shape(given) is not None or not forward.known:
        return args, inputs
    rows = [{"input_ids": list(row), "attention_mask": [1] * len(row)} for row in given]
    found = padded(rows, reader.tokenizer, forward)
    return (), {forward.main if n == "input_ids" else n: v for n, v in found.items()}


def _numbers(args: tuple[Any, ...], inputs: dict[str, Any]) -> _Call:
    """Lists and arrays of numbers as tensors, where nothing else is given: beside tensors, numbers may be an option."""
    if any(isinstance(v, Tensor) for v in (*args, *inputs.values())) or _has_tensors(inputs):
        shapes = {tuple(v.shape) for v in (*args, *inputs.values()) if isinstance(v, Tensor)}
        same = {n: v for n, v in inputs.items() if _table(v) and _shape(v) in shapes}
        return args, {**inputs, **{n: _tensor(n, v) for n, v in same.items()}}
    given = tuple(_tensor("the first argument", a) if _table(a) else a for a in args)
    return given, {n: _tensor(n, v) if _table(v) else v for n, v in inputs.items()}


def _shape(value: Any) -> tuple[int, ...] | None:
    """Of a table, None where its rows have different lengths."""
    try:
        return tuple(np.shape(value))
    except ValueError:
        return None


def _table(value: Any) -> bool:
    """Is it numbers in lists, or an array of numbers?"""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    if not isinstance(value, (list, tuple)):
        return False
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _tensor(name: str, value: Any) -> Tensor:
    try:
        found = torch.as_tensor(np.asarray(value))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{name} is a list of rows of different lengths\n    next: give the texts (a tokenizer pads them), or pad "
            "the rows and give attention_mask= as well"
        ) from error
    return found.to(torch.float32) if found.dtype == torch.float64 and isinstance(value, (list, tuple)) else found


def _batched(forward: Forward, args: tuple[Any, ...], inputs: dict[str, Any]) -> _Call:
    """One row of ids (or samples) as a batch of one, with what else is told by token: where the model says which
    argument is its main one, that has a first axis for examples.
    """
    by_position = len(args) == 1 and not inputs
    main = args[0] if by_position else inputs.get(forward.main)
    if not forward.known or not isinstance(main, Tensor) or main.dim() != 1:
        return args, inputs
    if by_position:
        return (main[None],), inputs

    def is_row(name: str, value: Any) -> bool:
        alike = isinstance(value, Tensor) and value.shape == main.shape
        return name == forward.main or (alike and role_of(name, value) in ("mask", "segment"))

    if any(isinstance(v, Tensor) and v.dim() > 1 for v in inputs.values()):
        return args, inputs  # what else is given has an axis for examples: which of them it is, is not to be guessed
    return args, {n: v[None] if is_row(n, v) else v for n, v in inputs.items()}
