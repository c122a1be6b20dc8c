"""Span: the logits of several tokens together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_fx.errors import TargetError
from lrp_fx.targets.classes import rows_at
from lrp_fx.targets.indices import Index, RaggedError, check_range, column, has_names, listed, whole_numbers


class Span:
    """Sum of logits over a span: ``sum_k output[b, row + k, tokens[b, k]]`` for k in ``0 .. n - 1``.

    ``tokens``: (n,) or (B, n) ids, one for each row of the span; names of tokens, or one text, where a tokenizer is
    known. The first row is given in one of two ways, each one number or one for each example:

    ``start``: the row of the output that is read first. In a model that predicts the next token, row t speaks of the
    token at t + 1: to explain ids[7:10] (a part of the text itself) give ``start=6``.
    ``tokens_at``: where the tokens stand in the text of such a model; ``Span(ids[7:10], tokens_at=7)`` reads row 6 on.
    """

    linear = True

    def __init__(
        self,
        tokens: str | Sequence[int | str] | Sequence[Sequence[int]] | Tensor,
        start: Index | None = None,
        *,
        tokens_at: Index | None = None,
    ) -> None:
        if (start is None) == (tokens_at is None):
            raise TargetError(
                "a span needs start= (the row of the output that is read first) or tokens_at= (where the tokens stand "
                "in the text: one more, where a model predicts the next token), and not both"
            )
        tokens = listed(tokens)
        given = start if tokens_at is None else tokens_at
        self.words = tokens if has_names(tokens) else None
        self.tokens = torch.zeros(0, dtype=torch.int64) if has_names(tokens) else _tokens(tokens)
        numbers = whole_numbers(given, "start" if tokens_at is None else "tokens_at")
        self.start = numbers if tokens_at is None else numbers - 1
        self.tokens_at = tokens_at
        if tokens_at is not None and bool((numbers < 1).any()):
            raise TargetError(f"tokens_at={int(numbers.min())}: nothing stands before the first token to predict it")

    def named(self, pieces: Callable[[str], list[int]], token: Callable[[str], int]) -> Span:
        """The same with ids in the place of names: those of one text, or of one token each."""
        if self.words is None:
            return self
        found = copy.copy(self)
        words: Any = self.words
        found.tokens = _tokens(pieces(words) if isinstance(words, str) else [_id(w, token) for w in words])
        found.words = None
        return found

    @property
    def signature(self) -> tuple[Any, ...]:
        """Its class; tokens and start are arguments."""
        return ("Span", self.tokens.shape[-1])

    def example_arguments(self) -> dict[str, Tensor]:
        """Whole numbers by name, as the graph is traced with."""
        return {
            "tokens": torch.zeros(2, self.tokens.shape[-1], dtype=torch.int64),
            "start": torch.zeros(2, dtype=torch.int64),
        }

    def arguments(self, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
        """Validated: ``tokens`` (B, n), ``start`` (B,), for an output of the given shape."""
        n = self.tokens.shape[-1]
        if self.words is not None:
            raise TargetError(
                f"{self!r} has names, and no tokenizer is known\n    next: give ids, or convert(model, tokenizer=...)"
            )
        if len(shape) != 3:
            raise TargetError(f"a span needs an output (B, T, classes), this one has shape {shape}")
        start = column(self.start, shape[0], device, "start")
        first, last = int(start.min()), int(start.max()) + n - 1
        if first < 0 or last >= shape[1]:
            raise TargetError(
                f"no such position: the span {first}..{last} leaves the output's {shape[1]} positions\n    next: row t "
                "of a model that predicts the next token speaks of token t + 1: Span(tokens, tokens_at=...) takes the "
                "place of the tokens in the text"
            )
        check_range(self.tokens.flatten(), shape[2], "class")
        tokens = self.tokens.to(device).reshape(-1, n)
        if tokens.shape[0] not in (1, shape[0]):
            raise TargetError(f"{tokens.shape[0]} spans for a batch of {shape[0]}")
        return {"tokens": tokens.expand(shape[0], n).contiguous(), "start": start}

    def score(self, output: Tensor, mask: Tensor | None, *, tokens: Tensor, start: Tensor) -> Tensor:
        """(B,): the sum of the logits."""
        total = torch.zeros_like(output[:, 0, 0])
        for k in range(tokens.shape[1]):
            total = total + rows_at(output, mask, start + k).gather(1, tokens[:, k : k + 1]).squeeze(1)
        return total

    def slip(self, arguments: dict[str, Tensor], texts: Iterable[Tensor]) -> str | None:
        """What to say where the tokens are those of a text (B, T) at the very rows that are read, and not one further
        on: rows were counted as places of tokens, or the model fills in places. None elsewhere.
        """
        if self.tokens_at is not None:
            return None
        tokens, start = arguments["tokens"], arguments["start"]
        here = [_stand_at(tokens, start, ids) for ids in texts]
        there = [_stand_at(tokens, start + 1, ids) for ids in texts]
        if not any(here) or any(there):
            return None
        place = int(start[0])
        return (
            f"these tokens stand in the text at {place}..{place + tokens.shape[1] - 1}, the rows that are read: "
            "where a model predicts the next token, row t speaks of the token at t + 1\n    next: "
            f"Span(tokens, tokens_at={place}) for the tokens where they stand; start={place} is right for a model that "
            "fills in places"
        )

    def __repr__(self) -> str:
        tokens = repr(self.words) if self.words is not None else str(self.tokens.tolist())
        start = self.start.tolist() if self.tokens_at is None else (self.start + 1).tolist()
        return f"Span({tokens}, {'start' if self.tokens_at is None else 'tokens_at'}={start})"


def _id(word: Any, token: Callable[[str], int]) -> Any:
    if isinstance(word, (list, tuple)):
        return [_id(w, token) for w in word]
    return token(word) if isinstance(word, str) else word


def _tokens(tokens: Any) -> Tensor:
    try:
        found = whole_numbers(tokens, "a span's tokens")
    except RaggedError as error:
        raise TargetError("a span needs as many tokens in every example") from error
    if found.dim() not in (1, 2) or found.shape[-1] == 0:
        raise TargetError(f"a span needs tokens of shape (n,) or (B, n), got {tuple(found.shape)}")
    return found


def _stand_at(tokens: Tensor, start: Tensor, ids: Tensor) -> bool:
    """Do the tokens stand in every example of a text from this place on?"""
    places = start.unsqueeze(1) + torch.arange(tokens.shape[1], device=start.device)
    if bool((places >= ids.shape[1]).any()):
        return False
    return bool((ids.gather(1, places.to(ids.device)) == tokens.to(ids.device)).all())
