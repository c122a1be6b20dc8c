"""Tokens: what each of them got, how much of it cancels among them, and which of them got most.

requires  relevance by input and by injection of position
ensures   sums over tokens are those of the leaves they are made of; nothing is computed before it is asked for

What a mask hides gets nothing from the model, so padding neither cancels nor takes a share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.report.patches import pool, position_map
from lrp_fx.report.position import KEY, PositionSite

#: Above this ratio of absolute amounts to their sum, and from this share on of one token against that sum, a picture of
#: tokens is no guide: docs/measured/cancellation.md has what is found of known causes above and below.
TOKEN_CANCELLATION_LIMIT, AGAINST_LIMIT = 5.0, 0.3
#: What is doubted of tokens: that they cancel, that one of them got most and speaks against the others.
CANCEL, AGAINST = "tokens cancel", "one token against the others"
DOUBTS = frozenset((CANCEL, AGAINST))
_WITH_CARE = "read the picture with care"
#: What to do, by the axes of a text's tokens: several texts of an example are not drawn token by token.
_WITHOUT = {
    1: 'show(hide="largest") draws the others on a scale of their own',
    2: 'per_token(hide="largest") reads the others',
}


@dataclass(frozen=True)
class TokenShare:
    """The token that got most in one example: of which ``input``, at which ``place`` ((T,) for texts, (text, T) where
    an example has several, (row, column) for patches of an image), its ``relevance``, and its signed ``share`` of the
    absolute amounts of all tokens. ``against``: is its sign that of what all tokens add up to, or the other?
    """

    input: str
    place: tuple[int, ...]
    relevance: float
    share: float
    against: bool

    @property
    def where(self) -> str:
        """Its place, as it is printed: ``#3``, ``#(1, 3)``."""
        return f"#{self.place[0] if len(self.place) == 1 else self.place}"

    def __str__(self) -> str:
        return f"{self.where} {100 * self.share:+.0f} %"


@dataclass(frozen=True, eq=False, repr=False)
class TokenBooks:
    """What each token got, content and signed position together; made when it is first read.

    ``content``, ``position``, ``inputs``: as `Relevance` has them. ``axes``: for inputs of vectors (B, T, F) the axis
    that their tokens run along. ``score`` (B,).
    """

    content: Mapping[str, Tensor]
    position: Sequence[PositionSite]
    inputs: Mapping[str, Tensor]
    axes: Mapping[str, int]
    score: Tensor

    def __repr__(self) -> str:
        return f"TokenBooks({', '.join(f'{n} {tuple(R.shape)}' for n, R in self.rows.items())})"

    @cached_property
    def rows(self) -> dict[str, Tensor]:
        """Input -> (B, T), (B, texts, T), or (B, rows, columns) of patches; empty where nothing has tokens."""
        found = {n: self._rows_of(n, R) for n, R in self.content.items()}
        return {n: R.to(self.score.dtype) for n, R in found.items() if R is not None and len(R) == len(self.score)}

    @cached_property
    def absolute(self) -> Tensor:
        """(B,): the absolute amounts of all tokens."""
        return self._summed([R.abs() for R in self.rows.values()])

    @cached_property
    def total(self) -> Tensor:
        """(B,): what they add up to."""
        return self._summed(list(self.rows.values()))

    @property
    def cancellation(self) -> Tensor:
        """(B,): absolute amounts over the absolute sum, 1 where all tokens have one sign (or got nothing)."""
        return (self.absolute / self.total.abs().clamp_min(torch.finfo(self.score.dtype).tiny)).clamp_min(1.0)

    @cached_property
    def largest(self) -> list[TokenShare | None]:
        """For each example the token that got most, whatever its sign; None where nothing has tokens."""
        return [*largest(self.rows)] or [None] * len(self.score)

    def _summed(self, rows: list[Tensor]) -> Tensor:
        return sum((R.flatten(1).sum(1) for R in rows), torch.zeros_like(self.score))

    def _rows_of(self, name: str, R: Tensor) -> Tensor | None:
        if is_text(name, R, self.inputs):
            return self._with_position(R, name)
        if name in self.axes and R.dim() == 3:  # tokens given as vectors: their rows are no other input's
            return None if self._is_doubtful(name) else self._with_position(self._of_vectors(name), None)
        return self._patches(R) if R.dim() == 4 else None

    def _of_vectors(self, name: str) -> Tensor:
        return self.content[name].sum(3 - self.axes[name])

    def _is_doubtful(self, name: str) -> bool:
        """May position that no input owns be another's, whose vectors are as many?"""
        count = self._of_vectors(name).shape[1]
        others = [n for n in self.axes if n != name and n in self.content and self.content[n].dim() == 3]
        alike = any(self._of_vectors(n).shape[1] == count for n in others)
        return alike and any(s.token_axes and s.owner() is None for s in self.position)

    def _with_position(self, content: Tensor, owner: str | None) -> Tensor | None:
        """Content and signed position of the tokens of an input, None where position is not told by token.

        Sites are read by a sum where `PositionSite.per_token` goes plane by plane: this is asked in every call.
        """
        texts, size = content.shape[1:-1].numel(), (content.numel(), content.shape[1:].numel())
        found: list[Tensor] = []
        for site in self.position:
            if (site.token_axes or site.windows is not None) and site.owner() == owner:
                rows = _signed(site, texts)
                if owner is not None:
                    rows = [site.of_owner(R, KEY, content.shape[-1]) for R in rows]
                if rows and all(R.shape[-1] == content.shape[-1] and R.numel() in size for R in rows):
                    found += rows
                elif owner is not None:
                    return None
        if not found:
            return content
        own = sum(found[1:], found[0])
        return content + own.reshape(-1, *content.shape[1:]).to(content.dtype)

    def _patches(self, R: Tensor) -> Tensor | None:
        pixels, grid = position_map(self.position, R.shape[-2:], "signed")
        return None if pixels is None or grid is None else pool(R.sum(1), grid) + pool(pixels, grid).to(R.dtype)


def is_text(name: str, R: Tensor, inputs: Mapping[str, Tensor]) -> bool:
    """Is this the relevance of whole numbers that are looked up, one for each token?"""
    given = inputs.get(name)
    return isinstance(given, Tensor) and given.dim() > 1 and not given.is_floating_point() and R.shape == given.shape


def not_by_token(sites: Sequence[PositionSite]) -> str:
    """What to say of positions that stand for no token that is known."""
    named = ", ".join(dict.fromkeys(f"{site.name} ({site.kind})" for site in sites[:3]))
    more = f" and {len(sites) - 3} more" if len(sites) > 3 else ""
    return (
        f"what the position added at {named}{more} received is not told by token: it is in no token\n    next: "
        ".position has it, site by site; position=None reads content alone"
    )


def _signed(site: PositionSite, texts: int) -> list[Tensor]:
    """(B, T), or (B * texts, T): terms of what a site's keys got; none where the texts of an example are not apart."""
    if site.windows is not None or texts > 1:
        try:
            rows = site.per_token("signed", texts=texts)
        except InputError:
            return []
        return [] if rows is None else [rows]
    axes = site.token_axes if site.grid else site.token_axes[-1:]
    parts = site.parts.values() if site.paired is None else (site.paired,)
    others = [[a for a in range(1, R.dim()) if a not in axes] for R in parts]
    return [(R.sum(o) if o else R).flatten(1) for R, o in zip(parts, others, strict=True)]


def largest(rows: Mapping[str, Tensor]) -> list[TokenShare]:
    """For each example the token of these inputs that got most, whatever its sign; empty where there is none."""
    flat = torch.cat([R.detach().flatten(1) for R in rows.values()], 1) if rows else torch.zeros(0, 0)
    if not flat.shape[1]:
        return []
    absolute, total, found = flat.abs().sum(1).tolist(), flat.sum(1).tolist(), flat.abs().argmax(1).tolist()
    result = []
    for b, number in enumerate(found):
        amount = float(flat[b, number])
        share = amount / absolute[b] if absolute[b] else 0.0
        result.append(TokenShare(*_place(rows, number), amount, share, amount * total[b] < 0))
    return result


def _place(rows: Mapping[str, Tensor], number: int) -> tuple[str, tuple[int, ...]]:
    """The input, and where in it, of a token counted through all inputs."""
    for name, R in rows.items():
        count = R[0].numel()
        if number < count:
            return name, tuple(int(i) for i in np.unravel_index(number, tuple(R.shape[1:])))
        number -= count
    raise IndexError(number)


def doubts(books: TokenBooks, instead: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of what makes a picture of these tokens doubtful, for the example in which it is worst; ``instead``:
    a better question.
    """
    cancellation = books.cancellation
    if not books.rows or not cancellation.numel():
        return
    worst = int(cancellation.argmax())
    ratio = float(cancellation[worst])
    if ratio < 1 / (1 - 2 * AGAINST_LIMIT):
        return  # what is against the sum is in every example less than a share of that size
    if ratio > TOKEN_CANCELLATION_LIMIT:
        yield (
            CANCEL,
            f"tokens cancel: those of example {worst} got {float(books.absolute[worst]):.4g} in absolute amounts, "
            f"{ratio:.1f} times their sum of {float(books.total[worst]):+.4g}; {_WITH_CARE} "
            f"(ledger.token_cancellation has the ratio for every example)\n    next: explain {instead}",
        )
    against = [(b, token) for b, token in enumerate(books.largest) if token is not None and token.against]
    b, token = max(against, key=lambda found: abs(found[1].share), default=(0, None))
    if token is not None and abs(token.share) >= AGAINST_LIMIT:
        text = is_text(token.input, books.content[token.input], books.inputs)
        next_step = _WITHOUT[len(token.place)] if text else _WITH_CARE
        yield (
            AGAINST,
            f"one token got most, and against the others: {token.input} {token} in example {b} "
            f"({token.relevance:+.4g}, the others {float(books.total[b]) - token.relevance:+.4g}); "
            f"{next_step} (ledger.largest_tokens names it for every example)",
        )
