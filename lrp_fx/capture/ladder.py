"""Capture: any PyTorch model becomes one flat graph of ATen operations.

A ladder of three strategies: export with symbolic batch and length; export of these very shapes; a record of this very
call. A capture that is not exact on other values, another mask or another shape falls to the next strategy.

requires  a model in eval mode and inputs it runs on
ensures   outputs equal the model's on the traced values and, but for the record of one call, on other values, another
          mask and other shapes; the model is as it was
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from lrp_fx.capture.compare import Ran, inference_configuration, ran, verify_capture
from lrp_fx.capture.constant_masks import size_is_by_value
from lrp_fx.capture.example import has_entry_for_each_row, in_signature_order, shortened, widen, without_repeats
from lrp_fx.capture.export import export
from lrp_fx.capture.hooks import hooks_restored
from lrp_fx.capture.reasons import reason
from lrp_fx.capture.record import open_transforms, record
from lrp_fx.capture.transforms import calls_transforms, ended_transforms
from lrp_fx.capture.unloaded import waits
from lrp_fx.errors import CaptureError, may_be_interrupt, raise_if_out_of_memory
from lrp_fx.guards.guard import shapes_in
from lrp_fx.guards.sizes import sizes_of
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import ancestors, is_float, value_of
from lrp_fx.ir.leftovers import let_go
from lrp_fx.ir.operators import has
from lrp_fx.ir.passes import report_fault
from lrp_fx.ir.program import CONCRETE, DYNAMIC, METHODS, Program, check_well_formed, copy
from lrp_fx.ir.source import source_line


def capture(
    model: nn.Module,
    inputs: dict[str, Any],
    roles: dict[str, str],
    *,
    methods: Sequence[str] = METHODS,
    known: Ran | None = None,
) -> Program:
    """Capture ``model(**inputs)`` by the first of the methods that gives a graph which computes what the model
    computes.

    known: what the model gave for these inputs, if it was run before. Raises `CaptureError` with the refusal of each.
    """
    let_go()
    given = in_signature_order(model, without_repeats(inputs))
    known = None if known is None else Ran(given, known.result)
    refusals: list[str] = []
    for method in (m for m in methods if m != CONCRETE) if waits(model) else methods:
        try:
            program = _captured(model, given, roles, method, known)
            return replace(copy(program), refusals=tuple(refusals), captured=program.module)
        except (
            Exception
        ) as error:  # whatever torch or the model raises refuses the method; what our own code raises is a fault
            report_fault(error, f"capture ({method})")
            refusals.append(f"{method}: {type(error).__name__}: {first_line(error)}")
    if waits(model):
        refusals.append(f"{CONCRETE}: the model waits for its weights, and decides by numbers: bind() them first")
    raise CaptureError(_refused(model, given, refusals))


def _refused(model: nn.Module, inputs: dict[str, Any], refusals: Sequence[str]) -> str:
    """What every method said; where the reason is known, that first."""
    head = f"{type(model).__name__} could not be captured as a graph."
    said = [f"    {refusal}" for refusal in refusals]
    if (known := reason(model, inputs)) is not None:
        return "\n".join([head, f"    why:  {known[0]}", f"    next: {known[1]}", *said])
    next_step = "see docs/how_it_works.md (capture); a forward without data-dependent Python control flow captures"
    return "\n".join([head, *said, f"    next: {next_step}"])


def _captured(
    model: nn.Module, inputs: dict[str, Any], roles: dict[str, str], method: str, known: Ran | None
) -> Program:
    if method != DYNAMIC:
        return _checked(model, inputs, roles, method, known)
    try:
        return _captured_for_any_size(model, inputs, roles, known)
    except TypeError as error:
        raise_if_out_of_memory(error)
        if not may_be_interrupt(error):
            raise
        return _captured_for_any_size(model, inputs, roles, known)


def _captured_for_any_size(
    model: nn.Module, inputs: dict[str, Any], roles: dict[str, str], known: Ran | None
) -> Program:
    short = _captured_shortened(model, inputs, roles)
    return short or _checked(model, _widened(model, inputs, roles), roles, DYNAMIC, known)


def _widened(model: nn.Module, inputs: dict[str, Any], roles: dict[str, str]) -> dict[str, Any]:
    """Inputs to trace with; of as many rows as are given, where a list has an entry for each and the model counts."""
    wide = widen(inputs, roles)
    counted = has_entry_for_each_row(inputs) and not has_entry_for_each_row(wide) and ran(model, wide) is None
    return widen(inputs, roles, more_rows=False) if counted else wide


def _captured_shortened(model: nn.Module, inputs: dict[str, Any], roles: dict[str, str]) -> Program | None:
    """With symbolic sizes, traced by a part of the inputs; None where that does not do for all of them."""
    short = shortened(inputs, roles)
    if short is None or ran(model, short) is None:
        return None
    try:
        program = _checked(model, widen(short, roles), roles, DYNAMIC, None)
    except Exception as error:  # it may be the part that the model does not like
        report_fault(error, f"capture ({DYNAMIC})")
        return None
    return program if sizes_of(program).refusal(shapes_in(inputs)) is None else None


def _checked(
    model: nn.Module, example: dict[str, Any], roles: dict[str, str], method: str, known: Ran | None
) -> Program:
    with ended_transforms(), inference_configuration(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced: nn.Module = record(model, example) if method == CONCRETE else model
        try:
            with hooks_restored(traced):
                program = export(traced, example, roles, method)
        except Exception as error:
            raise_if_out_of_memory(error)
            if method == CONCRETE or not calls_transforms(model, example):
                raise
            traced = open_transforms(model, example, symbolic=method == DYNAMIC)
            program = export(traced, example, roles, method, blocks_once=False)
    try:
        _check(model, program, example, roles, known)
    except CaptureError:
        if not program.stamped:
            raise
        with inference_configuration(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = export(traced, example, roles, method, blocks_once=False)
        _check(model, program, example, roles, known)
    return program


def _check(
    model: nn.Module, program: Program, example: dict[str, Any], roles: dict[str, str], known: Ran | None
) -> None:
    check_sizes(program)
    verify_capture(model, program, example, roles, known)
    check_well_formed(program)


def check_sizes(program: Program) -> None:
    """Raise if a size depends on values: rules could not even ask whether two shapes agree."""
    for node in program.graph.nodes:
        for value in pytree.tree_leaves(value_of(node)):
            if isinstance(value, Tensor) and any(
                isinstance(s, torch.SymInt) and free_unbacked_symbols(s) for s in value.shape
            ):
                raise CaptureError(f"the size of %{node.name} = {node.target} depends on {_values_read(node)}")
        if has(node, Fact.LOOP) and any(isinstance(s, torch.SymInt) for s in value_of(node.args[0]).shape[:2]):
            raise CaptureError(f"%{node.name} = {node.target}: a loop over tokens, which holds for one length")
        if size_is_by_value(node):
            raise CaptureError(f"which elements %{node.name} = {node.target} has depends on {_values_read(node)}")


def _values_read(node: fx.Node) -> str:
    """Whose values decide a size, with the user's line: those of the inputs, or of constants only."""
    deciding = [n for n in node.all_input_nodes if not is_float(n)] or node.all_input_nodes
    if any(n.op == "placeholder" for n in (*deciding, *ancestors(deciding))):
        return f"the values of the inputs ({source_line(node)})"
    return f"the values of a constant ({source_line(node)}); indices made of it beforehand are of one size"


def first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]
