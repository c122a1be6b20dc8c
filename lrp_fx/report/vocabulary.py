"""Vocabulary: what the numbers of a result are called, so that it can be read without the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Vocabulary:
    """Words for the numbers that one result holds, and no others.

    ``tokens``: id of an input -> the token as the vocabulary writes it (with its mark of a space).
    ``outputs``: index of the explained output -> its label, or the token where the model predicts tokens.
    """

    tokens: Mapping[int, str] = field(default_factory=dict)
    outputs: Mapping[int, str] = field(default_factory=dict)


def readable(token: str) -> str:
    """A token with its spaces and line breaks, as sentence-piece, byte-level and byte-fallback vocabularies write
    them."""
    for mark, text in (("▁", " "), ("Ġ", " "), ("Ċ", "⏎"), ("<0x0A>", "⏎"), ("\n", "⏎"), ("\t", "⇥")):
        token = token.replace(mark, text)
    return token
