"""Builder: the relevance graph while it grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from lrp_fx.analysis.provenance import CONTENT
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.sizes import same_size
from lrp_fx.ir.tracing import inline, trace
from lrp_fx.rewrite.application import Rewritten


class RelevanceBuilder:
    """A flat graph that grows: ``env`` maps the program's nodes to their copies, ``batch`` is the batch size in it."""

    def __init__(self, rewritten: Rewritten) -> None:
        self.rewritten = rewritten
        self.program, self.facts = rewritten.program, rewritten.facts
        self.graph = fx.Graph()
        self.env: dict[fx.Node, fx.Node] = {}
        self.batch: Any = 1
        self.mode = next(v.fake_mode for n in self.program.graph.nodes if hasattr(v := value_of(n), "fake_mode"))

    def add(self, function: Callable[..., list[Any]], nodes: Sequence[Any], tag: tuple[str, str, int]) -> list[Any]:
        """Trace a function on the values of nodes of this graph (or on numbers) and copy its operations here."""
        module = trace(function, [value_of(n) if isinstance(n, fx.Node) else n for n in nodes], self.mode)
        return inline(self.graph, module, nodes, tag)

    def owner(self, size: Any) -> str | None:
        """The index input whose length is this (symbolic) size."""
        for info, node in zip(self.program.inputs, self.program.input_nodes().values(), strict=True):
            if (
                info.role == CONTENT
                and info.is_index
                and len(info.shape) == 2
                and same_size(value_of(node).shape[1], size)
            ):
                return info.name
        return None
