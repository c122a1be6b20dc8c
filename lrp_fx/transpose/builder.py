"""Builder: the relevance graph while it grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from lrp_fx.errors import LrpError, TransposeError, raise_if_out_of_memory
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import AbstractResults, copy_node, op_name, value_of
from lrp_fx.ir.layout import BatchAxis
from lrp_fx.ir.operators import has
from lrp_fx.ir.passes import is_own_fault
from lrp_fx.ir.program import FlatModule
from lrp_fx.ir.traces import Traced, Traces, copied, known_of
from lrp_fx.ir.tracing import abstract_key, decomposed, inline, trace
from lrp_fx.optimize.simplify import simplify_part
from lrp_fx.rewrite.application import Rewritten
from lrp_fx.rule import Rule
from lrp_fx.structure.structure import Structure
from lrp_fx.transpose.owners import Owners

aten = torch.ops.aten


class RelevanceBuilder:
    """A flat graph that grows: ``env`` maps the program's nodes to their copies, ``batch`` is the batch size in it.

    ``traces``: flat graphs traced before, by what they were traced for.
    """

    def __init__(self, rewritten: Rewritten, traces: Traces) -> None:
        self.rewritten, self.traces = rewritten, traces
        self.program, self.facts = rewritten.program, rewritten.facts
        self.graph = fx.Graph()
        self.env: dict[fx.Node, fx.Node] = {}
        self.batch: Any = 1
        self.constants: dict[str, Tensor] = {}
        self.mode = next(v.fake_mode for n in self.program.graph.nodes if hasattr(v := value_of(n), "fake_mode"))
        self._results = AbstractResults(self.mode)
        self.owners = Owners(self.program, self.facts)

    def add(
        self,
        function: Callable[..., list[Any]],
        nodes: Sequence[Any],
        tag: tuple[str, str, int],
        same: Any = None,
        rule: Rule | None = None,
    ) -> list[Any]:
        """Trace a function on the values of nodes of this graph (or on numbers) and copy its operations here.

        ``same``: functions for which this is equal do the same, and are traced once for values of the same shapes; only
        functions of this package have it, and the rules in it are named by ``rule``.
        """
        values = [value_of(n) if isinstance(n, fx.Node) else n for n in nodes]

        def make() -> Traced:
            return Traced(self.traced(function, values, lambda: f"{tag[1]} of %{tag[0]}"))

        if same is None:
            return inline(self.graph, make().module, nodes, tag)
        key = (tag[1], same, abstract_key(values))
        found = self.traces.get(key, self.mode)
        if found is None:
            known = known_of(self.mode) if rule is None or rule.is_shipped else None
            found = make()
            self.traces.keep(key, found, self.mode, known, rule)
        return inline(self.graph, found.module, nodes, tag)

    def add_by_example(
        self,
        make: Callable[[BatchAxis | None], Callable[..., list[Any]]],
        axis: BatchAxis | None,
        nodes: Sequence[Any],
        tag: tuple[str, str, int],
        same: Any,
        rule: Rule | None = None,
    ) -> list[Any]:
        """`add` a function that is made for the place of the batch: a size in this that the graph computes is told to
        it behind its own arguments.
        """
        sizes: list[fx.Node] = []
        place, count = axis.given(sizes) if axis is not None else None, len(nodes)
        if place is None or not sizes:
            return self.add(make(place), nodes, tag, (place, same), rule)
        at: BatchAxis = place

        def told(*values: Any) -> list[Any]:
            return make(at.with_sizes(values[count:]))(*values[:count])

        return self.add(told, [*nodes, *sizes], tag, (place, same), rule)

    def traced(
        self,
        function: Callable[..., list[Any]],
        values: Sequence[Any],
        what: Callable[[], str],
        error_type: type[TransposeError] = TransposeError,
    ) -> fx.GraphModule:
        """A function as a flat graph; raises ``error_type`` with ``what`` it is where torch cannot trace it."""
        try:
            module = trace(function, values, self.mode)
        except LrpError:
            raise
        except Exception as error:
            raise_if_out_of_memory(error)
            if is_own_fault(error):
                raise
            raise error_type(f"{what()} could not be transposed: {type(error).__name__}: {error}") from error
        simplify_part(module.graph)
        return FlatModule(module, copied(module.graph))

    def copy_forward(self, structure: Structure, arguments: Callable[[], None]) -> None:
        """The program's own operations; ``arguments`` adds those of the target behind the inputs."""
        sums = {node for stream in structure.streams for node in stream.sums}
        last = None
        for node in self.program.graph.nodes:
            if node.op == "output":
                continue
            if node.op != "placeholder" and last is not None and last.op == "placeholder":
                arguments()
            last = node
            self.env[node] = self._copy(node)
            if node in sums:
                self.env[node].meta["residual"] = True
        if last is not None and last.op == "placeholder":  # a model that returns an input
            arguments()
        batched = self.program.batch_input
        if batched is not None:
            self.batch = self.graph.call_function(aten.sym_size.int, (self.env[batched[1]], 0))
            self.batch.meta["val"] = value_of(batched[1]).shape[0]

    def _copy(self, node: fx.Node) -> fx.Node:
        """The operation itself; a composite kernel as the kernels it calls, so that its transpose can share their
        results.
        """
        if not has(node, Fact.SHARES_STATISTICS):
            return copy_node(self.graph, node, lambda n: self.env[n])
        module, operands = decomposed(node, self.mode, self.traces)
        (result,) = inline(self.graph, module, [self.env[a] for a in operands])
        result.meta = {**node.meta, "val": value_of(node)}
        copied: fx.Node = result
        return copied

    def sum(self, parts: list[fx.Node]) -> fx.Node:
        """Coefficients of one value, added."""
        total = parts[0]
        for part in parts[1:]:
            value = self._results.of(aten.add.Tensor, (total, part), {})
            total = self.graph.call_function(aten.add.Tensor, (total, part))
            total.meta["val"] = value
            total.meta["lrp"] = ("sum", "coefficient", 0)
        return total

    def constant(self, value: Tensor) -> fx.Node:
        """A tensor that a target closed over: an attribute of the graph's root, read where it is needed."""
        name = f"target_constant_{len(self.constants)}"
        self.constants[name] = value.detach()
        node = self.graph.create_node("get_attr", name)
        with self.mode:
            node.meta["val"] = self.mode.from_tensor(self.constants[name], static_shapes=True)
        return node

    @property
    def root(self) -> nn.Module:
        """The module whose attributes the graph reads."""
        return Root(self.program.module, self.constants) if self.constants else self.program.module

    def result(self, node: fx.Node, index: int | None) -> fx.Node:
        """The copy of one result of an operation."""
        return self.env[node] if index is None else self.env[part_of(node, index)]


class Root(nn.Module):
    """A module with further tensors, which it does not have itself: others share it."""

    def __init__(self, base: nn.Module, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "tensors", tensors)

    def __getattr__(self, name: str) -> Any:
        tensors: dict[str, Tensor] = object.__getattribute__(self, "tensors")
        return tensors[name] if name in tensors else getattr(object.__getattribute__(self, "base"), name)


def part_of(node: fx.Node, index: int) -> fx.Node:
    """The node that takes one of several results."""
    part = next((u for u in node.users if op_name(u) == "getitem" and u.args[1] == index), None)
    if part is None:
        raise LrpError(f"result {index} of %{node.name} is not in the graph")
    return part
