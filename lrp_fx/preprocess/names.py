"""Names: the numbers of labels and tokens, and the names of numbers.

requires  labels by index (of a classifier), a tokenizer, or both
ensures   a name is one number or a `TargetError` that lists the nearest; nothing is guessed between two
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from lrp_fx.errors import TargetError
from lrp_fx.preprocess.text import plain_ids

_MOST = 12


def label_index(name: str, labels: Mapping[int, str]) -> int:
    """The index of a label: as it is written, or in any case where only one fits."""
    exact = [i for i, label in labels.items() if label == name]
    folded = [i for i, label in labels.items() if label.strip().casefold() == name.strip().casefold()]
    found = exact or folded
    if len(found) == 1:
        return found[0]
    if found:
        which = ", ".join(f"{labels[i]!r} ({i})" for i in found)
        raise TargetError(f"{name!r} is several labels: {which}\n    next: give the index")
    raise TargetError(f"{name!r} is neither a class nor an index: {_nearest(name, labels.values())}")


def _nearest(name: str, labels: Iterable[str]) -> str:
    """The labels, the nearest first where there are many."""
    known = list(dict.fromkeys(labels))
    if len(known) <= _MOST:
        return f"classes are {', '.join(known)}"
    near = difflib.get_close_matches(name.casefold(), [k.casefold() for k in known], _MOST, 0.5)
    spelled = {k.casefold(): k for k in known}
    if near:
        return f"the nearest of {len(known)} are {', '.join(spelled[n] for n in near)}"
    return f"the first of {len(known)} are {', '.join(known[:_MOST])}"


def token_index(name: str, tokenizer: Any) -> int:
    """The id of one token: what the text is, alone or going on after another, or a token as the vocabulary writes it.

    Raises `TargetError` for a text of several tokens, with these, and for one that the vocabulary lacks.
    """
    if not name:
        raise TargetError("an empty text is no token")
    alone = plain_ids(tokenizer, name)
    for pieces in (alone, going_on(name, tokenizer)):
        if len(pieces) == 1 and not _is_unknown(pieces[0], name, tokenizer):
            return pieces[0]
    written = tokenizer.convert_tokens_to_ids(name) if hasattr(tokenizer, "convert_tokens_to_ids") else None
    if isinstance(written, int) and written >= 0 and not _is_unknown(written, name, tokenizer):
        return written
    shorter = [p for p in (going_on(name, tokenizer), alone) if p]
    pieces = min(shorter, key=len) if shorter else []
    if not pieces or any(_is_unknown(p, name, tokenizer) for p in pieces):
        raise TargetError(f"the vocabulary has no token {name!r}{_like(name, tokenizer)}")
    parts = ", ".join(f"{token} ({i})" for token, i in zip(token_names(pieces, tokenizer), pieces, strict=True))
    raise TargetError(
        f"{name!r} is {len(pieces)} tokens of the vocabulary, and a target is one: {parts}\n    next: give the first "
        f"of them, target={pieces[0]}; for the whole word put it into the text, and give "
        f"Span({pieces}, tokens_at=...) with the place where it begins"
    )


def going_on(text: str, tokenizer: Any) -> list[int]:
    """The ids of a text where it follows another: a vocabulary may write a space before the first word of every text,
    which one that begins with a space would have twice.
    """
    if text[:1].isspace():
        before, both = plain_ids(tokenizer, "a"), plain_ids(tokenizer, "a" + text)
        if before and both[: len(before)] == before:
            return both[len(before) :]
    return plain_ids(tokenizer, text)


def _like(name: str, tokenizer: Any) -> str:
    """The tokens that are written most like a text, among those that begin as it does."""
    bare = name.strip().casefold()
    known = list(tokenizer.get_vocab()) if hasattr(tokenizer, "get_vocab") else []
    near = difflib.get_close_matches(name.strip(), [k for k in known if bare[:1] in k.casefold()[:2]], 4, 0.5)
    return f"; the nearest are {', '.join(near)}" if near else ""


def _is_unknown(index: int, name: str, tokenizer: Any) -> bool:
    return index == getattr(tokenizer, "unk_token_id", None) and name != getattr(tokenizer, "unk_token", None)


def token_names(ids: Iterable[int], tokenizer: Any) -> list[str]:
    """Tokens as the vocabulary writes them."""
    found = tokenizer.convert_ids_to_tokens(list(ids))
    return [str(i) if token is None else str(token) for i, token in zip(ids, found, strict=True)]
