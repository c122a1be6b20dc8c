"""Ledger: relevance is accounted for like money.

``score = sum of leaves + sum of named sinks`` for every example, and at every site ``out = in + sinks``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lrp_fx.errors import ConservationError
from lrp_fx.report.tokens import TokenBooks, TokenShare
from lrp_fx.transpose.signature import DepthInfo

#: Relative closure demanded of the whole ledger, by type; half precision closes within its own rounding.
TOTAL_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}
#: The same for one site, relative to the sum of absolute relevances that pass it.
SITE_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
#: Units in the last place of what a score reads of the outputs (absolute amounts, times their derivatives) that it may
#: be off by: the difference of two large logits is as rounded as they are, however small it is.
OUTPUT_ROUNDING = {torch.float64: 8, torch.float32: 8, torch.bfloat16: 1, torch.float16: 1}
#: Above this ratio of absolute parts to the score, cancellation makes any picture unreliable.
CANCELLATION_LIMIT = 10.0
#: The sink of operations that no rule knows, and the share of the score above which it is no trifle.
UNEXPLAINED, UNEXPLAINED_LIMIT = "unexplained", 0.01


def rounding_floor(dtype: torch.dtype) -> float:
    """The share of all relevance below which a site's imbalance is measured against the whole.

    What passes a site may itself be rounding, left over where larger coefficients cancel (a router of which one expert
    is chosen has a weight of 1 and no gradient): sixteen units in the last place of the whole are nobody's loss.
    """
    return min(16 * torch.finfo(dtype).eps / SITE_TOLERANCE[dtype], 1e-2)


@dataclass(frozen=True)
class SiteBalance:
    """The books of one site, summed over the batch: ``outgoing = incoming + sinks``; ``scale`` is the sum of absolutes
    (or the `rounding_floor` of the whole, if that is more)."""

    name: str
    rule: str
    module: str
    source: str
    outgoing: float
    incoming: float
    sinks: float
    scale: float

    @property
    def error(self) -> float:
        """Imbalance relative to the relevance that passes the site."""
        return abs(self.outgoing - self.incoming - self.sinks) / max(self.scale, abs(self.outgoing), 1e-300)

    def __str__(self) -> str:
        place = f"{self.module or 'model'}, {self.source}"
        return (
            f"%{self.name} [{self.rule}] at {place}: out {self.outgoing:.6g} = in {self.incoming:.6g} + sinks "
            f"{self.sinks:.6g}? off by {self.error:.2e}"
        )


@dataclass(frozen=True)
class DepthBalance:
    """The books at one depth of a residual stream, (B,) each: ``score = stream + leaves + sinks + passing``.

    ``stream``: relevance of the stream's rows; ``leaves`` and ``sinks``: what was booked above it (nearer the output);
    ``passing``: what flows past it into something below, as from a decoder into the encoder's result.
    """

    name: str
    module: str
    score: Tensor
    stream: Tensor
    leaves: Tensor
    sinks: Tensor
    passing: Tensor

    @property
    def total(self) -> Tensor:
        """Everything that the score went to at this depth, (B,)."""
        return self.stream + self.leaves + self.sinks + self.passing

    @property
    def parts(self) -> Tensor:
        """Sum of the absolute parts, (B,)."""
        return self.stream.abs() + self.leaves.abs() + self.sinks.abs() + self.passing.abs()

    @property
    def error(self) -> Tensor:
        """Imbalance relative to the absolute parts, (B,)."""
        return (self.score - self.total).abs() / torch.maximum(self.parts, self.score.abs()).clamp_min(
            torch.finfo(self.score.dtype).tiny
        )


@dataclass(frozen=True, eq=False, repr=False)
class DepthBooks:
    """What the balances at the depths are made of: ``rows`` (B, T) for each depth; totals by number, (n, B)."""

    infos: Sequence[DepthInfo]
    rows: Sequence[Tensor]
    leaves: Tensor
    sinks: Tensor
    passing: Tensor

    def __repr__(self) -> str:
        return f"DepthBooks({', '.join(i.name for i in self.infos)})"

    def balances(self, score: Tensor) -> list[DepthBalance]:
        """The books at every depth."""

        def total(of: Tensor, numbers: tuple[int, ...]) -> Tensor:
            return of[list(numbers)].sum(0).to(score.dtype)

        return [
            DepthBalance(
                i.name,
                i.module,
                score,
                R.to(score.dtype).sum(1),
                total(self.leaves, i.leaves),
                total(self.sinks, i.sinks),
                total(self.passing, i.passing),
            )
            for i, R in zip(self.infos, self.rows, strict=True)
        ]


@dataclass(frozen=True, eq=False, repr=False)
class Ledger:
    """Where the score went, for every example of the batch.

    ``score``: (B,). ``leaves``: leaf kind (or ``content:input``) -> (B,). ``sinks``: sink name -> (B,). ``sink_sites``:
    (sink name, site, module path, total (B,)) for each. ``sites``: balances of all sites (``conserve="site"`` only).
    ``magnitude``: (B,), sum of absolute relevances of all leaf elements and sinks. ``dtype``: the coarsest type that
    relevance passed on its way, whose rounding the books are allowed. ``token_books``: what each token got.
    """

    score: Tensor
    leaves: dict[str, Tensor]
    sinks: dict[str, Tensor]
    sink_sites: list[tuple[str, str, str, Tensor]]
    sites: list[SiteBalance]
    magnitude: Tensor
    dtype: torch.dtype
    depth_books: DepthBooks
    token_books: TokenBooks

    @property
    def unexplained(self) -> Tensor:
        """(B,): what ended in operations that no rule knows, wherever and with whatever sign, relative to the score."""
        lost = [total.abs() for name, _, _, total in self.sink_sites if name == UNEXPLAINED]
        return torch.stack(lost).sum(0) / self.score.abs().clamp_min(1e-300) if lost else torch.zeros_like(self.score)

    @cached_property
    def depths(self) -> list[DepthBalance]:
        """The books at every depth of the residual streams (made when they are first read)."""
        return self.depth_books.balances(self.score)

    @property
    def total(self) -> Tensor:
        """Sum of all leaves and sinks, (B,)."""
        return sum((t for t in [*self.leaves.values(), *self.sinks.values()]), torch.zeros_like(self.score))

    @property
    def absolute(self) -> Tensor:
        """Sum of the absolute totals of all leaves and sinks, (B,)."""
        return sum((t.abs() for t in [*self.leaves.values(), *self.sinks.values()]), torch.zeros_like(self.score))

    @property
    def error(self) -> Tensor:
        """``|score - leaves - sinks| / sum of |leaf and sink totals|``, (B,)."""
        scale = torch.maximum(self.absolute, self.score.abs()).clamp_min(torch.finfo(self.score.dtype).tiny)
        return (self.score - self.total).abs() / scale

    @property
    def cancellation(self) -> Tensor:
        """``sum of |leaf and sink totals| / |score|``, (B,): above 10 the parts cancel and pictures mislead."""
        return self.absolute / self.score.abs().clamp_min(torch.finfo(self.score.dtype).tiny)

    @property
    def token_cancellation(self) -> Tensor:
        """``sum of |token relevance| / |sum of token relevance|``, (B,): 1 where no token speaks against another.

        Content and signed position of each token together, of all inputs that have tokens (texts, vectors, patches of
        images); what a mask hides gets nothing, and does not count. Above 5 a warning says so, once for an explainer.
        """
        return self.token_books.cancellation

    @property
    def largest_tokens(self) -> list[TokenShare | None]:
        """For each example the token that got most, whatever its sign; None where no input has tokens."""
        return self.token_books.largest

    def shares(self) -> dict[str, Tensor]:
        """Each leaf's and sink's total over the score, (B,) each."""
        return {name: t / self.score for name, t in {**self.leaves, **self.sinks}.items()}

    def worst_sites(self, count: int = 5) -> list[SiteBalance]:
        """The operations that lose or make most, relative to what passes them; none without ``conserve="site"``."""
        return sorted(self.sites, key=lambda s: s.error if s.error == s.error else float("inf"), reverse=True)[:count]

    def check(self, read: Callable[[], Tensor | None] = lambda: None) -> bool:
        """Raise `ConservationError` (with this ledger as its ``ledger``) unless every site and the whole balance.

        read: (B,), the absolute amounts that the score reads of the outputs: no score is more exact than these are
            rounded. Asked only where the books do not close otherwise. Returns whether that was needed.
        """
        try:
            return self._check(read)
        except ConservationError as error:
            error.ledger = self
            raise

    def _check(self, read: Callable[[], Tensor | None]) -> bool:
        """Raise unless every site and the whole ledger balance within the type's tolerance."""
        if not bool(self.score.isfinite().all()):
            raise ConservationError(
                f"the score is not finite: {self.score.tolist()}\n    next: look for NaN or infinity in the model's "
                "output"
            )
        bad = [s for s in self.worst_sites(10) if not s.error <= SITE_TOLERANCE[self.dtype]]
        # Rounding grows with what is summed, not with what is left of it: the score of an undecided model may be far
        # smaller than the relevances that cancel in it.
        gap = (self.score - self.total).abs() / torch.maximum(self.magnitude, self.score.abs()).clamp_min(
            torch.finfo(self.score.dtype).tiny
        )
        worst = gap.max() if gap.numel() else gap.new_zeros(())
        exact = bool(worst <= TOTAL_TOLERANCE[self.dtype])
        closed = exact or self._is_rounding(self.score - self.total, read)
        if bad:
            lines = "\n".join(f"  {s}" for s in bad)
            raise ConservationError(
                f"{len(bad)} site(s) do not balance, worst first:\n{lines}\n"
                "    next: the rule named loses or creates relevance there; check its surrogate with the laws in "
                "tests/test_laws.py"
            )
        missing, whole = (self.score.sum() - self.total.sum()).detach(), self.magnitude.detach().sum()
        batch_gap = abs(float(missing)) / max(float(whole), 1e-300)
        if not closed and self.score.numel() > 1 and batch_gap <= TOTAL_TOLERANCE[self.dtype]:
            raise ConservationError(
                f"the ledger closes for the batch but not for each example (off by {float(worst):.2e})\n{self}\n"
                "    why:  examples influence each other in this model or target, or an operation hides which axis is "
                "the batch\n"
                "    next: explain one example at a time, or choose a target that reads each example's own output"
            )
        if closed and self.sites:
            self._check_depths(read)
        if not closed:
            raise ConservationError(
                f"the ledger does not close: off by {float(worst):.2e} of its parts (allowed "
                f"{TOTAL_TOLERANCE[self.dtype]:.0e} in {self.dtype})\n{self}\n"
                '    next: convert(model, conserve="site") names the site where relevance is lost'
            )
        return not exact

    def _is_rounding(self, gap: Tensor, read: Callable[[], Tensor | None]) -> bool:
        """Is no score off by more than what it reads is rounded? ``gap``: (B,), what is missing."""
        amounts = read()
        if amounts is None or not bool(amounts.isfinite().all()):
            return False
        unit = OUTPUT_ROUNDING[self.dtype] * torch.finfo(self.dtype).eps
        return bool((gap.abs() <= unit * amounts.to(gap.dtype)).all())

    def _check_depths(self, read: Callable[[], Tensor | None]) -> None:
        """Raise unless the books close at every depth of the residual streams."""
        for depth in self.depths:
            gap = (depth.score - depth.total).abs() / torch.maximum(self.magnitude, depth.parts).clamp_min(
                torch.finfo(self.score.dtype).tiny
            )
            closed = bool((gap <= TOTAL_TOLERANCE[self.dtype]).all())
            if not closed and not self._is_rounding(depth.score - depth.total, read):
                raise ConservationError(
                    f"the books do not close at depth %{depth.name} ({depth.module or 'model'}): off by "
                    f"{float(gap.max()):.2e}\n"
                    "    why:  relevance passed the residual stream here without being counted\n"
                    "    next: the sites balance and the whole ledger closes, so this is a fault of lrp_fx: please "
                    "report it with the model's code"
                )

    def __repr__(self) -> str:
        worst = float(self.error.detach().max()) if self.score.numel() else 0.0
        booked = ", ".join([*(f"leaf {n}" for n in self.leaves), *(f"sink {n}" for n in self.sinks)])
        return f"Ledger({self.score.numel()} scores: {booked}; off by {worst:.1e} at most)"

    def __str__(self) -> str:
        rows = [f"  {'score':<22}{_numbers(self.score)}"]
        rows += [f"  {'leaf ' + n:<22}{_numbers(t)}" for n, t in self.leaves.items()]
        rows += [f"  {'sink ' + n:<22}{_numbers(t)}" for n, t in self.sinks.items()]
        rows.append(f"  {'error (relative)':<22}{_numbers(self.error)}")
        rows += [f"  {'tokens cancel':<22}{self._tokens()}"] if self.token_books.rows else []
        return "\n".join(rows)

    def _tokens(self) -> str:
        """How much tokens cancel, and (in brackets) which of them got most, and its share of the absolute amounts."""
        several = len(self.token_books.rows) > 1
        found = zip(self.token_cancellation.tolist()[:6], self.largest_tokens, strict=False)
        cells = [f"{c:.3g} ({f'{t.input} ' if several and t else ''}{t})" for c, t in found]
        return "  ".join(cells) + ("  ..." if self.score.numel() > 6 else "")


def _numbers(t: Tensor) -> str:
    return "  ".join(f"{v:+.6g}" for v in t.tolist()[:6]) + ("  ..." if t.numel() > 6 else "")
