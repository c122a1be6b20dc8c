"""Readings: words, segments, the largest tokens, and tables of a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.report.pieces import Named, Part, largest_of, tokens_of, words_of
from lrp_fx.report.segments import segments_of
from lrp_fx.report.tables import as_dict, as_frame, as_json


class Readings:
    """What a `Relevance` can be read as, beside its tensors."""

    def words(self: Named, tokenizer: Any = None) -> list[list[Part]]:
        """For each example its words, in order: text, input, places, content and position; sums are those of tokens.

        Words are what the marks of the vocabulary say (``##`` goes on; ``▁`` and ``Ġ`` begin; ``</w>`` ends).
        tokenizer: as in `show`, where the explainer knows none. Padding is left out.

        Raises `InputError` where tokens have no names.
        """
        return words_of(self.detach(), tokenizer)

    def top(self: Named, count: int = 5, *, words: bool = False, tokenizer: Any = None) -> list[list[Part]]:
        """For each example the ``count`` tokens (or words, or patches of an image) that got most, whatever their sign,
        the largest first.
        """
        return largest_of(words_of(self.detach(), tokenizer) if words else tokens_of(self.detach(), tokenizer), count)

    def segments(self: Named, segments: Any, *, input: str | None = None, position: str | None = "signed") -> Any:
        """Sums over parts of a text: name -> (B,), and ``rest``: what is in none. Together they are what tokens got.

        segments: by name, or a list (then numbered): a slice or (start, stop) of places; a text that stands in the
            input once (where the explainer knows a tokenizer); truth values (T,) or (B, T); or a list with a slice or
            text for each example.
        input: which, where several inputs have tokens. position: as in `per_token`.

        Raises `InputError` for segments that overlap, have no token or are not there.
        """
        rows = self.per_token(position)
        named: dict[str, Tensor] = rows if isinstance(rows, dict) else {_only(self, rows): rows}
        if input is None and len(named) > 1:
            raise InputError(f"segments of which input? input= is one of {', '.join(named)}")
        name = input if input is not None else next(iter(named))
        if name not in named or named[name].dim() != 2:
            raise InputError(f"no input {name!r} with one text for each example; there are {', '.join(named)}")
        return segments_of(self, segments, named[name], name)

    def to_dict(self: Named, tokenizer: Any = None) -> dict[str, Any]:
        """Plain lists and numbers, as JSON has them: what is explained, tokens, maps of other inputs, the ledger."""
        return as_dict(self.detach(), tokenizer)

    def to_json(self: Named, path: str | Path | None = None, *, tokenizer: Any = None) -> str:
        """The same as text, written to ``path`` if one is given."""
        return as_json(as_dict(self.detach(), tokenizer), path)

    def to_frame(self: Named, tokenizer: Any = None) -> Any:
        """A `pandas.DataFrame`, one row for each token: example, input, place, text, content, position, relevance.

        Raises `InputError` without pandas, or without tokens.
        """
        return as_frame(self.detach(), tokenizer)


def _only(result: Named, rows: Tensor) -> str:
    """The input that the only tokens are of."""
    return next((n for n, R in result.content.items() if R.shape == rows.shape), next(iter(result.content)))
