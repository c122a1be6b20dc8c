"""Capture: any PyTorch model becomes one flat graph of ATen operations.

requires  a model in eval mode and inputs it runs on
ensures   outputs equal the model's on the traced values and on other values and shapes; the model is as it was
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from lrp_fx.errors import CaptureError
from lrp_fx.program import Input, Outputs, Program, check_well_formed, output_node

#: Smallest traced sizes: an axis of size 1 would be specialised as "always 1" (broadcast).
MIN_BATCH, MIN_LENGTH = 2, 4
#: Agreement demanded between model and capture, in units in the last place of the largest output.
CAPTURE_ULPS = 1024.0


def capture(model: nn.Module, inputs: dict[str, Any], roles: dict[str, str], *, dynamic: bool = True) -> Program:
    """Capture ``model(**inputs)`` with symbolic batch and sequence sizes where the model allows it.

    Falls back to static shapes (good for the shapes given, re-traced for others) and raises `CaptureError` when
    neither way gives a graph that computes what the model computes.
    """
    inputs = in_signature_order(model, without_repeats(inputs))
    refusals: list[str] = []
    for method in ("dynamic", "static") if dynamic else ("static",):
        example = widen(inputs, roles) if method == "dynamic" else inputs
        try:
            with inference_configuration(model), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exported = _export(model, example, dynamic=method == "dynamic")
            program = _to_program(exported, example, roles, method)
            verify_capture(model, program, example, roles)
            check_well_formed(program)
            return program
        except Exception as error:
            refusals.append(f"{method} export: {type(error).__name__}: {_first_line(error)}")
    raise CaptureError(
        f"{type(model).__name__} could not be captured as a graph.\n"
        + "\n".join(f"    {r}" for r in refusals)
        + "\n    next: see docs/how_it_works.md (capture); a forward without data-dependent Python control flow captures"
    )


def in_signature_order(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """The same arguments in the order of ``forward``'s signature (export demands it)."""
    order = list(inspect.signature(model.forward).parameters)
    return dict(sorted(inputs.items(), key=lambda kv: order.index(kv[0]) if kv[0] in order else len(order)))


def without_repeats(inputs: dict[str, Any]) -> dict[str, Any]:
    """A tensor passed for two arguments is cloned: the tracer would take both for one input for ever."""
    seen: set[int] = set()
    result = {}
    for name, value in inputs.items():
        repeated = isinstance(value, torch.Tensor) and value.data_ptr() in seen
        result[name] = value.clone() if repeated else value
        if isinstance(value, torch.Tensor):
            seen.add(value.data_ptr())
    return result


def widen(inputs: dict[str, Any], roles: dict[str, str]) -> dict[str, Any]:
    """Inputs to trace with: at least two rows, a few tokens, and a mask that masks something.

    Rows and tokens are repeated, never invented, so that every value stays in the model's domain.
    """
    tensors = {k: v for k, v in inputs.items() if isinstance(v, torch.Tensor)}
    result = dict(inputs)
    if tensors and all(t.dim() and t.shape[0] == 1 for t in tensors.values()):
        for name in tensors:
            result[name] = result[name].expand(MIN_BATCH, *result[name].shape[1:]).clone()
    for name in tensors:
        value = result[name]
        if not value.is_floating_point() and value.dim() == 2 and value.shape[1] < MIN_LENGTH:
            result[name] = value[:, torch.arange(MIN_LENGTH, device=value.device) % value.shape[1]]
        if roles[name] == "mask" and value.dim() == 2 and not value.is_floating_point() and bool(value.all()):
            result[name] = result[name].clone()
            result[name][0, 0] = 0
    return result


def verify_capture(model: nn.Module, program: Program, example: dict[str, Any], roles: dict[str, str]) -> None:
    """Compare capture and model on the example and on a changed one (other values, and another shape if dynamic)."""
    for trial in (example, _possible_variation(model, program, example, roles)):
        with torch.no_grad(), inference_configuration(model):
            theirs = pytree.tree_leaves(model(**trial))
            ours = program.module(*[trial[i.name] for i in program.inputs])
        for expected, got in zip([t for t in theirs if isinstance(t, torch.Tensor)], [t for t in ours if isinstance(t, torch.Tensor)], strict=False):
            difference = largest_difference(got, expected)
            if not difference <= CAPTURE_ULPS:
                raise CaptureError(f"the captured graph differs from the model by {difference:.0f} units in the last place on other inputs")


def largest_difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference in units in the last place of the largest expected value (infinite if shapes differ)."""
    if got.shape != expected.shape:
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(got, expected) else float("inf")
    finite = expected.isfinite()
    if not torch.equal(finite, got.isfinite()):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = expected[finite].abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((got[finite] - expected[finite]).abs().max() / scale / torch.finfo(expected.dtype).eps)


def _possible_variation(model: nn.Module, program: Program, example: dict[str, Any], roles: dict[str, str]) -> dict[str, Any]:
    """A changed example that the model itself accepts: an axis that looks like a length may be one of fixed channels."""
    shorter = _vary(program, example, roles, shorten=True)
    try:
        with torch.no_grad(), inference_configuration(model):
            model(**shorter)
    except Exception:
        return _vary(program, example, roles, shorten=False)
    return shorter


def _vary(program: Program, example: dict[str, Any], roles: dict[str, str], *, shorten: bool) -> dict[str, Any]:
    """Other values in every content input (another order of the rows for each), one token less where lengths may change."""
    nodes = program.input_nodes()
    lengths = [nodes[i.name].meta["val"].shape[1] for i in program.inputs if i.role == "content" and 2 <= len(i.shape) <= 3 and i.shape[1] > MIN_LENGTH]
    changing = {str(length) for length in lengths if not isinstance(length, int)}
    result = dict(example)
    for turn, (name, node) in enumerate(nodes.items()):
        value = example[name]
        if roles[name] == "content":
            value = value.roll(turn + 1, 0)
            value = value * 0.9 if value.is_floating_point() else value.roll(turn, -1)
        for axis, size in enumerate(node.meta["val"].shape):
            if shorten and str(size) in changing:
                value = value.narrow(axis, 0, value.shape[axis] - 1)
        result[name] = value
    return result


@contextlib.contextmanager
def inference_configuration(model: nn.Module) -> Iterator[None]:
    """Caches off in the model's configurations and torch's fused encoder path off while the model is run, restored afterwards.

    The fused path zeroes padded rows in eager mode only, so that the captured graph would differ from it.
    """
    changed: list[Any] = []
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    for config in [*configs.values(), *(s for c in configs.values() for s in getattr(c, "__dict__", {}).values() if hasattr(s, "use_cache"))]:
        if getattr(config, "use_cache", False):
            changed.append(config)
            config.use_cache = False
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for config in changed:
            config.use_cache = True


def _export(model: nn.Module, example: dict[str, Any], *, dynamic: bool) -> torch.export.ExportedProgram:
    shapes = {k: _dynamic_axes(v) if isinstance(v, torch.Tensor) else None for k, v in example.items()}
    with torch.no_grad():
        exported: torch.export.ExportedProgram = torch.export.export(model, (), example, strict=False, dynamic_shapes=shapes if dynamic else None)
        functional: torch.export.ExportedProgram = exported.run_decompositions({})
        return functional


def _dynamic_axes(value: torch.Tensor) -> dict[int, Any]:
    """Axes that may change: all of them, but for images and videos the batch alone (their size is tied to tables)."""
    axes = range(value.dim()) if value.dim() < 4 or not value.is_floating_point() else range(1)
    return dict.fromkeys(axes, torch.export.Dim.AUTO)


def _to_program(exported: torch.export.ExportedProgram, example: dict[str, Any], roles: dict[str, str], method: str) -> Program:
    graph = fx.Graph()
    holder = nn.Module()
    env: dict[fx.Node, fx.Node] = {}
    specs = {s.arg.name: s for s in exported.graph_signature.input_specs if hasattr(s.arg, "name")}
    state: dict[str, torch.Tensor] = {**dict(exported.state_dict), **dict(exported.constants)}
    names = [str(path[-1].key) if hasattr(path[-1], "key") else str(path[-1]) for path, _ in pytree.tree_flatten_with_path(example)[0]]
    user = iter(names)
    inputs: list[Input] = []
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            env[node] = _placeholder(node, specs[node.name], state, graph, holder, inputs, user, roles)
        elif node.op == "output":
            kept = [s.arg for s in exported.graph_signature.output_specs if s.kind == OutputKind.USER_OUTPUT]
            by_name = {n.name: env[n] for n in env}
            graph.output(tuple(by_name[a.name] if hasattr(a, "name") and a.name in by_name else getattr(a, "value", None) for a in kept))
        else:
            env[node] = graph.node_copy(node, lambda n: env[n])
    module = fx.GraphModule(holder, graph)
    module.graph.eliminate_dead_code()
    for placeholder in [n for n in module.graph.nodes if n.op == "placeholder" and n.meta.get("constant_input")]:
        module.graph.erase_node(placeholder)
    module.recompile()
    return Program(module, tuple(inputs), _outputs(exported, module.graph), method)


def _placeholder(node: fx.Node, spec: Any, state: dict[str, Any], graph: fx.Graph, holder: nn.Module, inputs: list[Input], user: Iterator[str], roles: dict[str, str]) -> fx.Node:
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
    attribute = "_".join(spec.target.split("."))
    if not hasattr(holder, attribute):
        tensor = state[spec.target]
        if isinstance(tensor, nn.Parameter):
            holder.register_parameter(attribute, tensor)
        else:
            holder.register_buffer(attribute, tensor)
    new = graph.get_attr(attribute)
    new.meta.update(node.meta)
    new.meta["origin"] = "parameter" if spec.kind == InputKind.PARAMETER else "constant"
    new.meta["parameter_path"] = spec.target
    return new


def _outputs(exported: torch.export.ExportedProgram, graph: fx.Graph) -> Outputs:
    spec = exported.call_spec.out_spec
    flat = output_node(graph).args[0]
    assert isinstance(flat, (tuple, list)) and spec is not None
    paths = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(len(flat))), spec))[0]
    names = [".".join(_key(k) for k in path) or "output" for path, _ in paths]
    floating = [i for i, n in enumerate(flat) if isinstance(n, fx.Node) and isinstance(n.meta.get("val"), torch.Tensor) and n.meta["val"].is_floating_point()]
    if not floating:
        raise CaptureError("the model returns no floating-point tensor, so there is nothing to explain")
    logits = [i for i in floating if names[i].split(".")[-1] == "logits"]
    return Outputs(tuple(names), spec, (logits or floating)[0])


def _key(entry: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]
