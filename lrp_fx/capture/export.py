"""Export: `torch.export` of a module, and the exported program as a `Program`.

requires  a module in eval mode and keyword inputs it runs on
ensures   one flat functional graph; parameters under their own names, each input with its role
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from lrp_fx.capture.arguments import Flattened, traceable_name
from lrp_fx.capture.blocks import Blocks, NotStampable, stamp, stamping
from lrp_fx.capture.constant_masks import fix_constant_masks, size_is_by_value
from lrp_fx.capture.detached import drop_idle, open_regions, with_gradients
from lrp_fx.capture.functional import NeedsRetracing, check_flat, check_no_autocast, write_functionally
from lrp_fx.capture.outputs import explained_name, key_name, named_leaves
from lrp_fx.capture.record import Recorded
from lrp_fx.capture.renormed import scale_tables
from lrp_fx.capture.same_attributes import attributes_kept
from lrp_fx.capture.unfollowed import unfollowed_write
from lrp_fx.errors import CaptureError
from lrp_fx.ir.graph import copy_node, output_node
from lrp_fx.ir.leftovers import environment_let_go, forget_inputs, forget_source, without_code
from lrp_fx.ir.operators import operation_name
from lrp_fx.ir.passes import report_fault
from lrp_fx.ir.program import CACHED_ROLE, CONTENT_ROLE, FlatModule, Input, Outputs, Program
from lrp_fx.ir.spared import without_notes
from lrp_fx.ir.undo import surely


@dataclass(frozen=True)
class _Wanted:
    """What is exported: the inputs and their roles, by which method, and what the wrapper of the model puts in front of
    names.
    """

    example: dict[str, Any]
    roles: dict[str, str]
    method: str
    prefix: str


def export(
    model: nn.Module, example: dict[str, Any], roles: dict[str, str], method: str, *, blocks_once: bool = True
) -> Program:
    """The model as a program; ``dynamic``: with symbolic batch and sequence sizes. ``blocks_once``: of blocks that are
    alike one is traced.
    """
    if isinstance(model, (Flattened, Recorded)):  # which hold the plain values themselves
        example = {n: v for n, v in example.items() if isinstance(v, torch.Tensor)}
    # tensors of its own: export marks the axes of those that it is given, and leaves the marks behind when it fails
    values = {traceable_name(n): v.detach() if isinstance(v, torch.Tensor) else v for n, v in example.items()}
    shapes = _by_parameter(
        model,
        {
            traceable_name(n): _dynamic_axes(v, roles[n]) if isinstance(v, torch.Tensor) else None
            for n, v in example.items()
        },
    )
    wanted = _Wanted(example, roles, method, _prefix(model))

    def run() -> torch.export.ExportedProgram:
        exported = with_gradients(lambda: _exported(model, values, shapes if method == "dynamic" else None))
        open_regions(exported.graph_module)
        return exported

    with torch.no_grad(), _quietly():
        found = _stamped(model, run, wanted) if blocks_once else None
        if isinstance(found, Program):
            return found
        exported = found or run()
        if isinstance(model, Recorded):
            # guards on the inputs of one call say nothing; after a failed export torch cannot even name them
            exported._guards_code = []
        program = _masks_fixed(exported, wanted) or _retraced_if_needed(exported, wanted)
    if isinstance(model, Recorded):
        read = {traceable_name(n) for n, role in roles.items() if role in (CONTENT_ROLE, CACHED_ROLE)}
        left = tuple(line for line, names in model.outside.items() if read & {traceable_name(n) for n in names})
        program = replace(program, unfollowed=model.unfollowed or program.unfollowed, outside=left)
    return program


def _retraced_if_needed(exported: torch.export.ExportedProgram, wanted: _Wanted) -> Program:
    """The program, functional."""
    unfollowed = unfollowed_write(exported.graph)  # before the graph is run again: its writes go then
    try:
        return _functional(exported, wanted)
    except NeedsRetracing:
        return replace(_to_program(exported.run_decompositions({}), wanted), unfollowed=unfollowed)


def _check_open(graph: fx.Graph) -> None:
    """Raise where functions that the model maps (`torch.func.vmap`) are in the graph with their marks, not opened."""
    for node in graph.nodes:
        if getattr(node.target, "__module__", "").startswith("torch._functorch"):
            raise CaptureError(f"the forward maps a function over an axis (torch.func): %{node.name}")


def _exported(model: nn.Module, values: dict[str, Any], shapes: dict[str, Any] | None) -> torch.export.ExportedProgram:
    """What `torch.export` makes of the model; of what it keeps beside, nothing outlives the program.

    ``shapes``: which axes may change; None where none may.
    """
    quick = _uncached() if shapes is not None else contextlib.nullcontext()
    with environment_let_go(), without_code(), without_notes(), quick, attributes_kept(model):
        exported = torch.export.export(model, (), values, strict=False, dynamic_shapes=shapes)
    forget_source(exported.graph_module)
    scale_tables(exported.graph)
    for value in (n.meta.get("val") for n in exported.graph.nodes):
        if (mode := getattr(value, "fake_mode", None)) is not None:
            forget_inputs(mode)
            break
    return exported


def _uncached() -> contextlib.AbstractContextManager[Any]:
    """As `lrp_fx.ir.tracing.without_cache`."""
    from torch._dynamo import config  # slow to import: with the first capture

    return config.patch(fake_tensor_cache_enabled=False)  # type: ignore[no-any-return]


def _masks_fixed(exported: torch.export.ExportedProgram, wanted: _Wanted) -> Program | None:
    """The program exported once more where constant masks decided about sizes; None where none did."""
    if not any(size_is_by_value(n) for n in exported.graph.nodes):
        return None
    program = _to_program(exported, wanted)
    fixed = fix_constant_masks(program)
    if fixed is None:
        return None
    module, read = fixed
    names, nodes = [i.name for i in program.inputs], program.input_nodes()
    axes = {traceable_name(n): _symbolic_axes(nodes[n].meta["val"]) for n in names}
    spec = exported.call_spec.out_spec
    assert spec is not None
    again = Recorded(module, names, spec).take_by_name()
    values = {traceable_name(n): wanted.example[n].detach() for n in names}
    shapes = _by_parameter(again, axes) if any(axes.values()) else None
    retraced = _exported(again, values, shapes)
    wanted = replace(wanted, example={n: wanted.example[n] for n in names}, prefix=_prefix(again))
    return replace(_retraced_if_needed(retraced, wanted), read=read)


def _stamped(
    model: nn.Module, run: Callable[[], torch.export.ExportedProgram], wanted: _Wanted
) -> Program | torch.export.ExportedProgram | None:
    """The program with repeated blocks traced once; None where the model has none, or that cannot be. What was exported
    where it has some, and calls none: there is no mark in it.
    """
    try:
        with stamping(model) as blocks:
            if not blocks.groups:
                return None
            exported = run()
        if not blocks.calls:
            return exported
        return _functional(exported, wanted, blocks) if blocks.stamped else None
    except (NotStampable, NeedsRetracing):
        return None
    except Exception as error:  # then it is exported block by block, and says why it cannot be, if so
        report_fault(error, "capture (blocks)")
        return None


def _functional(exported: torch.export.ExportedProgram, wanted: _Wanted, blocks: Blocks | None = None) -> Program:
    """The program without a second trace. Raises `NeedsRetracing` where it takes one."""
    check_flat(exported.graph)
    check_no_autocast(wanted.example)
    program = _to_program(exported, wanted, blocks)
    program = replace(program, unfollowed=unfollowed_write(program.graph))
    write_functionally(program.graph)
    program.module.recompile()
    return program


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Torch prints the whole graph when an export fails; that another method is tried next is no news to the user."""
    before = logging.root.manager.disable
    try:
        logging.disable(logging.ERROR)
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        surely(lambda: logging.disable(before))


def _by_parameter(model: nn.Module, shapes: dict[str, Any]) -> dict[str, Any]:
    """What ``**kwargs`` takes stands under its name, as export wants it."""
    parameters = inspect.signature(model.forward).parameters
    rest = next((n for n, p in parameters.items() if p.kind is p.VAR_KEYWORD), None)
    named = {n: s for n, s in shapes.items() if n in parameters and n != rest}
    return (
        named
        if len(named) == len(shapes) or rest is None
        else {**named, rest: {n: s for n, s in shapes.items() if n not in named}}
    )


def _prefix(model: nn.Module) -> str:
    """What the names of the user's own modules begin with inside a wrapper of ours."""
    return "model." if isinstance(model, Flattened) else "recorded." if isinstance(model, Recorded) else ""


def _dynamic_axes(value: torch.Tensor, role: str) -> dict[int, Any]:
    """Axes that may change: all of them, but for images and videos the batch alone (their size is tied to tables)."""
    any_size = value.dim() < 4 or not value.is_floating_point() or role == CACHED_ROLE
    axes = range(value.dim()) if any_size else range(1)
    return dict.fromkeys(axes, torch.export.Dim.AUTO)


def _symbolic_axes(value: torch.Tensor) -> dict[int, Any] | None:
    """Axes that may change, says an export."""
    return {a: torch.export.Dim.AUTO for a, size in enumerate(value.shape) if not isinstance(size, int)} or None


def _to_program(exported: torch.export.ExportedProgram, wanted: _Wanted, blocks: Blocks | None = None) -> Program:
    roles, prefix = wanted.roles, wanted.prefix
    graph = fx.Graph()
    holder = nn.Module()
    env: dict[fx.Node, fx.Node] = {}
    specs = {s.arg.name: s for s in exported.graph_signature.input_specs if hasattr(s.arg, "name")}
    state: dict[str, torch.Tensor] = {**dict(exported.state_dict), **dict(exported.constants)}
    user = iter([key_name(path[0]) for path, _ in pytree.tree_flatten_with_path(wanted.example)[0]])
    inputs: list[Input] = []
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            env[node] = _placeholder(node, specs[node.name], state, graph, holder, inputs, user, roles, prefix)
        elif node.op == "output":
            given = zip(exported.graph_signature.output_specs, node.args[0], strict=True)
            kept = tuple(value for spec, value in given if spec.kind == OutputKind.USER_OUTPUT)
            graph.output(fx.map_arg(kept, lambda n: env[n]))
        elif (inner := _tensor_inside(node, env, graph, holder)) is not None:
            env[node] = inner
        else:
            env[node] = copy_node(graph, node, lambda n: env[n])
    if blocks is not None:
        given_by = {specs[n.name].target: env[n] for n in env if n.op == "placeholder"}
        stamp(graph, blocks, {name: node for name, node in given_by.items() if name})
    drop_idle(graph)
    for node in graph.nodes:
        _place_in_model(node, prefix)
        if (mode := getattr(node.meta.get("val"), "fake_mode", None)) is not None:
            mode.cache_enabled = True  # later passes ask for the same results again
    module = FlatModule(holder, graph)
    module.graph.eliminate_dead_code()
    for placeholder in [n for n in module.graph.nodes if n.op == "placeholder" and n.meta.get("constant_input")]:
        module.graph.erase_node(placeholder)
    _check_open(module.graph)
    module.recompile()
    return Program(module, tuple(inputs), _outputs(exported, module.graph), wanted.method, stamped=blocks is not None)


def _tensor_inside(node: fx.Node, env: dict[fx.Node, fx.Node], graph: fx.Graph, holder: nn.Module) -> fx.Node | None:
    """One of the plain tensors that a weight is made of (its integers, their scale), where a node takes it out."""
    if operation_name(node.target) != "export.access_subclass_inner_tensor":
        return None
    weight, name = env[node.args[0]], str(node.args[1])  # type: ignore[index]
    attribute = f"{weight.target}_{name}"
    if not hasattr(holder, attribute):
        holder.register_buffer(attribute, getattr(getattr(holder, str(weight.target)), name))
    new = graph.get_attr(attribute)
    new.meta = {**node.meta, "origin": "parameter"}
    return new


def _place_in_model(node: fx.Node, prefix: str) -> None:
    """Module paths as the user knows them, without the wrapper's."""
    stack = node.meta.get("nn_module_stack")
    if prefix and stack:
        own = {k: v for k, v in stack.items() if isinstance(v, tuple) and v[0]}
        node.meta["nn_module_stack"] = {
            k: (str(path).removeprefix(prefix) if str(path) != prefix[:-1] else "", *rest)
            for k, (path, *rest) in own.items()
        }


def _placeholder(
    node: fx.Node,
    spec: Any,
    state: dict[str, Any],
    graph: fx.Graph,
    holder: nn.Module,
    inputs: list[Input],
    user: Iterator[str],
    roles: dict[str, str],
    prefix: str,
) -> fx.Node:
    if spec.kind == InputKind.USER_INPUT:
        name = next(user)
        new = graph.placeholder(node.name)
        new.meta.update(node.meta)
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):  # a plain Python argument: export has baked it in
            new.meta["constant_input"] = True
            return new
        dynamic = tuple(not isinstance(s, int) for s in value.shape)
        shape = tuple(int(s) if isinstance(s, int) else int(s.node.hint) for s in value.shape)
        inputs.append(Input(name, roles[name], value.dtype, shape, dynamic))
        return new
    attribute = "_".join(spec.target.removeprefix(prefix).split("."))
    if not hasattr(holder, attribute):
        tensor = state[spec.target]
        if isinstance(tensor, nn.Parameter):
            holder.register_parameter(attribute, tensor)
        else:
            holder.register_buffer(attribute, tensor)
    new = graph.get_attr(attribute)
    new.meta.update(node.meta)
    new.meta["origin"] = "parameter" if spec.kind == InputKind.PARAMETER else "constant"
    return new


def _outputs(exported: torch.export.ExportedProgram, graph: fx.Graph) -> Outputs:
    spec = exported.call_spec.out_spec
    flat = output_node(graph).args[0]
    assert isinstance(flat, (tuple, list)) and spec is not None
    names = [name for name, _ in named_leaves(pytree.tree_unflatten(list(range(len(flat))), spec))]
    values = [n.meta.get("val") if isinstance(n, fx.Node) else None for n in flat]
    explained = explained_name(dict(zip(names, values, strict=True)))
    if explained is None:
        raise CaptureError("the model returns no floating-point tensor, so there is nothing to explain")
    return Outputs(tuple(names), spec, names.index(explained))
