"""Emitter: writes operations into a graph whose nodes have their abstract values, and gives each new one its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher

from lrp_fx.program import value_of


class Emitter:
    """``mode``: the fake mode that the graph's abstract values belong to."""

    def __init__(self, graph: fx.Graph, mode: Any) -> None:
        self.graph, self.mode = graph, mode

    def call(self, target: Any, *args: Any, like: fx.Node | None = None, **kwargs: Any) -> fx.Node:
        """A new call at the graph's insertion point; ``like``: the node whose rule it takes over."""
        node = self.graph.call_function(target, args, kwargs)
        read = fx.map_arg((args, kwargs), value_of)
        with self.mode, enable_python_dispatcher(), torch.no_grad():
            node.meta["val"] = target(*read[0], **read[1])
        if like is not None and "lrp" in like.meta:
            node.meta["lrp"] = like.meta["lrp"]
        return node
