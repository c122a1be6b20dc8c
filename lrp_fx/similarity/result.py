"""The result: the relevance of pairs of tokens, and what belongs to no pair of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.render import matrix as drawing
from lrp_fx.render.matrix import Matrix


@dataclass(frozen=True, eq=False, repr=False)
class Pairs:
    """Relevance of pairs of tokens for the similarity of two inputs; amounts are in units of the similarity.

    ``similarity``: what is explained. ``measure``: ``dot`` or ``cosine``. ``x``, ``y``: the tokens of the two inputs.
    ``matrix`` (S, T): of token i of x with token j of y. ``x_alone``: name -> (S,): of token i with what of y's
        embedding is no token's (its biases, the sinks of its ledger, by name). ``y_alone``: name -> (T,): the same of
        token j with what of x's is none. ``beside``: (name of x's, name of y's) -> number: of two such parts.
    ``embeddings``: the two (d,) that were compared. ``ruleset``: the rules.

    The books are closed: `similarity` is the sum of `matrix`, `x_alone`, `y_alone` and `beside` (`total`).
    """

    similarity: float
    measure: str
    x: tuple[str, ...]
    y: tuple[str, ...]
    matrix: Tensor
    x_alone: dict[str, Tensor]
    y_alone: dict[str, Tensor]
    beside: dict[tuple[str, str], float]
    embeddings: tuple[Tensor, Tensor]
    ruleset: str

    @property
    def total(self) -> float:
        """Everything that is booked: the similarity, but for rounding."""
        alone = sum(float(t.sum()) for t in (*self.x_alone.values(), *self.y_alone.values()))
        return float(self.matrix.sum()) + alone + sum(self.beside.values())

    @property
    def rest(self) -> float:
        """What is no pair of tokens: all but `matrix`."""
        return self.total - float(self.matrix.sum())

    @property
    def cancellation(self) -> float:
        """Absolute amounts of pairs over the similarity: above 10 they cancel, and pictures mislead."""
        return float(self.matrix.abs().sum()) / max(abs(self.similarity), torch.finfo(torch.float64).tiny)

    def top(self, count: int = 5) -> list[tuple[str, str, float]]:
        """The pairs that got most, whatever their sign, the largest first: (token of x, token of y, relevance)."""
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"top({count!r}): give how many, at least one")
        order = self.matrix.abs().flatten().argsort(descending=True, stable=True)[:count].tolist()
        places = [(n // len(self.y), n % len(self.y)) for n in order]
        return [(self.x[i], self.y[j], float(self.matrix[i, j])) for i, j in places]

    def show(self, console: Any = None) -> None:
        """Print each token of x: what it got in all, and its pairs in colours, or the largest of them by name."""
        drawing.show(self._drawn(), console)

    def plot(self) -> Any:
        """A `matplotlib.figure.Figure`: the tokens of x by those of y. Raises `InputError` without matplotlib."""
        return drawing.plot(self._drawn())

    def _drawn(self) -> Matrix:
        zeros = torch.zeros(len(self.x), dtype=self.matrix.dtype)
        rest = sum(self.x_alone.values(), zeros)
        return Matrix(
            title=f"{self.measure} {self.similarity:+.4g}",
            ruleset=self.ruleset,
            rows=self.x,
            columns=self.y,
            given=len(self.y),
            values=self.matrix.numpy(),
            scores=(self.matrix.sum(1) + rest).numpy(),
            probabilities=(zeros * float("nan")).numpy(),
            rest=rest.numpy(),
        )

    def __repr__(self) -> str:
        sizes = f"{len(self.x)} x {len(self.y)} tokens"
        return f"Pairs({self.measure} {self.similarity:+.4g}, {sizes}, rest {self.rest:+.4g}, rules {self.ruleset})"
