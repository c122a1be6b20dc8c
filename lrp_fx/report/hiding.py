"""Hiding: which tokens a reading leaves out.

requires  what each token got, by input
ensures   truth values of the same shapes, or an error that says what can be hidden
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.report.tokens import largest

LARGEST = "largest"
_NEXT = 'hide= takes "largest", a place or a list of places, a bool tensor (B, T), or a dict by input of these'


def hidden(hide: Any, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Input -> (B, T) truth values, or (B, texts, T): is this token left out?

    hide: ``"largest"``: in each example the one that got most, whatever its sign. A place or several, counted from the
        end where negative: the same in every example. Truth values in the shape of an input's tokens. A dict by input
        of these. None: nothing.
    rows: what each token got, in the same shapes.

    Raises `InputError` for anything else.
    """
    if hide is None:
        return {}
    if not rows:
        raise InputError(f"hide={hide!r}: this result has no text whose tokens could be left out")
    if isinstance(hide, Mapping):
        unknown = [str(n) for n in hide if n not in rows]
        if unknown:
            raise InputError(f"hide= names {', '.join(unknown)}, and the texts are {', '.join(rows)}")
        return {n: hidden(h, {n: rows[n]})[n] for n, h in hide.items() if h is not None}
    if isinstance(hide, str):
        if hide != LARGEST:
            raise InputError(f"hide={hide!r}: {_NEXT}")
        return _largest(rows)
    if len(rows) > 1:
        raise InputError(f"hide={hide!r}: which of {', '.join(rows)}? hide={{{next(iter(rows))!r}: ...}} says it")
    name, R = next(iter(rows.items()))
    return {name: _given(hide, R) if isinstance(hide, Tensor) else _at(hide, R)}


def _largest(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {n: torch.zeros_like(R, dtype=torch.bool) for n, R in rows.items()}
    for b, token in enumerate(largest(rows)):
        found[token.input][(b, *token.place)] = True
    return found


def _given(hide: Tensor, R: Tensor) -> Tensor:
    if hide.dtype != torch.bool or hide.shape != R.shape:
        raise InputError(f"hide= is {hide.dtype} {tuple(hide.shape)}, and the tokens are {tuple(R.shape)}: {_NEXT}")
    return hide.to(R.device)


def _at(hide: Any, R: Tensor) -> Tensor:
    """The same places in every example."""
    places = list(hide) if isinstance(hide, (list, tuple, range, set, frozenset)) else [hide]
    if not all(isinstance(p, Integral) and not isinstance(p, bool) for p in places):
        raise InputError(f"hide={hide!r}: {_NEXT}")
    count = R.shape[-1]
    outside = [p for p in places if not -count <= p < count]
    if outside:
        raise InputError(f"hide={hide!r}: there are {count} tokens, the places 0 to {count - 1}")
    found = torch.zeros_like(R, dtype=torch.bool)
    found[..., [int(p) for p in places]] = True
    return found
