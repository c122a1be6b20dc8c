"""Segments: sums over parts of a text (documents, sentences, examples of a prompt), and over what is in none of them.

requires  amounts by token, and for segments given as texts what tokens are called
ensures   the sums add up to what all tokens got; a segment that is not there, or counts twice, is refused
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.report.pieces import Named
from lrp_fx.report.words import text_of, word_spans

REST = "rest"


def segments_of(result: Named, segments: Any, rows: Tensor, name: str) -> dict[str, Tensor]:
    """Sums of ``rows`` (B, T), tokens of the input ``name``, over each segment, (B,); what is in none is the ``rest``.

    Raises `InputError` for segments that overlap, are empty or reach over the end, and for texts that are not found
    once.
    """
    named = dict(segments) if isinstance(segments, Mapping) else {str(n): s for n, s in enumerate(segments)}
    if REST in named:
        raise InputError(f'"{REST}" is the name of what is in no segment: give that one another')
    taken = torch.full(rows.shape, -1, dtype=torch.int64)
    for number, (label, segment) in enumerate(named.items()):
        inside = _inside(result, segment, label, rows, name)
        twice = inside & (taken >= 0)
        if bool(twice.any()):
            other = list(named)[int(taken[twice][0])]
            raise InputError(f"the segments {other!r} and {label!r} overlap: their sums would count tokens twice")
        taken[inside] = number
    places = taken.to(rows.device)
    found = {label: (rows * (places == number)).sum(1) for number, label in enumerate(named)}
    return {**found, REST: (rows * (places < 0)).sum(1)}


def _inside(result: Named, segment: Any, label: str, rows: Tensor, name: str) -> Tensor:
    """(B, T): the tokens of one segment."""
    batch, count = rows.shape
    if isinstance(segment, Tensor):
        if segment.dtype != torch.bool or segment.shape not in (rows.shape, rows.shape[1:]):
            raise InputError(f"segment {label!r}: truth values have the shape {tuple(rows.shape)} or ({count},)")
        found = segment.cpu().expand(rows.shape)
    else:
        each = segment if isinstance(segment, list) else [segment] * batch
        if len(each) != batch:
            raise InputError(f"segment {label!r} has {len(each)} spans for {batch} examples")
        found = torch.zeros(rows.shape, dtype=torch.bool)
        for b, one in enumerate(each):
            first, after = _found(result, one, label, b, name) if isinstance(one, str) else _span(one, label, count)
            found[b, first:after] = True
    empty = (~found.any(1)).nonzero().flatten().tolist()
    if empty:
        raise InputError(f"segment {label!r} has no token in example {empty[0]}: {segment!r}")
    return found


def _span(span: Any, label: str, count: int) -> tuple[int, int]:
    pair = (span.start, span.stop) if isinstance(span, slice) and span.step in (None, 1) else span
    if not isinstance(pair, tuple) or len(pair) != 2 or any(not isinstance(p, (int, type(None))) for p in pair):
        raise InputError(
            f"segment {label!r}: a slice, (start, stop), a text, truth values (B, T), or a list with one for each "
            f"example; got {span!r}"
        )
    outside = [p for p in pair if p is not None and not -count <= p <= count]
    if outside:
        raise InputError(f"segment {label!r}: {outside[0]} is outside of the {count} tokens")
    first, after, _ = slice(*pair).indices(count)
    return first, after


def _found(result: Named, text: str, label: str, b: int, name: str) -> tuple[int, int]:
    """The tokens that a text is made of, where it stands once; spaces and case do not count."""
    if result.vocabulary is None or not result.vocabulary.tokens:
        raise InputError(f"segment {label!r} is a text, and tokens have no names here: convert(model, tokenizer=...)")
    names = [result.vocabulary.tokens.get(i, "") for i in result.inputs[name][b].tolist()]
    ends = [0]  # in letters, after each token
    letters = ""
    for first, after in word_spans(names):
        ends += [len(letters) + len(_letters(text_of(names[first : t + 1]))) for t in range(first, after)]
        letters += _letters(text_of(names[first:after]))
    wanted, starts = _letters(text), dict(zip(ends[:-1], range(len(names)), strict=True))
    size = len(wanted)
    places = [p for p in starts if size and letters.startswith(wanted, p) and p + size in ends]
    if len(places) != 1:
        raise InputError(f"segment {label!r}: its text is found {len(places)} times in example {b}: {text[:60]!r}")
    return starts[places[0]], ends.index(places[0] + size, starts[places[0]] + 1)


def _letters(text: str) -> str:
    return "".join(text.split()).casefold()
