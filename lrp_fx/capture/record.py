"""The concrete trace: a model that decides by the values of its inputs, recorded on one call.

The last of the ways to capture. What the model's Python decided, and every result whose size depends on values (the
tokens an expert gets, the patches of an image), is fixed to what this call gave; the graph is right for this call only
and is traced again for the next.

requires  a model in eval mode and the inputs of one call
ensures   a module of straight-line operations that exports with static shapes and computes what the model computes on
          exactly these inputs
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from lrp_fx.capture.arguments import traceable_name
from lrp_fx.capture.detached import close_regions, with_gradients
from lrp_fx.capture.draws import Draws, fix_draws
from lrp_fx.capture.flex import flex_written_out
from lrp_fx.capture.outside import MarksOutside, taken_outside
from lrp_fx.capture.unfollowed import unfollowed_write
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.operators import has
from lrp_fx.ir.undo import surely

aten = torch.ops.aten
_ENTER, _EXIT = torch.amp.autocast_mode._enter_autocast, torch.amp.autocast_mode._exit_autocast
#: Composite operations whose result's size depends on values (the tags mark only what they are made of).
_SIZED_BY_VALUES = frozenset(
    {
        "aten.where.default",
        "aten.nonzero_numpy.default",
        "aten.argwhere.default",
        "aten.repeat_interleave.self_Tensor",
        "aten.repeat_interleave.Tensor",
    }
)
#: Views cut where a tensor says, as the same views cut where numbers say; and the place of that argument.
_CUT_BY_VALUES: dict[str, tuple[Any, int]] = {
    "aten.narrow.Tensor": (aten.narrow.default, 2),
    "aten.tensor_split.tensor_indices_or_sections": (aten.tensor_split.indices, 1),
}


class Recorded(nn.Module):
    """The operations of one call as a module; it is run node by node, so that each keeps its place in the user's
    source. ``unfollowed``: `lrp_fx.capture.unfollowed` of the call; ``outside``: `lrp_fx.capture.outside`.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        names: Sequence[str],
        spec: pytree.TreeSpec,
        unfollowed: str = "",
        outside: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        super().__init__()
        self.recorded, self.names, self.spec = graph_module, tuple(map(traceable_name, names)), spec
        self.unfollowed, self.outside = unfollowed, dict(outside or {})
        self.eval()

    def take_by_name(self) -> Recorded:
        """Let the signature say the inputs one by one: export of symbolic sizes asks it."""

        def forward(**inputs: Any) -> Any:
            return Recorded.forward(self, **inputs)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        forward.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in self.names])  # type: ignore[attr-defined]
        self.forward = forward  # type: ignore[method-assign]
        return self

    def forward(self, **inputs: Any) -> Any:
        with fx_traceback.preserve_node_meta():
            flat = fx.Interpreter(self.recorded).run(*[inputs[n] for n in self.names])
        return pytree.tree_unflatten(list(flat), self.spec)


def record(model: nn.Module, inputs: Mapping[str, Any]) -> Recorded:
    """Run ``model(**inputs)`` once and keep every operation, data-dependent decisions taken."""
    tensors = [v.clone() for v in inputs.values() if isinstance(v, Tensor)]
    with Draws() as draws:
        module, names, spec = _made(model, inputs, tensors, tracing_mode="real", pre_dispatch=True)
    close_regions(module.graph)
    outside, unfollowed = taken_outside(module.graph, names), unfollowed_write(module.graph)
    _drop_modes(module.graph)
    fix_draws(module, draws.drawn)
    _Fixer(module, tensors).run()
    _remember_parameters(module, model)
    return Recorded(module, names, spec, unfollowed, outside)


def open_transforms(model: nn.Module, inputs: Mapping[str, Any], *, symbolic: bool) -> Recorded:
    """The operations that ``model(**inputs)`` comes to where its forward maps functions or takes their gradients
    (`torch.func`), which an export does not see through. ``symbolic``: for any sizes.

    Raises what torch raises where values decide.
    """
    tensors = [v.clone() for v in inputs.values() if isinstance(v, Tensor)]
    mode = "symbolic" if symbolic else "fake"
    with torch.backends.mkldnn.flags(enabled=False):  # whose recurrent layers are one operation, not maps and gates
        module, names, spec = _made(model, inputs, tensors, tracing_mode=mode, pre_dispatch=False)
    _remember_parameters(module, model)
    recorded = Recorded(module, names, spec)
    return recorded.take_by_name() if symbolic else recorded


def _made(
    model: nn.Module, inputs: Mapping[str, Any], tensors: Sequence[Tensor], **how: Any
) -> tuple[fx.GraphModule, list[str], pytree.TreeSpec]:
    """The flat operations of a call, the names of its tensors, and how its results are put together."""
    names = [n for n, v in inputs.items() if isinstance(v, Tensor)]
    spec: list[pytree.TreeSpec] = []

    def call(*values: Tensor) -> list[Any]:
        with MarksOutside() if how["pre_dispatch"] else contextlib.nullcontext() as outside:
            flat, found = pytree.tree_flatten(model(**{**inputs, **dict(zip(names, values, strict=True))}))
        if outside is not None:
            outside.settle()
        spec.append(found)
        return flat

    def trace() -> fx.GraphModule:
        options: dict[str, Any] = {
            "_allow_non_fake_inputs": True,
            "_error_on_data_dependent_ops": False,
            "record_stack_traces": True,
        }
        module: fx.GraphModule = make_fx(call, **how, **options)(*[t.clone() for t in tensors])
        return module

    with torch.no_grad(), flex_written_out(), _as_in_export(), _sources(model):
        module = with_gradients(trace) if how["pre_dispatch"] else trace()
    return module, names, spec[-1]


@contextlib.contextmanager
def _as_in_export() -> Iterator[None]:
    """Models and libraries that ask whether they are exported are told so: they then take kernels that can be
    traced.
    """
    before = torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag
    try:
        torch.compiler._is_compiling_flag = torch.compiler._is_exporting_flag = True
        yield
    finally:
        torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag = before


def _drop_modes(graph: fx.Graph) -> None:
    """Regions without autocast say nothing where none is on."""
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return
    for node in reversed(list(graph.nodes)):
        enters = node.target is _ENTER
        if enters and (len(node.args) < 3 or node.args[2] is not False):
            return  # the model itself turns autocast on: leave every region as it is
        if enters or node.target is _EXIT:
            graph.erase_node(node)


@contextlib.contextmanager
def _sources(model: nn.Module) -> Iterator[None]:
    """While tracing, every operation is marked with the module that issued it (as export does)."""
    names = {id(m): n for n, m in model.named_modules()}
    stack: list[dict[str, Any]] = [{}]

    def mark(meta: dict[str, Any]) -> None:
        fx_traceback.current_meta["nn_module_stack"] = meta  # changed in place: others keep notes of their own there

    def enter(module: nn.Module, _: Any) -> None:
        name = names.get(id(module))
        above = stack[-1]
        stack.append({**above, f"L_{len(stack)}": (name, type(module).__qualname__)} if name is not None else above)
        mark(stack[-1])

    def leave(module: nn.Module, _: Any, __: Any) -> None:
        stack.pop()
        mark(stack[-1])

    hooks: list[Any] = []

    def restore() -> None:
        for hook in hooks:
            hook.remove()

    try:
        hooks.append(nn.modules.module.register_module_forward_pre_hook(enter))
        hooks.append(nn.modules.module.register_module_forward_hook(leave, always_call=True))
        with fx_traceback.preserve_node_meta():
            yield
    finally:
        surely(restore)


class _Fixer(fx.Interpreter):
    """Run the record once and fix every result whose size depends on values: integers as constants, masks as
    indices.
    """

    def __init__(self, module: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
        super().__init__(module)
        self.recorded = module
        self.inputs, self.count = inputs, itertools.count()

    def run(self) -> None:  # type: ignore[override]
        with torch.no_grad():
            super().run(*[t.clone() for t in self.inputs])
        graph = self.recorded.graph
        for node in reversed(list(graph.nodes)):
            pure = isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.is_mutable
            if node.op == "call_function" and not node.users and (pure or node.target is operator.getitem):
                graph.erase_node(node)
        self.recorded.recompile()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        target = n.target
        if n.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
            return result
        if (
            torch.Tag.dynamic_output_shape in target.tags
            or torch.Tag.data_dependent_output in target.tags
            or str(target) in _SIZED_BY_VALUES
        ):
            self._fix(n, result)
        if has(n, Fact.MASKABLE):
            self._fix_masks(n)
        if str(target) in _CUT_BY_VALUES:
            self._fix_cuts(n, *_CUT_BY_VALUES[str(target)])
        return result

    def _fix(self, node: fx.Node, result: Any) -> None:
        """Integers and truth values become constants; floats picked by a mask are picked by its indices."""
        if str(node.target) == "aten.masked_select.default":
            x, mask = node.args
            shape = torch.broadcast_shapes(self.env[x].shape, self.env[mask].shape)  # type: ignore[index, no-untyped-call]
            indices = self.env[mask].expand(shape).nonzero(as_tuple=True)  # type: ignore[index]
            with node.graph.inserting_before(node):
                whole = _like(node, node.graph.call_function(aten.expand.default, (x, list(shape))))
                constants = [self._constant(node, i) for i in indices]
                picked = _like(node, node.graph.call_function(aten.index.Tensor, (whole, constants)))
            node.replace_all_uses_with(picked)
            self.env[picked] = result
        elif isinstance(result, Tensor) and not result.is_floating_point() and not result.is_complex():
            with node.graph.inserting_before(node):
                constant = self._constant(node, result)
            node.replace_all_uses_with(constant)
        elif isinstance(result, (tuple, list)) and all(
            isinstance(r, Tensor) and not r.is_floating_point() for r in result
        ):
            for user in [u for u in node.users if u.target is operator.getitem]:
                with node.graph.inserting_before(user):
                    user.replace_all_uses_with(self._constant(user, result[user.args[1]]))  # type: ignore[index]

    def _fix_masks(self, node: fx.Node) -> None:
        """``x[mask]`` as ``x[indices of mask]``."""
        indices = node.args[1]
        assert isinstance(indices, (list, tuple))
        fixed: list[Any] = []
        with node.graph.inserting_before(node):
            for index in indices:
                value = self.env.get(index) if isinstance(index, fx.Node) else None
                masks = isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8)
                fixed += (
                    [self._constant(node, i) for i in value.nonzero(as_tuple=True)]
                    if masks and isinstance(value, Tensor)
                    else [index]
                )
        node.args = (node.args[0], fixed, *node.args[2:])

    def _fix_cuts(self, node: fx.Node, target: Any, place: int) -> None:
        """``x.narrow(axis, start, length)`` whose start is a tensor, with the number it holds."""
        tensor = node.args[place]
        assert isinstance(tensor, fx.Node)
        where = self.env[tensor].tolist()
        if target is aten.tensor_split.indices and not isinstance(where, list):
            target = aten.tensor_split.sections
        node.target, node.args = target, (*node.args[:place], where, *node.args[place + 1 :])

    def _constant(self, like: fx.Node, value: Tensor) -> fx.Node:
        name = f"fixed_{next(self.count)}"
        self.recorded.register_buffer(name, value.detach().clone())
        constant = _like(like, like.graph.get_attr(name))
        self.env[constant] = value
        return constant


def _like(node: fx.Node, new: fx.Node) -> fx.Node:
    """The new node stands where the old one stood in the user's source."""
    new.meta = {k: v for k, v in node.meta.items() if k in ("nn_module_stack", "stack_trace")}
    return new


def _remember_parameters(module: fx.GraphModule, model: nn.Module) -> None:
    """Parameters and buffers under their own names (the tracer numbers them)."""
    own = {
        id(t): n
        for n, t in itertools.chain(
            model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
        )
    }
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        value = getattr(module, str(node.target), None)
        name = own.get(id(value))
        if name is None or value is None:
            continue
        attribute = name.replace(".", "_")
        if not hasattr(module, attribute):
            if isinstance(value, nn.Parameter):
                module.register_parameter(attribute, value)
            else:
                module.register_buffer(attribute, value)
        node.target = attribute
    for key in [
        k
        for k in (*module._parameters, *module._buffers)
        if not any(n.target == k for n in module.graph.nodes if n.op == "get_attr")
    ]:
        delattr(module, key)
    module.recompile()
