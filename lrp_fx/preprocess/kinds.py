"""Kinds: is what a caller gives a text, a chat, an image or a sound, and how many of them are there?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

TEXT, CHAT, IMAGE, SOUND = "text", "chat", "image", "sound"
_SOUNDS = (".wav", ".flac", ".mp3", ".ogg")


def listed(value: Any) -> Any:
    """A column of texts (of a table, of a data set, of an array) as a list; anything else as it is."""
    if isinstance(value, (str, bytes, list, tuple, Tensor, Mapping)) or is_picture(value):
        return value
    column = value.tolist() if hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1 else value
    column = list(value) if isinstance(value, Sequence) else column
    return column if isinstance(column, list) and all(isinstance(v, str) for v in column) else value


def kind_of(value: Any) -> str | None:
    """What a value is before it is made numbers that a model takes; None for those numbers, and for anything else.

    A text is a string, or two (a pair); a chat is a list of messages; an image a picture, its bytes as an array, or a
    path; a sound a row of samples, a mapping with ``array`` or ``raw``, or a path. A list of one kind is of that kind.
    """
    if isinstance(value, (str, bytes)):
        return TEXT if isinstance(value, str) else None
    if isinstance(value, Path):
        return SOUND if value.suffix.lower() in _SOUNDS else IMAGE
    if isinstance(value, Mapping):
        return CHAT if is_message(value) else SOUND if {"array", "raw"} & set(value) else None
    if isinstance(value, (list, tuple)) and value:
        kinds = {kind_of(v) for v in value}
        return kinds.pop() if len(kinds) == 1 else None
    if isinstance(value, np.ndarray):
        return _of_array(value)
    return IMAGE if is_picture(value) else None


def _of_array(value: np.ndarray[Any, Any]) -> str | None:
    """Bytes with two or three axes are an image, a row of fractions a sound; other arrays are what a model takes."""
    if value.dtype == np.uint8 and value.ndim in (2, 3):
        return IMAGE
    return SOUND if value.ndim == 1 and np.issubdtype(value.dtype, np.floating) else None


def is_picture(value: Any) -> bool:
    """Is it an image of PIL (or works like one)?"""
    return not isinstance(value, Tensor) and all(hasattr(value, n) for n in ("convert", "size", "mode"))


def is_message(value: Any) -> bool:
    """Is it one message of a chat?"""
    return isinstance(value, Mapping) and {"role", "content"} <= set(value)


def as_chats(value: Any) -> list[list[Mapping[str, Any]]]:
    """One chat, or several, as several."""
    if is_message(value):
        return [[value]]
    return [list(value)] if value and is_message(value[0]) else [list(chat) for chat in value]


def as_texts(value: str | tuple[str, str] | list[Any]) -> list[str | tuple[str, str]]:
    """One text (or pair of texts), or several, as several: a tuple of two is a pair, a list is a batch."""
    if isinstance(value, str) or (isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)):
        return [value]
    return [tuple(v) if isinstance(v, (list, tuple)) else v for v in value]
