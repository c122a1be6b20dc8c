"""The recognisers in the order in which they are asked, found by being in this package.

To add one, put a `Recogniser` into a file of this package and name a recogniser that is to be asked after it
(``before=``). The order is data: what is more special is asked first, the last one probes and answers for every
operation. `lrp-fx recognisers` prints the list.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import networkx as nx
from torch import fx

import lrp_fx.recognize
from lrp_fx.recognize.context import Context, Recogniser
from lrp_fx.recognize.meaning import Meaning, Refusal


@dataclass(frozen=True)
class Recognised:
    """What a node means, who said so, and what those answered that were asked before."""

    meaning: Meaning
    recogniser: Recogniser
    asked: tuple[tuple[Recogniser, Refusal], ...]

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Why those asked before refused, in the order asked, each signed with the recogniser's name."""
        return tuple(replace(refusal, recogniser=recogniser.name) for recogniser, refusal in self.asked)


def ordered(recognisers: Iterable[Recogniser]) -> tuple[Recogniser, ...]:
    """The recognisers in an order that keeps every ``before`` and ``after``; each as late as its own allow."""
    by_name: dict[str, Recogniser] = {}
    for recogniser in recognisers:
        if by_name.setdefault(recogniser.name, recogniser) is not recogniser:
            raise ValueError(f"two recognisers are named {recogniser.name!r}")
    later = nx.DiGraph()  # an edge from the later to the earlier one
    later.add_nodes_from(by_name)
    for recogniser in by_name.values():
        if unknown := [n for n in (*recogniser.before, *recogniser.after) if n not in by_name]:
            raise ValueError(f"recogniser {recogniser.name!r} names unknown ones: {', '.join(unknown)}")
        later.add_edges_from((n, recogniser.name) for n in recogniser.before)
        later.add_edges_from((recogniser.name, n) for n in recogniser.after)
    if not nx.is_directed_acyclic_graph(later):
        circle = [earlier for _, earlier in reversed(nx.find_cycle(later))]
        raise ValueError(f"recognisers are asked in a circle: {' before '.join(map(repr, [*circle, circle[0]]))}")
    return tuple(by_name[n] for n in nx.lexicographical_topological_sort(later))[::-1]


def recognise(context: Context, node: fx.Node, recognisers: Sequence[Recogniser] | None = None) -> Recognised:
    """Ask one recogniser after the other; the first meaning counts."""
    context.memo.clear()
    asked: list[tuple[Recogniser, Refusal]] = []
    for recogniser in RECOGNISERS if recognisers is None else recognisers:
        answer = recogniser.recognise(context, node)
        if isinstance(answer, Meaning):
            return Recognised(answer, recogniser, tuple(asked))
        asked.append((recogniser, answer))
    raise LookupError(f"no recogniser gave %{node.name} a meaning; the last one must answer for every operation")


def find() -> list[Recogniser]:
    """Every `Recogniser` at the top of a file of this package."""
    package = lrp_fx.recognize
    names = [m.name for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.") if m.name != __name__]
    values = [value for name in sorted(names) for value in vars(importlib.import_module(name)).values()]
    return list(dict.fromkeys(v for v in values if isinstance(v, Recogniser)))


RECOGNISERS = ordered(find())
