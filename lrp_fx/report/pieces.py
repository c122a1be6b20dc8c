"""Pieces: tokens, words and segments of a result, example by example, with what each got.

requires  a result whose inputs have tokens (texts, patches of images, vectors)
ensures   amounts of pieces are those of their tokens, so that sums stay; padding is left out where it got nothing
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.report.patches import pool
from lrp_fx.report.tokens import is_text
from lrp_fx.report.view import Result, mask_of
from lrp_fx.report.vocabulary import Vocabulary
from lrp_fx.report.words import text_of, word_spans


@dataclass(frozen=True)
class Part:
    """Tokens that count together: of ``input``, at the places ``start`` to before ``stop`` (of a patch the number in
    reading order), what they read, and their content and position relevance, in units of the score.
    """

    text: str
    input: str
    start: int
    stop: int
    content: float
    position: float

    @property
    def relevance(self) -> float:
        """All of it."""
        return self.content + self.position

    def __str__(self) -> str:
        return f"{self.text.strip()} {self.relevance:+.4g}"


class Named(Result, Protocol):
    """A result that may know what its tokens are called."""

    @property
    def vocabulary(self) -> Vocabulary | None: ...

    def detach(self) -> Named: ...


def tokens_of(result: Named, tokenizer: Any = None) -> list[list[Part]]:
    """For each example its tokens, of all inputs that have some; raises `InputError` where none has."""
    return [[replace(p, text=text_of([p.text])) for p in parts] for parts in _tokens(result, tokenizer)]


def words_at(result: Named, tokenizer: Any, example: int) -> dict[tuple[str, int], str]:
    """(input, place) -> what the token there reads; nothing where no input has tokens."""
    try:
        return {(p.input, p.start): p.text for p in tokens_of(result, tokenizer)[example]}
    except InputError:
        return {}


def _tokens(result: Named, tokenizer: Any) -> list[list[Part]]:
    """The same, as the vocabulary writes them."""
    rows = [*_texts(result, tokenizer), *_others(result)]
    if not rows:
        raise InputError("no input of this result has tokens: heatmap() sums the others over their channels")
    return [[part for parts in rows for part in parts[b]] for b in range(result.score.numel())]


def words_of(result: Named, tokenizer: Any = None) -> list[list[Part]]:
    """The same, the pieces of a word put together. Raises `InputError` where tokens have no names."""
    if tokenizer is None and (result.vocabulary is None or not result.vocabulary.tokens):
        raise InputError(
            "tokens have no names here\n    next: convert(model, tokenizer=...) knows what makes a word, or words("
            "tokenizer)"
        )
    return [[w for parts in _by_input(example) for w in _joined(parts)] for example in _tokens(result, tokenizer)]


def largest_of(parts: Sequence[Sequence[Part]], count: int) -> list[list[Part]]:
    """For each example the parts that got most, whatever their sign, the largest first."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"top({count!r}): give how many, at least one")
    return [sorted(example, key=lambda part: -abs(part.relevance))[:count] for example in parts]


def _texts(result: Named, tokenizer: Any) -> Iterator[list[list[Part]]]:
    """By example; several texts of the only example one after the other. (Texts of which several examples have a share
    are no example's.)
    """
    texts = [n for n, R in result.content.items() if R.dim() in (2, 3) and is_text(n, R, result.inputs)]
    position, batch = _amounts(result, texts), result.score.numel()
    for name in texts:
        shape = result.inputs[name].shape
        rows = [_row(result, name, row, tokenizer, position[name]) for row in range(shape[:-1].numel())]
        if len(shape) == 3:
            yield [_numbered(name, rows[b * shape[1] : (b + 1) * shape[1]]) for b in range(shape[0])]
        elif len(rows) == batch:
            yield rows
        elif batch == 1:
            yield [[part for row in rows for part in row]]


def _numbered(name: str, rows: Sequence[Sequence[Part]]) -> list[Part]:
    """The texts of one example (answers to choose from), one after the other."""
    return [replace(p, input=f"{name}, text {n + 1} of {len(rows)}") for n, row in enumerate(rows) for p in row]


def _row(result: Named, name: str, row: int, tokenizer: Any, position: Tensor) -> list[Part]:
    rows = (result.content[name], position, result.inputs[name])
    content, placed, ids = (x.flatten(0, -2)[row].tolist() for x in rows)
    mask = mask_of(result, name)
    kept = [True] * len(ids) if mask is None else (mask.flatten(0, -2)[row] != 0).tolist()
    places = [t for t in range(len(ids)) if kept[t] or content[t] or placed[t]]
    names = _names(result, tokenizer, [ids[t] for t in places])
    return [Part(s, name, t, t + 1, content[t], placed[t]) for s, t in zip(names, places, strict=True)]


def _amounts(result: Named, texts: Sequence[str]) -> dict[str, Tensor]:
    """Signed position by token; zero where texts are not examples, which position does not tell apart."""
    if any(len(result.content[n]) != result.score.numel() for n in texts):
        return {n: torch.zeros_like(result.content[n]) for n in texts}
    found = result.per_token("signed", content=False) if texts else {}
    return found if isinstance(found, dict) else {texts[0]: found}


def _names(result: Named, tokenizer: Any, ids: list[int]) -> list[str]:
    """Tokens as the vocabulary writes them, ids where nobody knows."""
    if tokenizer is not None and hasattr(tokenizer, "convert_ids_to_tokens"):
        return [str(t) for t in tokenizer.convert_ids_to_tokens(ids)]
    known: Any = result.vocabulary.tokens if tokenizer is None and result.vocabulary is not None else tokenizer or {}
    if isinstance(known, Mapping):
        return [str(known.get(i, i)) for i in ids]
    return [str(known(i) if callable(known) else known[i]) for i in ids]


def _others(result: Named) -> Iterator[list[list[Part]]]:
    """Tokens given as vectors, and patches of images."""
    for name, rows in result.ledger.token_books.rows.items():
        R = result.content[name]
        if is_text(name, R, result.inputs):
            continue
        axis = result.ledger.token_books.axes.get(name)
        content = R.sum(3 - axis) if axis is not None else pool(R.sum(1), (rows.shape[1], rows.shape[2]))
        flat, placed = content.flatten(1).tolist(), (rows - content.to(rows.dtype)).flatten(1).tolist()
        columns = rows.shape[2] if rows.dim() == 3 else None
        yield [
            [
                Part(f"({t // columns}, {t % columns})" if columns else f"#{t}", name, t, t + 1, c, p)
                for t, (c, p) in enumerate(zip(flat[b], placed[b], strict=True))
            ]
            for b in range(len(flat))
        ]


def _by_input(parts: Sequence[Part]) -> list[list[Part]]:
    names = dict.fromkeys(part.input for part in parts)
    return [[part for part in parts if part.input == name] for name in names]


def _joined(parts: Sequence[Part]) -> list[Part]:
    texts = [part.text for part in parts]
    gaps = {n for n in range(1, len(parts)) if parts[n].start != parts[n - 1].stop}
    return [
        Part(
            text_of(texts[a:b]).strip(" "),
            parts[a].input,
            parts[a].start,
            parts[b - 1].stop,
            sum(part.content for part in parts[a:b]),
            sum(part.position for part in parts[a:b]),
        )
        for a, b in word_spans(texts, gaps)
    ]
