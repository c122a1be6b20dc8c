"""Comparison: does a captured graph compute what the model computes?

It is asked on the inputs that the model was captured with and, unless the graph holds for one call only, on other
values, another shape if sizes may change, and another mask.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from lrp_fx.capture.example import MIN_LENGTH, has_entry_for_each_row
from lrp_fx.capture.hooks import hooks_restored
from lrp_fx.capture.outputs import opened
from lrp_fx.capture.unloaded import run_abstractly, run_waiting, waits
from lrp_fx.errors import CaptureError, raise_if_out_of_memory
from lrp_fx.ir.devices import callers_device
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.program import CONCRETE, CONTENT_ROLE, DYNAMIC, MASK_ROLE, Program
from lrp_fx.ir.read import all_as_read
from lrp_fx.ir.undo import surely

#: Agreement demanded between model and capture, in units in the last place of the largest output. (Those of half
#: precision are large: a thousand of them would allow anything.)
CAPTURE_ULPS = {torch.float64: 1024.0, torch.float32: 1024.0, torch.bfloat16: 4.0, torch.float16: 8.0}


class Difference(NamedTuple):
    """How far an output is from the model's, in units in the last place of the largest number in it; infinite where it
    is no such tensor. ``allowed``: how far it may be.
    """

    ulps: float = 0.0
    allowed: float = 0.0

    @property
    def ok(self) -> bool:
        return self.ulps <= self.allowed

    @property
    def excess(self) -> float:
        """The share of what is allowed."""
        return self.ulps / self.allowed if self.allowed else float("inf") if self.ulps else 0.0

    def __str__(self) -> str:
        return f"{self.ulps:.3g} units in the last place (allowed {self.allowed:g})"


class Ran(NamedTuple):
    """What the model gave for inputs."""

    inputs: dict[str, Any]
    result: Any


def verify_capture(
    model: nn.Module, program: Program, example: dict[str, Any], roles: dict[str, str], known: Ran | None = None
) -> None:
    """Compare capture and model on the example and, unless it holds for this call only, on changed ones.

    known: what the model gave before for some inputs. Raises `CaptureError` where they differ.
    """
    same = known if known is not None and known.inputs is example else Ran(example, _result(model, example))
    trials = {"the same inputs": same}
    if program.method != CONCRETE:
        trials["other inputs"] = _possible_variation(model, program, example, roles)
        hidden = _hide_a_token(example, roles)
        if hidden is not None and (masked := ran(model, hidden)) is not None:
            trials["another mask"] = masked
    for name, trial in trials.items():
        found = difference(program, trial)
        if not found.ok:
            raise CaptureError(f"the captured graph differs from the model by {found} on {name}")


#: No tensor of the model's.
OTHER = Difference(float("inf"))


def difference(program: Program, trial: Ran) -> Difference:
    """The difference of the output that is furthest from the model's; infinite where the program holds copies of
    tensors that are others now. Of a model without weights shapes and types are compared: 0 where they agree.
    """
    if any(isinstance(t, FakeTensor) for t in pytree.tree_leaves(trial.result)):
        return Difference() if _agree_abstractly(program, trial) else OTHER
    if not all_as_read(program.read):  # what is compared reads the tensors themselves
        return OTHER
    with torch.no_grad():
        ours = (program.captured or program.module)(*[trial.inputs[i.name] for i in program.inputs])
    theirs = pytree.tree_leaves(trial.result)
    expected, got = ([t for t in flat if isinstance(t, Tensor)] for flat in (theirs, ours))
    if len(expected) != len(got):
        return OTHER
    found = (difference_of(a, b) for a, b in zip(got, expected, strict=True))
    return max(found, key=lambda d: d.excess, default=Difference())


def difference_of(got: Tensor, expected: Tensor, computed_in: torch.dtype | None = None) -> Difference:
    """The difference of two tensors; ``computed_in``: the narrowest type on the way, where that is not the result's."""
    units = CAPTURE_ULPS.get(expected.dtype, 0.0)
    if computed_in in CAPTURE_ULPS and units:
        coarser = torch.finfo(computed_in).eps / torch.finfo(expected.dtype).eps
        units = max(units, CAPTURE_ULPS[computed_in] * coarser)
    return Difference(largest_difference(got, expected), units)


def _agree_abstractly(program: Program, trial: Ran) -> bool:
    with torch.no_grad():
        ours = run_abstractly(program.captured or program.module, [trial.inputs[i.name] for i in program.inputs])
    kinds = [[(t.shape, t.dtype) for t in pytree.tree_leaves(r) if isinstance(t, Tensor)] for r in (ours, trial.result)]
    return kinds[0] == kinds[1]


def ran(model: nn.Module, inputs: dict[str, Any]) -> Ran | None:
    """What the model gives; None where it refuses the inputs."""
    try:
        return Ran(inputs, _result(model, inputs))
    except Exception as error:
        raise_if_out_of_memory(error)
        return None


def _result(model: nn.Module, inputs: dict[str, Any]) -> Any:
    with torch.no_grad(), inference_configuration(model):
        return run_waiting(model, inputs) if waits(model) else model(**own_tensors(inputs))


def own_tensors(inputs: dict[str, Any]) -> dict[str, Any]:
    """Copies of the tensors, for a model that writes to them."""
    return {n: v.clone() if isinstance(v, Tensor) else v for n, v in inputs.items()}


def _hide_a_token(example: dict[str, Any], roles: dict[str, str]) -> dict[str, Any] | None:
    """The example with the last token of its first row masked, where it has a mask that hides nothing yet."""
    for name, value in example.items():
        if (
            isinstance(value, Tensor)
            and roles[name] == MASK_ROLE
            and value.dim() == 2
            and value.shape[1] > 1
            and not value.is_floating_point()
            and bool((value == 1).all())
        ):
            other = value.clone()
            other[0, -1] = 0
            return {**example, name: other}
    return None


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
    if not finite.all():
        got, expected = got[finite], expected[finite]
    scale = torch.maximum(expected.amax(), -expected.amin()).clamp_min(torch.finfo(expected.dtype).tiny)
    return float((got - expected).abs_().max() / scale / torch.finfo(expected.dtype).eps)


def _possible_variation(model: nn.Module, program: Program, example: dict[str, Any], roles: dict[str, str]) -> Ran:
    """A changed example that the model itself accepts: an axis that looks like a length may be one of fixed channels.

    One that it accepts only at its own sizes is varied in values alone.
    """
    shorter = ran(model, _vary(program, example, roles, shorten=True))
    if shorter is not None:
        return shorter
    longer = _vary(program, example, roles, shorten=False)
    found = ran(model, longer)
    if found is None and has_entry_for_each_row(example):  # another row would want another entry
        found = ran(model, _vary(program, example, roles, shorten=True, more_rows=False))
    if found is not None:
        return found
    if program.method == DYNAMIC:
        longer = {
            n: (v.roll(1, 0) if v.dim() else v) * 0.9
            if isinstance(v, Tensor) and v.is_floating_point() and roles[n] == CONTENT_ROLE
            else v
            for n, v in example.items()
        }
    return Ran(longer, _result(model, longer))


def _vary(
    program: Program, example: dict[str, Any], roles: dict[str, str], *, shorten: bool, more_rows: bool = True
) -> dict[str, Any]:
    """Other values in every content input (another order of the rows for each), one example more, one token less where
    sizes may change.
    """
    nodes = program.input_nodes()
    lengths = [
        nodes[i.name].meta["val"].shape[1]
        for i in program.inputs
        if i.role == CONTENT_ROLE and 2 <= len(i.shape) <= 3 and i.shape[1] > MIN_LENGTH
    ]
    changing = {str(length) for length in lengths if not isinstance(length, int)}
    batched = program.batch_input
    batch = batched[0].shape[0] if batched is not None and not isinstance(value_of(batched[1]).shape[0], int) else None
    result = dict(example)
    for turn, (name, node) in enumerate(nodes.items()):
        value = example[name]
        if roles[name] == CONTENT_ROLE:
            value = value.roll(turn + 1, 0) if value.dim() else value
            value = value * 0.9 if value.is_floating_point() else value.roll(turn, -1) if value.dim() else value
        for axis, size in enumerate(node.meta["val"].shape):
            if more_rows and axis == 0 and value.shape[0] == batch and not isinstance(size, int):
                value = torch.cat([value, value.narrow(axis, 0, 1)], axis)
            elif shorten and str(size) in changing:
                value = value.narrow(axis, 0, value.shape[axis] - 1)
        result[name] = value
    return result


@contextlib.contextmanager
def inference_configuration(model: nn.Module) -> Iterator[None]:
    """Caches off in the model's configurations and torch's fused encoder path off while the model is run, restored
    afterwards. What it returns is opened (`lrp_fx.capture.outputs`); if it fails, no hook of its own is left.

    The fused path zeroes padded rows in eager mode only, so that the captured graph would differ from it.
    """
    changed: list[tuple[Any, Any]] = []
    script = isinstance(model, torch.jit.ScriptModule)  # which takes no hooks, and returns no objects
    thread = threading.get_ident()  # others may run the model meanwhile
    fast = torch.backends.mha.get_fastpath_enabled()

    def open_objects(module: nn.Module, given: Any, result: Any) -> Any:
        return opened(result) if threading.get_ident() == thread else None

    def restore() -> None:
        for key in [k for k, hook in (() if script else model._forward_hooks.items()) if hook is open_objects]:
            del model._forward_hooks[key]
        torch.backends.mha.set_fastpath_enabled(fast)
        for config, cached in changed:
            config.use_cache = cached

    with hooks_restored(model):
        try:
            for config in _caching(model):
                changed.append((config, config.use_cache))
                config.use_cache = False
            torch.backends.mha.set_fastpath_enabled(False)
            if not script:
                model.register_forward_hook(open_objects)
            with callers_device(), _weights_computed():
                yield
        finally:
            surely(restore)


@contextlib.contextmanager
def _weights_computed() -> Iterator[None]:
    """Inside `parametrize.cached`, weights are made of parameters anew: kept ones would be constants of a graph."""
    kept = parametrize._cache_enabled, parametrize._cache
    parametrize._cache_enabled, parametrize._cache = 0, {}
    try:
        yield
    finally:
        parametrize._cache_enabled, parametrize._cache = kept


def _caching(model: nn.Module) -> list[Any]:
    """The configurations that have a cache switched on."""
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    inside = [s for c in configs.values() for s in getattr(c, "__dict__", {}).values() if hasattr(s, "use_cache")]
    found = {id(c): c for c in (*configs.values(), *inside)}
    return [c for c in found.values() if getattr(c, "use_cache", False)]
