"""Asked: a function of the output as it is at one call: a graph, and the tensors that it read.

requires  a function, and the shape of the output that it is for
ensures   the tensors that the function closes over (by variables, globals, attributes, modules) are inputs of the
          graph, with their values of this call; what it decides by them in Python is decided anew in every call
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from lrp_fx.errors import TargetError
from lrp_fx.ir.code import run_once
from lrp_fx.ir.devices import callers_device
from lrp_fx.ir.sizes import END
from lrp_fx.ir.tracing import trace
from lrp_fx.targets.derivative import derived
from lrp_fx.targets.stand_ins import Met, Size, actual, follows, is_abstract, meeting, told


class Asked:
    """``key``: equal for functions that do the same, whatever the values of the tensors that they read; ``held``: these
    tensors, ``sizes``: theirs, as `lrp_fx.targets.stand_ins` tells them.
    """

    def __init__(self, module: fx.GraphModule, met: Sequence[Tensor], sizes: Sequence[tuple[Size, ...]]) -> None:
        self.module = module
        others = _lifted(module)
        self.held = [*(tensor.detach() for tensor in met), *others]
        self.sizes = (*sizes, *(tuple(tensor.shape) for tensor in others))
        kinds = tuple((str(tensor.dtype), str(tensor.device)) for tensor in self.held)
        self.key = (_key(module.graph), self.sizes, kinds)

    def derived(self, output: Tensor, held: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The score (B,) and the coefficient of an output, with these values of the tensors that were read."""
        with torch.autocast(output.device.type, enabled=False):  # what it casts is part of the graph
            score, coefficient = run_once(self.module.graph, self.module, [output, *held])
        return score, coefficient


def ask(function: Callable[[Tensor], Tensor], shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Asked:
    """The function for an output of this kind; sizes are symbols, so that others give the same graph, where it can be
    traced with these.

    Raises what the function raises, and `TargetError` for one that is no score.
    """
    for symbolic, met in ((True, Met()), (True, Met(made=False)), (True, Met(made=False, real=False))):
        kind = _Kind(shape, dtype, device, symbolic)
        try:
            plain = kind.traced(function, met)
        except Exception:  # it may be what it writes into, or the symbols that it cannot take
            continue
        sizes = [told(tensor, shape) for tensor in met.tensors]
        if not any(map(follows, sizes)):
            return Asked(_of_more(function, kind, met, plain), (), ())
        found = _following(function, _Kind(shape, dtype, device, symbolic), met, sizes)
        return found or Asked(plain, (), ())
    return Asked(_Kind(shape, dtype, device, False).traced(function, Met(made=False)), (), ())


def _of_more(function: Callable[[Tensor], Tensor], kind: _Kind, met: Met, plain: fx.GraphModule) -> fx.GraphModule:
    """The function for any number of examples (and rows), where this output has one of them, which tracing takes for
    granted: traced for two, if that does the same for one; else as it is.
    """
    if 1 not in kind.shape[:-1]:
        return plain
    more = _Kind(kind.shape, kind.output.dtype, kind.output.device, True, least=2)
    try:
        found = more.traced(function, Met(met.made, met.real))
    except Exception:  # it is a function of one example
        return plain
    return found if more.done(found) == kind.done(plain) else plain


def _following(
    function: Callable[[Tensor], Tensor], kind: _Kind, met: Met, sizes: Sequence[tuple[Size, ...]]
) -> Asked | None:
    """The function with inputs for what it reads by example or by token; None where the output's own sizes had to be
    taken for granted then.
    """
    again = Met(met.made, met.real)
    try:
        module = kind.traced(function, again, met.tensors, sizes)
    except Exception:  # it was traced without them
        return None
    same = [told(tensor, kind.shape) for tensor in again.tensors] == list(sizes)
    return Asked(module, again.tensors, sizes) if same and kind.is_open() else None


class _Kind:
    """Outputs of one kind; ``symbolic``: of any number of examples and rows, ``least`` so many while it is traced."""

    def __init__(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, symbolic: bool, least: int = 0
    ) -> None:
        self.shape = tuple(shape)
        self.environment = ShapeEnv(duck_shape=False) if symbolic else None
        self.mode = FakeTensorMode(shape_env=self.environment, allow_non_fake_inputs=True)
        sizes: Sequence[Any] = self.shape
        if symbolic:  # the classes are what they are
            dynamic = [*[DimDynamic.DYNAMIC] * (len(shape) - 1), DimDynamic.STATIC]
            context: Any = StatelessSymbolicContext(dynamic_sizes=dynamic)
            traced = [*(max(size, least) for size in self.shape[:-1]), *self.shape[-1:]]
            sizes = self.mode.from_tensor(torch.empty(()).expand(traced), symbolic_context=context).shape
        with self.mode:
            self.output = torch.empty(*sizes, dtype=dtype, device=device)

    def traced(
        self,
        function: Callable[[Tensor], Tensor],
        met: Met,
        like: Sequence[Tensor] = (),
        sizes: Sequence[tuple[Size, ...]] = (),
    ) -> fx.GraphModule:
        """``(output, what stands for tensors like these) -> (score, coefficient)``; notes what the function reads."""

        def score(leaf: Tensor) -> Tensor:
            with callers_device(), _ForReal(met.made) if met.real else contextlib.nullcontext():
                return meeting(function, met)(leaf)

        def run(output: Tensor, *held: Tensor) -> list[Tensor]:
            met.by = held
            return list(derived(score, output))

        with self.mode:
            held = [
                torch.empty(actual(size, self.output.shape), dtype=tensor.dtype, device=tensor.device)
                for tensor, size in zip(like, sizes, strict=True)
            ]
        module = trace(run, [self.output, *held], self.mode)
        for view in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            for node in module.graph.find_nodes(op="call_function", target=view):
                node.target = torch.ops.aten.reshape.default  # the output of a call may lie in memory otherwise
        return module

    def done(self, module: fx.GraphModule) -> tuple[Any, ...]:
        """What a graph traced with this kind does to an output of this very shape: its key, sizes as numbers; and the
        tensors that it holds.
        """
        sizes: list[tuple[Any, int]] = list(zip(self.output.shape, self.shape, strict=True))
        known = {size.node.expr: number for size, number in sizes if isinstance(size, torch.SymInt)}
        numbers: dict[fx.Node, Any] = {}
        steps: list[Any] = []
        for node in module.graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, torch.SymInt):
                numbers[node] = int(value.node.expr.xreplace(known))
                continue
            if _is_whole(node):
                numbers[node] = numbers[node.all_input_nodes[0]]
                continue
            numbers[node] = f"%{len(steps)}"
            name = "" if node.op in ("placeholder", "output") else str(node.target)
            steps.append((node.op, name, repr(_named(node, numbers))))
        held = [getattr(module, str(node.target)) for node in module.graph.find_nodes(op="get_attr")]
        return tuple(steps), [id(value) for value in held if not isinstance(value, Tensor)], len(held)

    def is_open(self) -> bool:
        """Is nothing taken for granted of the sizes that are symbols?"""
        found: list[Any] = [size for size in self.output.shape if isinstance(size, torch.SymInt)]
        expressions = [size.node.shape_env.replace(size.node.expr) for size in found]
        return all(e.is_symbol for e in expressions) and len(set(expressions)) == len(expressions)


class _ForReal(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What does not depend on the output is computed for real: its values may decide in Python what comes next."""

    def __init__(self, made: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made = made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = pytree.tree_leaves((args, kwargs))
        tensors = [value for value in given if isinstance(value, Tensor)]
        abstract = any(map(is_abstract, given))
        if not abstract and (tensors or self.made):
            with _disable_current_modes():
                return func(*args, **kwargs)
        if abstract and func._schema.is_mutable and not isinstance(tensors[0], FakeTensor):
            raise TargetError(
                f"a target writes what depends on the output into a tensor that does not ({func.__name__})\n"
                "    next: put its results together by torch.stack or torch.where, or write into output.new_zeros(...)"
            )
        return func(*args, **kwargs)


def _lifted(module: fx.GraphModule) -> list[Tensor]:
    """The tensors that a graph holds, which become inputs of it, behind those it has."""
    graph, held = module.graph, dict[str, Tensor]()
    inputs: dict[str, fx.Node] = {}
    last = list(graph.find_nodes(op="placeholder"))[-1]
    for node in graph.find_nodes(op="get_attr"):
        value = getattr(module, str(node.target))
        if not isinstance(value, Tensor):
            continue
        name = str(node.target)
        if name not in held:
            held[name] = value.detach()
            with graph.inserting_after(last):
                inputs[name] = last = graph.placeholder(f"held_{len(inputs)}")
            last.meta["val"] = node.meta.get("val")
        node.replace_all_uses_with(inputs[name])
        graph.erase_node(node)
    for name in held:
        delattr(module, name)
    return list(held.values())


def _key(graph: fx.Graph) -> tuple[Any, ...]:
    """What a graph does, as text: names of values play no part."""
    numbers = {node: f"%{number}" for number, node in enumerate(graph.nodes)}
    return tuple(
        (node.op, "" if node.op in ("placeholder", "output") else _target(node), repr(_named(node, numbers)))
        for node in graph.nodes
    )


def _named(node: fx.Node, numbers: dict[fx.Node, Any]) -> Any:
    return fx.map_arg((node.args, dict(node.kwargs)), lambda read: numbers[read])


def _is_whole(node: fx.Node) -> bool:
    """Is it a slice from the first to the last, or what is handed back through one? For sizes that are numbers there is
    none.
    """
    bounds = {"aten.slice.Tensor": node.args[2:], "aten.slice_backward.default": node.args[3:]}.get(str(node.target))
    return bounds is not None and tuple(bounds) in ((0, END), (0, END, 1))


def _target(node: fx.Node) -> str:
    """A call's operation; of what is no operation of torch, the very object."""
    return str(node.target) if node.op == "call_function" else f"{node.target} {id(node.graph)}"
