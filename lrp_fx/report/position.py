"""Position relevance: one `PositionSite` for each place where the model injects position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lrp_fx.aggregation import Aggregation, Rows
from lrp_fx.errors import InputError
from lrp_fx.rule import registry
from lrp_fx.structure.windows import Windows

KEY, QUERY, BOTH = "key", "query", "both"
CREDITS = (KEY, QUERY, BOTH)
SIGNED = "signed"


@dataclass(frozen=True, eq=False, repr=False)
class PositionSite:
    """One place where position meets content, and the relevance it received.

    ``kind``       how: ``absolute`` (added to tokens), ``rotary``, ``scale`` (of tokens), ``kernel`` (weights of
                   tokens, by feature), ``bias`` (between pairs of tokens), ``disentangled`` (rows of a table in a
                   matrix product), ``other``.
    ``variant``    in what form: learned or sinusoidal, half-split or interleaved, a learned table or a network ...
    ``layer``      the block it belongs to, counted from 0 along its residual stream; None before the first.
    ``module``, ``source``, ``rule``  where it is and what serves it.
    ``parts``      leaf name -> its raw relevance, batch first: sine and cosine of a rotation are two parts.
    ``paired``     where rows of a table stand for distances: the same relevance by pair, (B, ..., queries, keys).
    ``windows``    where attention runs inside windows (the axis after the batch): the token in each slot of each
                   window; where position is added to some tokens only, these as one window.
    ``token_axes`` axes of each part (or of ``paired``) that run over tokens: none, one, or two where it is pairwise.
    ``owners``     for each token axis, the input whose tokens it counts, None where it counts something else (patches).
    ``starts``     for each token axis, the row at which the tokens of its owner begin: a class token or a prompt may
                   stand in front of them.
    ``planes``     for each part the rotation plane of every feature, None where nothing is rotated.
    ``score``      (B,): what was explained.
    ``grid``       are ``token_axes`` rows and columns of one grid (patches of a picture)?
    ``summed``     is it kept as signed sums by token only (`Relevance.save`), which have no other reading?
    """

    name: str
    kind: str
    variant: str
    layer: int | None
    module: str
    source: str
    rule: str
    parts: Mapping[str, Tensor]
    token_axes: tuple[int, ...]
    owners: tuple[str | None, ...]
    planes: tuple[tuple[int, ...] | None, ...]
    score: Tensor
    paired: Tensor | None = None
    windows: Windows | None = None
    starts: tuple[int, ...] = ()
    summed: bool = False
    grid: bool = False

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(R.shape)) for R in self.parts.values())
        return f"PositionSite({self.name}: {self.kind}, {self.variant}, in {self.module or 'model'}, {shapes})"

    @property
    def is_pairwise(self) -> bool:
        """Does position enter between pairs of tokens (a bias on their scores)?"""
        return len(self.token_axes) == 2 and not self.grid

    @property
    def cells(self) -> tuple[int, ...]:
        """How many places there are along each axis of tokens."""
        return tuple(self._by_token.shape[a] for a in self.token_axes)

    @cached_property
    def relevance(self) -> Tensor:
        """The raw relevance, batch first: the leaf's own shape, or (..., planes) summed over each rotation plane."""
        return _joined(list(self.parts.values()), self.planes)

    @property
    def total(self) -> Tensor:
        """(B,): all of it."""
        return self.relevance.flatten(1).sum(1).expand(self.score.shape)

    @property
    def share(self) -> Tensor:
        """(B,): its part of the score."""
        return self.total.to(self.score.dtype) / self.score

    @property
    def pairs(self) -> Tensor | None:
        """(B, queries, keys) where position enters between pairs of tokens, summed over heads; (B, windows, queries,
        keys)
        where attention runs inside windows; else None."""
        if not self.is_pairwise:
            return None
        R = self._by_token
        first = 1 if self.windows is None else 2
        others = [a for a in range(first, R.dim()) if a not in self.token_axes]
        return R.sum(others) if others else R

    @property
    def _by_token(self) -> Tensor:
        """The relevance in the form that ``token_axes`` speaks of."""
        return self.relevance if self.paired is None else self.paired

    def per_token(self, position: str = "signed", credit: str = KEY, texts: int = 1) -> Tensor | None:
        """(B, T): relevance per token, None without a token axis.

        position: an aggregation (`lrp_fx.aggregations`). credit: a pair's goes to its ``key``, its ``query``, or half
            to each (``both``). texts: that each example has (answers to choose from), for (B * texts, T).

        Raises `InputError` where the relevance of an example's texts is not apart.
        """
        aggregation = find_aggregation(position)
        if credit not in CREDITS:
            raise InputError(f"credit={credit!r}; there are {', '.join(CREDITS)}")
        if self.summed and (position, credit) != (SIGNED, KEY):
            raise InputError(
                f"{self.name} was saved as sums by token: read it signed, with credit to the key\n    next: "
                "relevance.save(path, positions=True) keeps the rest"
            )
        if not self.token_axes and self.windows is None:
            return None
        if credit == BOTH and self.is_pairwise:
            queries, keys = (self._by_token.shape[a] for a in self.token_axes)
            if self.owners[0] != self.owners[1] or queries != keys:
                raise InputError(f"{self.name} relates tokens of two sequences: credit the key or the query")
            return (self._per_token(aggregation, 0, texts) + self._per_token(aggregation, -1, texts)) / 2
        return self._per_token(aggregation, 0 if credit == QUERY else -1, texts)

    def _per_token(self, aggregation: Aggregation, which: int, texts: int) -> Tensor:
        def rows(R: Tensor) -> Tensor:
            R = R if texts == 1 else self._by_text(R, texts)
            axes = self.token_axes if self.grid else (self.token_axes[which],)
            R = R.movedim(axes, tuple(range(1, 1 + len(axes)))).flatten(1, len(axes))
            return R.flatten(2) if R.dim() > 2 else R.unsqueeze(-1)

        if self.windows is not None and texts == 1:
            return self._over_windows(aggregation, self.windows, which)
        parts = tuple(self.parts.values()) if self.paired is None else (self.paired,)
        return aggregation.per_token(Rows(rows(self._by_token), tuple(rows(R) for R in parts)))

    def _by_text(self, R: Tensor, texts: int) -> Tensor:
        """Each text as an example: they come first of what was merged with the batch."""
        if self.windows is not None or min(self.token_axes) < 2 or R.shape[1] % texts:
            raise InputError(f"{self.name} does not tell the {texts} texts of an example apart: position=None")
        return R.reshape(R.shape[0] * texts, R.shape[1] // texts, *R.shape[2:])

    def _over_windows(self, aggregation: Aggregation, windows: Windows, which: int) -> Tensor:
        """(B, T): slots of all windows put back where their tokens stand; padding falls away."""

        def rows(R: Tensor) -> Tensor:
            axis = self.token_axes[which] if self.token_axes else 0
            if len(windows.tokens) == 1:  # is no axis of its own, nor is its only token
                R, axis = R.unsqueeze(1) if axis else R[:, None, None], axis + 1 if axis else 2
            R = R.movedim(axis, 2)
            return (R.flatten(3) if R.dim() > 3 else R.unsqueeze(-1)).flatten(1, 2)

        found = aggregation.per_token(Rows(rows(self.relevance), tuple(rows(R) for R in self.parts.values())))
        place = torch.tensor(windows.tokens, device=found.device).flatten()
        return found.new_zeros(len(found), windows.count).index_add(1, place[place >= 0], found[:, place >= 0])

    def sums(self) -> PositionSite:
        """The same with signed sums by token in place of raw relevance: little to keep, and no other reading."""
        rows = self.per_token()
        one = self.total.unsqueeze(1) if rows is None else rows.reshape(len(rows), *self.cells) if self.grid else rows
        keys = slice(None) if self.grid else slice(-1, None) if rows is not None else slice(0)
        return replace(
            self,
            parts={self.name: one},
            paired=None,
            windows=None,
            token_axes=() if rows is None else tuple(range(1, one.dim())),
            owners=self.owners[keys],
            starts=self.starts[keys],
            planes=(None,),
            summed=True,
        )

    def owner(self, credit: str = KEY) -> str | None:
        """The input to whose tokens this site's relevance is credited."""
        return self.owners[0 if credit == QUERY else -1] if self.owners else None

    def of_owner(self, rows: Tensor, credit: str, count: int) -> Tensor:
        """(B, count): of a site's rows those at which tokens of its owner stand."""
        start = self.starts[0 if credit == QUERY else -1] if self.starts else 0
        found = rows[:, start : start + count]
        return torch.nn.functional.pad(found, (0, count - found.shape[1]))  # the last may stand nowhere


def find_aggregation(name: str) -> Aggregation:
    """The registered aggregation of that name, or an error that lists them."""
    if name not in registry.aggregations:
        raise InputError(f"unknown aggregation {name!r}; there are {', '.join(registry.aggregations)} and None")
    return registry.aggregations[name]


def _joined(parts: list[Tensor], planes: tuple[tuple[int, ...] | None, ...]) -> Tensor:
    """Parts summed: over each plane where planes are known, over features where parts are many and planes are not."""
    if len(parts) == 1 and planes[0] is None:
        return parts[0]
    if any(p is None for p in planes):
        return sum((R.sum(-1, keepdim=True) for R in parts[1:]), parts[0].sum(-1, keepdim=True))
    labels = [torch.tensor(p, device=R.device) for p, R in zip(planes, parts, strict=True)]
    count = 1 + max(int(p.max()) for p in labels)
    joint = parts[0].new_zeros(*parts[0].shape[:-1], count)
    for R, label in zip(parts, labels, strict=True):
        joint = joint.index_add(-1, label, R)
    return joint
