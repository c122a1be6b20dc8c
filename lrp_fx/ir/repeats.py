"""Blocks that a graph repeats one after another, found by what its nodes do and read, never by a name.

The nodes of a graph are a row (`Sequence`). A run is a part of it that repeats with a period: a node and the one a
period later do the same, and each value that they read is the same for both, or one period further on as well, or a
weight. The first period reads what stands before the run where the others read the period before them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import fx

from lrp_fx.ir.graph import ancestors, is_scalar
from lrp_fx.ir.period import Period, Repeat
from lrp_fx.ir.sequence import Sequence

#: A run that leaves out fewer nodes than this is as long with its comments as without.
MIN_LEFT_OUT = 8
#: How many nodes are looked at together to guess a period; how many guesses, and multiples of them, are tried.
_WINDOW, _GUESSES, _MULTIPLES = 4, 8, 8
#: How often what is prepared inside a first period is put aside.
_ROUNDS = 3


@dataclass(frozen=True)
class Run:
    """Periods of nodes that do the same, ``periods[j][i]`` standing for ``periods[0][i]``.

    ``carried``: nodes of a period that the next one reads, each with what the first period reads in their place.
    ``paired``: what the first period reads of another run, where each reads a period of its own (as a transpose does).
    """

    periods: tuple[tuple[fx.Node, ...], ...]
    carried: dict[fx.Node, fx.Node]
    paired: tuple[fx.Node, ...]

    @property
    def first(self) -> tuple[fx.Node, ...]:
        return self.periods[0]


def find_repeats(graph: fx.Graph, note: Callable[[fx.Node], str] = lambda node: "") -> list[Run]:
    """The runs of a graph in order, runs inside the first period of another directly behind it.

    note: what else must be the same for two nodes to be alike, such as their rule.
    """
    apart: set[fx.Node] = set()
    for _ in range(_ROUNDS):
        sequence = Sequence(graph, note, apart)
        found = list(_runs(sequence, 0, len(sequence.nodes), []))
        prepared = {n for run in found for n in _prepared(sequence, run)}
        if not prepared:
            break
        apart |= prepared
    return [_as_nodes(sequence, run) for run in found]


def left_out(graph: fx.Graph, runs: Iterable[Run]) -> set[fx.Node]:
    """The nodes that a first period stands for: those of the other periods, and what these alone read beside the row
    (their weights, sizes they compute again).
    """
    found = {n for run in runs for period in run.periods[1:] for n in period}
    for node in reversed(graph.nodes):
        if (node.op == "get_attr" or is_scalar(node)) and node.users and all(user in found for user in node.users):
            found.add(node)
    return found


def _as_nodes(sequence: Sequence, run: Repeat) -> Run:
    starts = range(run.start, run.end, run.period)
    periods = tuple(tuple(sequence.nodes[s : s + run.period]) for s in starts)
    return Run(periods, {sequence.nodes[q]: entry for q, entry in run.carried.items()}, run.paired)


# ------------------------------------------------------------------------------------------------ search
def _runs(sequence: Sequence, low: int, high: int, known: list[Repeat]) -> Iterator[Repeat]:
    """The longest run of the period that saves most, and those before, inside and behind it; found ones are added to
    ``known``.
    """
    best: Repeat | None = None
    most = 0
    for period, alike in _periods(sequence.keys[low:high]):
        if alike <= most:
            break
        compared = Period(sequence, period, known)
        long = (t for t in compared.stretches(low, high) if t.most_left_out(period) >= MIN_LEFT_OUT)
        runs = [run for t in long if (run := compared.aligned(t)) is not None and run.left_out >= MIN_LEFT_OUT]
        if (saved := sum(run.left_out for run in runs)) > most:
            best, most = max(runs, key=lambda run: run.left_out), saved
    if best is not None:
        yield from _runs(sequence, low, best.start, known)
        known.append(best)
        yield best
        yield from _runs(sequence, best.start, best.start + best.period, known)
        yield from _runs(sequence, best.end, high, known)


def _periods(keys: list[int]) -> list[tuple[int, int]]:
    """Distances at which the same few nodes come again, and how many nodes are like the one so far on, most first.

    Blocks that differ only in which mask they read come again after several of these distances.
    """
    last: dict[tuple[int, ...], int] = {}
    gaps: Counter[int] = Counter()
    for i in range(len(keys) - _WINDOW + 1):
        window = tuple(keys[i : i + _WINDOW])
        if window in last:
            gaps[i - last[window]] += 1
        last[window] = i
    guesses = {m * gap for gap, _ in gaps.most_common(_GUESSES) for m in range(1, _MULTIPLES + 1)}
    row = np.array(keys)
    alike = [(g, int((row[g:] == row[:-g]).sum())) for g in guesses if 2 * g <= len(keys)]
    return sorted(alike, key=lambda found: (-found[1], found[0]))


def _prepared(sequence: Sequence, run: Repeat) -> set[fx.Node]:
    """What all periods read and one period too many prepares: nodes that stand in the period before the run.

    A first block turns a table of positions, say, for itself and all others. Without these nodes it is like them.
    """
    before = run.start
    shared = [
        read
        for i in range(run.start, run.start + run.period)
        for read, other in zip(sequence.reads[i], sequence.reads[i + run.period], strict=True)
        if read is other and 0 <= before - 1 - sequence.place.get(read, before) <= 2 * run.period
    ]
    lowest = before - 2 * run.period
    aside = set(ancestors(shared, until=lambda n: sequence.place.get(n, -1) < lowest))
    found: set[fx.Node] = set()
    waiting: set[fx.Node] = set()
    x, y = before - 1, run.start + run.period - 1
    while x >= 0 and y >= run.start:
        if sequence.nodes[x] in aside:
            waiting.add(sequence.nodes[x])
        elif sequence.keys[x] == sequence.keys[y]:
            found |= waiting
            waiting.clear()
            y -= 1
        else:
            break
        x -= 1
    return found
