"""Where a row of nodes repeats with a given period, and where in it the periods begin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import fx

from lrp_fx.ir.sequence import OWN_LEAF, Sequence, is_leaf

Array: TypeAlias = npt.NDArray[np.int_]


@dataclass(frozen=True)
class Repeat:
    """A run of ``count`` periods from a place of the row on.

    ``carried``: places of the first period that the second reads, with what the first reads instead; ``paired``: what
    the first period reads of another run, where each period reads one of its own there.
    """

    start: int
    period: int
    count: int
    carried: dict[int, fx.Node]
    paired: tuple[fx.Node, ...]

    @property
    def end(self) -> int:
        return self.start + self.period * self.count

    @property
    def left_out(self) -> int:
        """How many nodes the first period stands for, beside its own."""
        return self.period * (self.count - 1)


@dataclass(frozen=True)
class Stretch:
    """Places that all have their like a period later, but for the last period: ``start`` to ``end``.

    Before ``first`` there are nodes that read other values than they would in a period behind another.
    """

    start: int
    first: int
    end: int

    def most_left_out(self, period: int) -> int:
        return ((self.end - self.start) // period - 1) * period


class Period:
    """A row compared with itself ``length`` places further on; ``known``: runs that were found in it before."""

    def __init__(self, sequence: Sequence, length: int, known: list[Repeat]) -> None:
        self.sequence, self.length, self.known = sequence, length, known
        self._steps: dict[int, tuple[int | str, ...] | None] = {}

    def stretches(self, low: int, high: int) -> Iterator[Stretch]:
        """The parts of a range that repeat, each as long as it can be."""
        first: int | None = None
        for i in range(low, high - self.length + 1):
            goes_on = i < high - self.length and self._is_strict(i)
            if goes_on and first is not None and i - self.length >= first:
                goes_on = self.steps(i) == self.steps(i - self.length)  # what moves by 0 and then by a period: neither
            if goes_on and first is None:
                first = i
            elif not goes_on and first is not None:
                yield Stretch(self._entry(first, i, max(low, first - self.length)), first, i + self.length)
                first = None

    def aligned(self, stretch: Stretch) -> Repeat | None:
        """The run in a stretch whose periods begin where the fewest values are handed on, to the most nodes.

        None where that is nothing, unless each period belongs to one of another run: what else stands side by side is
        told apart by who reads it.
        """
        starts = range(stretch.start, min(stretch.first + self.length, stretch.end - 2 * self.length + 1))
        possible = self._possible(starts)
        if not possible:
            return None
        cuts, keys = self._cuts(starts), self.sequence.keys
        begun = [keys[r.start : r.start + min(self.length, r.period)] for r in self.known]

        def order(s: int) -> tuple[int | bool, ...]:
            values, reads = cuts[s - stretch.start]
            unlike = all(keys[s : s + len(begin)] != begin for begin in begun)  # runs that were found before
            return values, unlike, -((stretch.end - s) // self.length), -reads, s

        for s in sorted(possible, key=order):
            carried, paired = self._links(s)
            if carried or paired:
                return Repeat(s, self.length, (stretch.end - s) // self.length, carried, paired)
            if cuts[s - stretch.start][0] == 0:
                return None
        return None

    def steps(self, i: int) -> tuple[int | str, ...] | None:
        if i not in self._steps:
            self._steps[i] = self.sequence.steps(i, i + self.length)
        return self._steps[i]

    def is_paired(self, i: int, read: int) -> bool:
        """Do both nodes read neighbouring periods of an earlier run? (A transpose reads its own block, the last
        first.)
        """
        if not self.known:
            return False
        x, y = self.sequence.anchor(i, read), self.sequence.anchor(i + self.length, read)
        a, b = self.sequence.reads[i][read], self.sequence.reads[i + self.length][read]
        if x is None or y is None or is_leaf(a) is not is_leaf(b):
            return False
        return any(abs(x - y) == r.period and r.start <= x < r.end and r.start <= y < r.end for r in self.known)

    def _is_strict(self, i: int) -> bool:
        steps = self.steps(i)
        return steps is not None and all(self._is_regular(i, k) for k in range(len(steps)))

    def _is_regular(self, i: int, read: int) -> bool:
        """Is a read of one node to that of the other as it can be to all further ones?"""
        return (self.steps(i) or ())[read] in (0, self.length, OWN_LEAF) or self.is_paired(i, read)

    def _entry(self, first: int, end: int, low: int) -> int:
        """How far before a place a run may begin: as long as what is read from before it can stand before it.

        end: the place behind the last that is known to have its like.
        """
        start = first
        while start > low and self._leads_on(start - 1, end):
            start -= 1
            if not self._is_strict(start):
                low = max([low, *(until + 1 for after, until in self._excluded(start) if after == start - self.length)])
        return max(start, low)

    def _leads_on(self, i: int, end: int) -> bool:
        """Is the node to the one a period later as that to the next, or reads what stands before the run instead?"""
        steps, later = self.steps(i), self.steps(i + self.length) if i + self.length < end else None
        if steps is None or later is None:
            return steps is not None
        return all(
            after == (step if self._is_regular(i, k) else self.length)
            for k, (step, after) in enumerate(zip(steps, later, strict=True))
        )

    def _excluded(self, i: int) -> Iterator[tuple[int, int]]:
        """Where no run begins that has the node at place ``i`` in its first period: behind one place, up to another."""
        length, place = self.length, self.sequence.place
        for k, step in enumerate(self.steps(i) or ()):
            if step == OWN_LEAF or (step != length and self.is_paired(i, k)):
                continue
            x = place.get(self.sequence.reads[i][k], -1)
            y = place.get(self.sequence.reads[i + length][k], -1)
            if step != length:  # what both read, or the first period alone, stands before the run
                yield i - length, min(x if step == 0 else max(x, y - length), i)
            if step != 0:  # what the second reads stands in one of the two
                yield max(i - length, y), i

    def _possible(self, starts: range) -> list[int]:
        """The starts for which each read of the first period has its like in the second."""
        wrong = _Counts(starts)
        for i in range(starts.start, starts.stop + self.length - 1):
            for after, until in self._excluded(i):
                wrong.add(after, until)
        return [s for s, n in zip(starts, wrong.totals(), strict=True) if n == 0]

    def _cuts(self, starts: range) -> list[tuple[int, int]]:
        """For each start: how many values the second period reads from before it, and how often; without those that
        every period reads.
        """
        length = self.length
        values, reads = _Counts(starts), _Counts(starts)
        farthest: dict[int, int] = {}
        for x in range(starts.start + length, starts.stop + 2 * length - 1):
            for read, before in zip(self.sequence.reads[x], self.sequence.reads[x - length], strict=True):
                q = self.sequence.place.get(read, -1)
                if read is before or q < starts.start:
                    continue
                values.add(max(farthest.get(q, q), x - length) - length, x - length)
                reads.add(max(q, x - length) - length, x - length)
                farthest[q] = x
        return list(zip(values.totals(), reads.totals(), strict=True))

    def _links(self, start: int) -> tuple[dict[int, fx.Node], tuple[fx.Node, ...]]:
        """What a run from there on carries, none if one value stands for several; and what is paired."""
        second = start + self.length
        carried: dict[int, fx.Node] = {}
        paired: dict[fx.Node, None] = {}
        for i in range(start, second):
            for k, step in enumerate(self.steps(i) or ()):
                mine, next_ = self.sequence.reads[i][k], self.sequence.reads[i + self.length][k]
                x, y = self.sequence.place.get(mine, -1), self.sequence.place.get(next_, -1)
                if step != self.length and not is_leaf(mine) and self.is_paired(i, k):
                    paired[mine] = None
                elif start <= y < second and x < start and carried.setdefault(y, mine) is not mine:
                    return {}, ()
        return carried, tuple(paired)


class _Counts:
    """A number for each place of a range, to which intervals are added."""

    def __init__(self, places: range) -> None:
        self._low = places.start
        self._changes: Array = np.zeros(len(places) + 1, int)

    def add(self, after: int, until: int) -> None:
        a, b = (min(max(p + 1 - self._low, 0), len(self._changes) - 1) for p in (after, until))
        if a < b:
            self._changes[a] += 1
            self._changes[b] -= 1

    def totals(self) -> list[int]:
        found: list[int] = np.cumsum(self._changes[:-1]).tolist()
        return found
