"""Capture: any PyTorch model becomes one flat graph of ATen operations.

A ladder of three strategies: export with symbolic batch and length; export of these very shapes; a record of this very
call. A capture that is not exact on other values, another mask or another shape falls to the next strategy.

requires  a model in eval mode and inputs it runs on
ensures   outputs equal the model's on the traced values and, but for the record of one call, on other values, another
          mask and other shapes; the model is as it was
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from lrp_fx.capture.export import export
from lrp_fx.capture.record import record
from lrp_fx.errors import CaptureError
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.passes import report_fault
from lrp_fx.ir.program import Program, check_well_formed

#: The strategies: good for any size, for these sizes, for this call.
DYNAMIC, STATIC, CONCRETE = "dynamic", "static", "concrete"
METHODS = (DYNAMIC, STATIC, CONCRETE)
#: Smallest traced sizes: an axis of size 1 would be specialised as "always 1" (broadcast).
MIN_BATCH, MIN_LENGTH = 2, 4
#: Agreement demanded between model and capture, in units in the last place of the largest output.
CAPTURE_ULPS = 1024.0


def capture(
    model: nn.Module, inputs: dict[str, Any], roles: dict[str, str], *, methods: Sequence[str] = METHODS
) -> Program:
    """Capture ``model(**inputs)`` by the first of the methods that gives a graph which computes what the model
    computes.

    Raises `CaptureError` with the refusal of each.
    """
    inputs = in_signature_order(model, without_repeats(inputs))
    refusals: list[str] = []
    for method in methods:
        try:
            program = _captured(model, inputs, roles, method)
            return replace(program, refusals=tuple(refusals), captured=program.module)
        except (
            Exception
        ) as error:  # whatever torch or the model raises refuses the method; what our own code raises is a fault
            report_fault(error, f"capture ({method})")
            refusals.append(f"{method}: {type(error).__name__}: {first_line(error)}")
    raise CaptureError(
        f"{type(model).__name__} could not be captured as a graph.\n"
        + "\n".join(f"    {r}" for r in refusals)
        + "\n    next: see docs/how_it_works.md (capture); a forward without data-dependent Python control flow "
        "captures"
    )


def _captured(model: nn.Module, inputs: dict[str, Any], roles: dict[str, str], method: str) -> Program:
    example = widen(inputs, roles) if method == DYNAMIC else inputs
    with inference_configuration(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = record(model, example) if method == CONCRETE else model
        program = export(traced, example, roles, method)
    try:
        _check(model, program, example, roles)
    except CaptureError:
        if not program.stamped:
            raise
        with inference_configuration(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = export(traced, example, roles, method, blocks_once=False)
        _check(model, program, example, roles)
    return program


def _check(model: nn.Module, program: Program, example: dict[str, Any], roles: dict[str, str]) -> None:
    check_sizes(program)
    verify_capture(model, program, example, roles)
    check_well_formed(program)


def check_sizes(program: Program) -> None:
    """Raise if a size depends on values: rules could not even ask whether two shapes agree."""
    for node in program.graph.nodes:
        for value in pytree.tree_leaves(value_of(node)):
            if isinstance(value, Tensor) and any(
                isinstance(s, torch.SymInt) and free_unbacked_symbols(s) for s in value.shape
            ):
                raise CaptureError(f"%{node.name} = {node.target}: its size depends on the values of the inputs")


def in_signature_order(model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """The same arguments in the order of ``forward``'s signature (export demands it)."""
    order = list(inspect.signature(model.forward).parameters)
    return dict(sorted(inputs.items(), key=lambda kv: order.index(kv[0]) if kv[0] in order else len(order)))


def without_repeats(inputs: dict[str, Any]) -> dict[str, Any]:
    """A tensor passed for two arguments is cloned: the tracer would take both for one input for ever."""
    seen: set[int] = set()
    result = {}
    for name, value in inputs.items():
        repeated = isinstance(value, Tensor) and value.data_ptr() in seen
        result[name] = value.clone() if repeated else value
        if isinstance(value, Tensor):
            seen.add(value.data_ptr())
    return result


def widen(inputs: dict[str, Any], roles: dict[str, str]) -> dict[str, Any]:
    """Inputs to trace with: at least two rows, a few tokens, and a mask that masks something.

    Rows and tokens are repeated, never invented, so that every value stays in the model's domain.
    """
    tensors = {k: v for k, v in inputs.items() if isinstance(v, Tensor)}
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
    """Compare capture and model on the example and, unless it holds for this call only, on changed ones.

    Other values, another shape if sizes may change, another mask.
    """
    trials = {"the same inputs": example}
    if program.method != CONCRETE:
        trials["other inputs"] = _possible_variation(model, program, example, roles)
        hidden = _hide_a_token(example, roles)
        if hidden is not None and accepts(model, hidden):
            trials["another mask"] = hidden
    for name, trial in trials.items():
        difference = difference_from_model(model, program, trial)
        if not difference <= CAPTURE_ULPS:
            raise CaptureError(
                f"the captured graph differs from the model by {difference:.0f} units in the last place on {name}"
            )


def difference_from_model(model: nn.Module, program: Program, inputs: dict[str, Any]) -> float:
    """Largest difference of an output from the model's, in units in the last place of the largest number in it."""
    with torch.no_grad(), inference_configuration(model):
        theirs = pytree.tree_leaves(model(**inputs))
        ours = (program.captured or program.module)(*[inputs[i.name] for i in program.inputs])
    expected, got = ([t for t in flat if isinstance(t, Tensor)] for flat in (theirs, ours))
    if len(expected) != len(got):
        return float("inf")
    return max((largest_difference(a, b) for a, b in zip(got, expected, strict=True)), default=0.0)


def _hide_a_token(example: dict[str, Any], roles: dict[str, str]) -> dict[str, Any] | None:
    """The example with the last token of its first row masked, where it has a mask that hides nothing yet."""
    for name, value in example.items():
        if (
            isinstance(value, Tensor)
            and roles[name] == "mask"
            and value.dim() == 2
            and value.shape[1] > 1
            and not value.is_floating_point()
            and bool((value == 1).all())
        ):
            other = value.clone()
            other[0, -1] = 0
            return {**example, name: other}
    return None


def accepts(model: nn.Module, inputs: dict[str, Any]) -> bool:
    """Does the model itself run on these inputs?"""
    try:
        with torch.no_grad(), inference_configuration(model):
            model(**inputs)
    except Exception:
        return False
    return True


def largest_difference(got: Tensor, expected: Tensor) -> float:
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


def _possible_variation(
    model: nn.Module, program: Program, example: dict[str, Any], roles: dict[str, str]
) -> dict[str, Any]:
    """A changed example that the model itself accepts: an axis that looks like a length may be one of fixed channels.

    One that it accepts only at its own sizes is varied in values alone.
    """
    shorter = _vary(program, example, roles, shorten=True)
    if accepts(model, shorter):
        return shorter
    longer = _vary(program, example, roles, shorten=False)
    if accepts(model, longer) or program.method != DYNAMIC:
        return longer
    return {
        n: v.roll(1, 0) * 0.9 if isinstance(v, Tensor) and v.is_floating_point() and roles[n] == "content" else v
        for n, v in example.items()
    }


def _vary(program: Program, example: dict[str, Any], roles: dict[str, str], *, shorten: bool) -> dict[str, Any]:
    """Other values in every content input (another order of the rows for each), one example more, one token less where
    sizes may change.
    """
    nodes = program.input_nodes()
    lengths = [
        nodes[i.name].meta["val"].shape[1]
        for i in program.inputs
        if i.role == "content" and 2 <= len(i.shape) <= 3 and i.shape[1] > MIN_LENGTH
    ]
    changing = {str(length) for length in lengths if not isinstance(length, int)}
    batched = program.batch_input
    batch = batched[0].shape[0] if batched is not None and not isinstance(value_of(batched[1]).shape[0], int) else None
    result = dict(example)
    for turn, (name, node) in enumerate(nodes.items()):
        value = example[name]
        if roles[name] == "content":
            value = value.roll(turn + 1, 0)
            value = value * 0.9 if value.is_floating_point() else value.roll(turn, -1)
        for axis, size in enumerate(node.meta["val"].shape):
            if axis == 0 and value.shape[0] == batch and not isinstance(size, int):
                value = torch.cat([value, value.narrow(axis, 0, 1)], axis)
            elif shorten and str(size) in changing:
                value = value.narrow(axis, 0, value.shape[axis] - 1)
        result[name] = value
    return result


@contextlib.contextmanager
def inference_configuration(model: nn.Module) -> Iterator[None]:
    """Caches off in the model's configurations and torch's fused encoder path off while the model is run, restored
    afterwards.

    The fused path zeroes padded rows in eager mode only, so that the captured graph would differ from it.
    """
    changed: list[Any] = []
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    for config in [
        *configs.values(),
        *(s for c in configs.values() for s in getattr(c, "__dict__", {}).values() if hasattr(s, "use_cache")),
    ]:
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


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]
