"""Fold: the tokens that an image or a sound was put in the place of, as one cell among the words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from lrp_fx.render.data import Array, Tokens

#: (input, image) -> content and position of what is drawn of it.
Drawn = Mapping[tuple[str, int], tuple[float, float]]


def fold(tokens: Tokens, ids: Sequence[int], drawn: Drawn) -> Tokens:
    """One column for each run of tokens in whose place something else was put, with what that got.

    ids: of all tokens, padded ones too. Where there are as many runs as images (or inputs), each gets what is drawn of
    its own: the columns then add up to all content. Elsewhere a run has its own amounts only.
    """
    found = _runs([ids[i] for i in tokens.index], tokens.content == 0) if drawn else []
    if not found:
        return tokens
    amounts = _amounts(drawn, len(found)) or [(tokens.text[start].strip(), 0.0, 0.0) for start, _ in found]
    space = " " if any(text.startswith(" ") for text in tokens.text) else ""
    inside = {k for start, end in found for k in range(start + 1, end)}
    firsts = [k for k in range(len(tokens.text)) if k not in inside]
    lengths = {start: end - start for start, end in found}
    content, position = (np.add.reduceat(v, firsts) for v in (tokens.content, tokens.position))
    texts, about = [tokens.text[k] for k in firsts], {}
    for (start, end), (name, got, placed) in zip(found, amounts, strict=True):
        column = firsts.index(start)
        content[column] += got
        position[column] += placed
        texts[column] = f"{space}[{name} ×{lengths[start]}]"
        about[column] = f"{name}: tokens {tokens.index[start]} to {tokens.index[end - 1]}"
    ends = [*firsts[1:], len(tokens.text)]
    hidden = tuple(all(tokens.hidden[a:b]) for a, b in zip(firsts, ends, strict=True))
    index = tuple(tokens.index[k] for k in firsts)
    return replace(
        tokens, text=tuple(texts), index=index, content=content, position=position, hidden=hidden, stands_for=about
    )


def _amounts(drawn: Drawn, count: int) -> list[tuple[str, float, float]]:
    """(name, content, position) of what stands in each of ``count`` runs; empty where that is not known."""
    inputs = {name: [v for (n, _), v in drawn.items() if n == name] for name, _ in drawn}
    if count == len(drawn):
        many = {name for name, found in inputs.items() if len(found) > 1}
        return [(f"{n} {k + 1}" if n in many else n, *amounts) for (n, k), amounts in drawn.items()]
    if count == len(inputs):
        return [(n, sum(c for c, _ in found), sum(p for _, p in found)) for n, found in inputs.items()]
    return []


def _runs(ids: Sequence[int], empty: Array) -> list[tuple[int, int]]:
    """(start, end) of each run of one id, two or more in a row, that got nothing of their own: something else was put
    in their place. All runs are of one id, that which is repeated most."""
    edges = [i for i in range(1, len(ids)) if ids[i] != ids[i - 1] or not empty[i] or not empty[i - 1]]
    found = [(a, b) for a, b in pairwise([0, *edges, len(ids)]) if b - a > 1 and empty[a]]
    lengths = Counter[int]()
    for start, end in found:
        lengths[ids[start]] += end - start
    return [(a, b) for a, b in found if ids[a] == lengths.most_common(1)[0][0]]
