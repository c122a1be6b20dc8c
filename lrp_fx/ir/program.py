"""Program: one flat graph of ATen operations with its inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from lrp_fx.errors import LrpError
from lrp_fx.ir.code import function_of
from lrp_fx.ir.graph import copy_node, output_node, value_of
from lrp_fx.ir.leftovers import with_source
from lrp_fx.ir.listing import source
from lrp_fx.ir.read import Read

CONTENT_ROLE, MASK_ROLE, CACHED_ROLE = "content", "mask", "cached"
ROLES = (CONTENT_ROLE, "position", "segment", MASK_ROLE, CACHED_ROLE)
#: How a model is captured: for any size, for the sizes of a call, for one very call.
DYNAMIC, STATIC, CONCRETE = "dynamic", "static", "concrete"
METHODS = (DYNAMIC, STATIC, CONCRETE)


@dataclass(frozen=True)
class Input:
    """A tensor argument of the model's forward and what it means.

    ``role`` is one of `ROLES`; ``dynamic`` has one flag per axis: may its size differ from the traced one?
    """

    name: str
    role: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    dynamic: tuple[bool, ...]

    @property
    def is_index(self) -> bool:
        """Integer input: relevance is credited to its positions through the table rows it selects."""
        return not self.dtype.is_floating_point and not self.dtype.is_complex

    def admits(self, shape: Sequence[int]) -> bool:
        """Is a program with this input right for a tensor of that shape?"""
        return len(shape) == len(self.shape) and all(
            d or s == t for d, s, t in zip(self.dynamic, shape, self.shape, strict=True)
        )


@dataclass(frozen=True)
class Outputs:
    """How the flat outputs of the graph make up what the model returned."""

    names: tuple[str, ...]
    spec: pytree.TreeSpec | None
    explained: int

    def rebuild(self, flat: tuple[Any, ...]) -> Any:
        """The model's own output structure from the graph's flat outputs."""
        return flat[0] if self.spec is None else pytree.tree_unflatten(list(flat), self.spec)


@dataclass(frozen=True)
class Program:
    """A captured model: a flat `torch.fx.GraphModule` over ATen, parameters as attributes.

    ``method``: how it was captured; ``refusals``: why the methods that would hold for more inputs did not;
    ``captured``: the graph before any pass, to be compared with the model to the model's own precision; ``stamped``:
    were blocks that are alike traced once? ``unfollowed``: a write of which autograd knows nothing
    (`lrp_fx.capture.unfollowed`); ``outside``: where values left torch (`lrp_fx.capture.outside`); ``backwards``: what
    has a derivative of its own in the model's code (`lrp_fx.capture.backwards`); ``read``: tensors of the model that
    constants of the program were made of: matrices, indices, copies of another type.
    """

    module: fx.GraphModule
    inputs: tuple[Input, ...]
    outputs: Outputs
    method: str
    refusals: tuple[str, ...] = ()
    captured: fx.GraphModule | None = None
    stamped: bool = False
    unfollowed: str = ""
    outside: tuple[str, ...] = ()
    backwards: tuple[str, ...] = ()
    read: tuple[Read, ...] = ()

    @property
    def graph(self) -> fx.Graph:
        return self.module.graph

    @property
    def explained_node(self) -> fx.Node:
        """The node whose value the targets read."""
        flat = output_node(self.graph).args[0]
        node = flat[self.outputs.explained]  # type: ignore[index]
        assert isinstance(node, fx.Node)
        return node

    @property
    def batch_input(self) -> tuple[Input, fx.Node] | None:
        """The content input whose first axis is the batch: that of the explained output, if one has it.

        (Packed patches of images are content too, but their first axis counts patches.)
        """
        content = [
            (i, n)
            for i, n in zip(self.inputs, self.input_nodes().values(), strict=True)
            if i.role == "content" and i.shape
        ]
        explained = value_of(self.explained_node)
        rows = str(explained.shape[0]) if isinstance(explained, torch.Tensor) and explained.dim() else ""
        return next((c for c in content if str(value_of(c[1]).shape[0]) == rows), content[0] if content else None)

    def input_nodes(self) -> dict[str, fx.Node]:
        """Placeholder of each input, by argument name."""
        nodes = [n for n in self.graph.nodes if n.op == "placeholder"]
        return {i.name: n for i, n in zip(self.inputs, nodes, strict=True)}

    def print_readable(self, blocks: str = "all") -> str:
        """The program as Python source; ``blocks="once"`` prints the first of each run of equal blocks, and how often
        it comes.

        Raises `InputError` for other ``blocks``.
        """
        return source(self.module, blocks)


def size(program: Program) -> int:
    """Number of nodes."""
    return len(program.graph.nodes)


class FlatModule(fx.GraphModule):
    """A graph whose Python code is written when it is first run or read: most programs between two passes never are.

    ``edition``: another after every change that was made known by `recompile`.
    """

    edition: object = None

    def recompile(self) -> Any:
        """Forget the code of the graph as it was."""
        self.__dict__.pop("_code", None)
        self.__dict__["edition"] = object()
        if "forward" in vars(type(self)):
            del type(self).forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Writes the code, which takes the place of this."""
        try:
            type(self).forward = function_of(self.graph)  # type: ignore[method-assign]
        except NotImplementedError:
            super().recompile()
            with_source(self)
        return self.forward(*args, **kwargs)

    @property
    def code(self) -> str:
        """The graph as Python code."""
        if "_code" not in self.__dict__:
            super().recompile()
            with_source(self)
        return super().code

    def __reduce__(self) -> Any:
        return with_source(fx.GraphModule(self, self.graph, type(self).__name__)).__reduce__()


def copy(program: Program) -> Program:
    """The same program with nodes of its own."""
    return replace(program, module=copy_graph(program)[0])


def copy_graph(program: Program) -> tuple[fx.GraphModule, dict[fx.Node, fx.Node]]:
    """A copy that shares parameters but no node, with the map from old nodes to new ones."""
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        env[node] = copy_node(graph, node, lambda n: env[n])
    return FlatModule(program.module, graph), env


def check_well_formed(program: Program) -> None:
    """Every name is defined before use, every value has its abstract value, every argument has a role."""
    program.graph.lint()
    for node in program.graph.nodes:
        if node.op in ("call_module", "call_method"):
            raise LrpError(f"%{node.name}: a program holds function calls only, found {node.op}")
        returns = getattr(getattr(node.target, "_schema", None), "returns", True)
        if node.op == "call_function" and returns and "val" not in node.meta:
            raise LrpError(f"%{node.name} has no recorded value")
    placeholders = sum(n.op == "placeholder" for n in program.graph.nodes)
    if placeholders != len(program.inputs):
        raise LrpError(f"{placeholders} placeholders for {len(program.inputs)} inputs")
