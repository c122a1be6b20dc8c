"""Words: pieces of a vocabulary put together again, as the marks that they carry say.

requires  tokens as the vocabulary writes them
ensures   spans that cover all tokens in order; special tokens are words of their own
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from functools import cache

#: Marks of a token that begins a word, goes on with one, ends one.
BEGINS, GOES_ON, ENDS = ("▁", "Ġ", " ", "Ċ", "\n"), "##", "</w>"
_LINES = ("\n", "Ċ")
_SPECIAL = re.compile(r"<(?!0x[0-9A-F]{2}>$)[^<>\s]+>|\[[A-Z][A-Z0-9_]*\]|<\|.*\|>")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def is_special(token: str) -> bool:
    """Does a token look like a mark of the vocabulary (``[CLS]``, ``<s>``, ``<|end|>``) and not like text?"""
    return _SPECIAL.fullmatch(token) is not None and token != ENDS


def word_spans(tokens: Sequence[str], breaks: Collection[int] = ()) -> list[tuple[int, int]]:
    """(first, after the last) of each word.

    Words are what spaces part, where the vocabulary marks these (``▁``, ``Ġ``), and what ``##`` holds together or
    ``</w>`` ends, where it marks those; without any mark each token is a word. breaks: where a word ends in any case.
    """
    begins = _rule([t for t in tokens if not is_special(t)])
    starts = [
        n
        for n, token in enumerate(tokens)
        if n == 0 or n in breaks or is_special(token) or is_special(tokens[n - 1]) or begins(tokens[n - 1], token)
    ]
    return list(zip(starts, [*starts[1:], len(tokens)], strict=True)) if tokens else []


def _rule(tokens: Sequence[str]) -> Callable[[str, str], bool]:
    """(token before, token) -> does a word begin? By the marks that these tokens carry."""
    if any(t.endswith(ENDS) for t in tokens):
        return lambda before, token: before.endswith(ENDS)
    if any(map(_goes_on, tokens)):
        return lambda before, token: not _goes_on(token)
    if any(t.startswith(BEGINS) for t in tokens):
        return lambda before, token: before.endswith(_LINES) or (token.startswith(BEGINS) and before.strip("▁Ġ ") != "")
    return lambda before, token: True


def _goes_on(token: str) -> bool:
    """Is it a word's piece after the first? (``###`` is the mark of a heading. What has pieces with ``##`` parts words
    at punctuation.)
    """
    letter = token.removeprefix(GOES_ON)[:1]
    is_punctuation = unicodedata.category(letter or "#")[0] == "P" or (letter.isascii() and not letter.isalnum())
    return token.startswith(GOES_ON) and not is_punctuation and letter not in BEGINS


def text_of(tokens: Sequence[str]) -> str:
    """The text of tokens, without the marks of their vocabulary; a space that stands in front stays."""
    rest = (t.removeprefix(GOES_ON) if _goes_on(t) else t for t in tokens[1:])
    joined = "".join([*tokens[:1], *rest]).replace(ENDS, "")
    if "▁" in joined or _BYTE.search(joined):
        return _with_bytes(joined.replace("▁", " "))
    known = _bytes_by_letter()
    if "Ġ" in joined or "Ċ" in joined or any(ord(c) > 127 for c in joined):
        try:
            return bytes(known[c] for c in joined).decode("utf-8")
        except (KeyError, UnicodeDecodeError):
            pass  # letters of another alphabet, or a part of one
    return joined.replace("Ġ", " ").replace("Ċ", "\n")


def _with_bytes(text: str) -> str:
    """Bytes written as ``<0xE2>`` put together."""

    def letters(found: re.Match[str]) -> str:
        return bytes(int(b, 16) for b in _BYTE.findall(found.group())).decode("utf-8", "replace")

    return re.sub(rf"(?:{_BYTE.pattern.replace('(', '(?:')})+", letters, text)


@cache
def _bytes_by_letter() -> dict[str, int]:
    """The letter that byte-level vocabularies (GPT-2's and its kind) write each byte with."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printed]
    return {chr(b): b for b in printed} | {chr(256 + n): b for n, b in enumerate(others)}
