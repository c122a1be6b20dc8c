"""Vector-Jacobian products: the transpose of one rule, traced once for all operations alike and copied to where it is
needed.

It is a small flat graph: operands, coefficient of the result -> coefficients of the carriers, sink totals and, when
sites are to be balanced, what is known of the sinks in another way. Repeated layers share one, so tracing time does not
grow with depth. The books of a site are the same for every rule: `lrp_fx.transpose.sites` writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lrp_fx.analysis.segment_ids import total_by_segment
from lrp_fx.ir.layout import BatchAxis, Segmented
from lrp_fx.ir.tracing import abstract_key, is_torchs_own
from lrp_fx.rule import Call, Rule, Tape, precise, recording, where_positive


@dataclass(frozen=True)
class Plan:
    """What is to be transposed: a rule on an operation, with abstract values for its flattened arguments.

    ``grow``  for each carrier without a batch, (axis, rank): the axis of its (left-padded) shape that is broadcast over
              the result's batch axis; it is expanded, so that coefficients stay apart by example. An axis in front of
              the result's: the batch.
    ``expand``  carriers expanded to the whole result (to the scores, in fused attention): biases read pair by pair,
              rows and columns of a grid.
    ``bases``   positions of carriers that have a base (`lrp_fx.rule.Call`).
    ``gaps``  may operands hold NaN that a mask hides? What is no number has no coefficient, though its slope is NaN.
    ``outputs``  which results (of an operation that returns several) have coefficients; ``(None,)`` for a plain result.
    """

    rule: Rule
    op: Callable[..., Any]
    flat: tuple[Any, ...]
    spec: pytree.TreeSpec
    carriers: tuple[int, ...]
    factors: dict[int, int]
    masks: frozenset[int]
    facts: dict[str, Any]
    grow: dict[int, tuple[int, int]]
    expand: frozenset[int]
    outputs: tuple[int | None, ...]
    y_axis: BatchAxis | Segmented | None
    x_axes: tuple[BatchAxis | Segmented | None, ...]
    audit: bool
    safe: bool
    bases: tuple[int, ...] = ()
    gaps: bool = False


@dataclass(frozen=True)
class Result:
    """Outputs of a transposed rule, by role; entries are nodes once inlined. ``checks``: what the sinks are to be,
    found independently of them where the rule can; else the sinks.
    """

    coefficients: list[Any]
    sinks: list[Any]
    checks: list[Any]
    sink_names: tuple[str, ...]

    @classmethod
    def of(cls, outputs: list[Any], carriers: int, sink_names: tuple[str, ...]) -> Result:
        n, m = carriers, len(sink_names)
        sinks = outputs[n : n + m]
        return cls(outputs[:n], sinks, outputs[n + m :] or sinks, sink_names)


def relevance_of(x: Tensor, c: Tensor, *, safe: bool = False, last: bool = False) -> Tensor:
    """``R(x) = x * c(x)`` elementwise; for complex values the two real parts together. ``safe``: 0 * inf counts as 0.

    ``last``: the coefficient is read here for the last time, and is put first, so that the result may take its place
    (`in_place`). So it is where the product goes through a choice: then both lie in memory as the coefficient does.
    """
    if x.is_complex():
        return (torch.view_as_real(x.resolve_conj()) * torch.view_as_real(c.resolve_conj())).sum(-1)
    if x.dtype in (torch.float16, torch.bfloat16):  # products of halves overflow where their sum would not
        x, c = x.float(), c.float()
    product = c * x if last or safe else x * c
    return where_positive(c.abs(), product) if safe else product


def per_example(t: Tensor, axis: BatchAxis | Tensor | None, batch: Any) -> Tensor:
    """Sum over everything but the batch, shape (B,); without a known batch axis the total, shape (1,).

    ``axis`` may be the example of each row (`lrp_fx.analysis.segment_ids`).
    """
    t = t.to(torch.float64 if t.dtype == torch.float64 else torch.float32)
    if axis is None:
        return t.sum().reshape(1)
    if isinstance(axis, Tensor):
        return total_by_segment(t, axis, batch)
    if not axis.is_merged:
        others = [i for i in range(t.dim()) if i != axis.axis]
        return t.sum(others) if others else t
    if axis.axis == 0 and axis.outer == 1:
        return t.reshape(batch, -1).sum(1)
    split = axis.split(t, batch)
    return split.sum([i for i in range(split.dim()) if i != axis.axis + 1])


def constant_per_example(
    constant: Tensor, c: Tensor, axis: BatchAxis | Tensor | None, batch: Any, *, safe: bool
) -> Tensor:
    """`per_example` of the relevance of a constant that is broadcast to the result, whose coefficient is ``c``.

    The coefficient is summed along the axes that the constant does not have before it is multiplied: one pass over it.
    """
    shape = (1,) * (c.dim() - constant.dim()) + tuple(constant.shape)
    alike = [a for a, size in enumerate(shape) if isinstance(size, int) and size == 1]
    if c.is_complex() or not isinstance(axis, BatchAxis) or axis.is_merged or not alike:
        return per_example(relevance_of(constant.expand(c.shape), c, safe=safe), axis, batch)
    others = [a for a in alike if a != axis.axis]
    wide = torch.float64 if c.dtype == torch.float64 else torch.float32
    total = c.sum(others, keepdim=True, dtype=wide) if others else c.to(wide)
    return per_example(relevance_of(constant.to(wide), total, safe=safe), axis, batch)


def transpose_rule(plan: Plan, batch: Any) -> Callable[..., list[Any]]:
    """The function to trace: ``(coefficients..., results..., arguments..., bases..., segment ids..., batch)`` ->
    ``[c(x)..., sink totals..., checks of the sinks...]``.

    The names of the sinks are left in ``function.sink_names`` by the first run; and in ``function.reaches`` whether a
    derivative reaches a carrier from the results.
    """
    n_out = len(plan.outputs)

    def function(*values: Any) -> list[Any]:
        coefficients, results, size = values[:n_out], values[n_out : 2 * n_out], values[-1]
        arguments, rest = list(values[2 * n_out : 2 * n_out + len(plan.flat)]), values[2 * n_out + len(plan.flat) : -1]
        bases, ids = dict(zip(plan.bases, rest, strict=False)), rest[len(plan.bases) :]
        y_axis, *x_axes = (_told(a, ids) for a in (plan.y_axis, *plan.x_axes))
        flat, carriers = with_leaves(plan, arguments, results[0], size)
        args, kwargs = pytree.tree_unflatten(flat, plan.spec)
        value = results[0] if plan.outputs == (None,) else None
        call = Call(
            plan.op,
            tuple(args),
            kwargs,
            frozenset(plan.carriers),
            plan.factors,
            plan.masks,
            plan.facts,
            value,
            {i: base.detach() for i, base in bases.items()},
        )
        with torch.enable_grad(), recording(Tape()) as tape:
            out = plan.rule.surrogate(call)
        outs = [out if i is None else out[i] for i in plan.outputs]
        grads = gradients(outs, [*carriers, *(s for _, s in tape.sinks)], coefficients)
        c_x, c_sinks = grads[: len(carriers)], grads[len(carriers) :]
        function.reaches = not carriers or any(c is not None for c in c_x)  # type: ignore[attr-defined]
        if plan.gaps:
            pairs = zip(carriers, c_x, strict=True)
            c_x = [None if c is None else c.masked_fill(x.detach().isnan(), 0.0) for x, c in pairs]
        booked: dict[str, Tensor] = {}  # a sink may be declared in several terms
        for (name, _), (given, times), c in zip(tape.sinks, tape.given, c_sinks, strict=True):
            if c is not None:
                total = constant_per_example(
                    given.detach(),
                    c if times is None else precise(c) * precise(times.detach()),
                    y_axis,
                    size,
                    safe=plan.safe,
                )
                booked[name] = booked[name] + total if name in booked else total
        names, sinks = list(booked), list(booked.values())
        if plan.rule.remainder is not None:
            reached = [(x.detach(), c, a) for x, c, a in zip(carriers, c_x, x_axes, strict=True) if c is not None]
            # else totals only: sums of unlike shapes would count twice
            known = y_axis is not None and all(a is not None for *_, a in reached)
            out_total = sum(
                per_example(relevance_of(r, c, safe=plan.safe), y_axis if known else None, size)
                for r, c in zip(results, coefficients, strict=True)
            )
            in_total = sum(
                per_example(relevance_of(x, c, safe=plan.safe), a if known else None, size) for x, c, a in reached
            )
            names.append(plan.rule.remainder)
            sinks.append(out_total - in_total - sum(s if known else s.sum().reshape(1) for s in sinks))  # type: ignore[arg-type]
        function.sink_names = tuple(names)  # type: ignore[attr-defined]
        checked = plan.rule.audit(call, coefficients[0]) if plan.audit and plan.rule.audit is not None and sinks else {}
        return [*c_x, *sinks, *([checked.get(n, s) for n, s in zip(names, sinks, strict=True)] if checked else [])]

    return function


def _told(axis: BatchAxis | Segmented | None, told: Sequence[Any]) -> BatchAxis | Tensor | None:
    """Where examples are, with the segment ids or sizes that are told."""
    if isinstance(axis, Segmented):
        ids: Tensor = told[axis.slot]
        return ids
    return axis.with_sizes(told) if axis is not None else None


def with_leaves(plan: Plan, arguments: list[Any], result: Tensor, batch: Any) -> tuple[list[Any], list[Tensor]]:
    """Arguments with the carriers as fresh leaves of differentiation, expanded over the batch where they lack it."""
    carriers = []
    flat = [a.detach() if isinstance(a, Tensor) else a for a in arguments]
    for position in plan.carriers:
        x = flat[position]
        if position in plan.grow:
            axis, rank = plan.grow[position]
            x = x.reshape((1,) * (rank - x.dim()) + tuple(x.shape))
            along = axis + result.dim() - rank
            if along >= 0 and isinstance(plan.y_axis, BatchAxis):
                along = plan.y_axis.axis  # what is written to a part of the result need not end where it ends
            x = x.expand(*x.shape[:axis], result.shape[along] if along >= 0 else batch, *x.shape[axis + 1 :])
        if position in plan.expand:
            x = x.expand(_scores_shape(arguments) if plan.rule.kind == "attention" else result.shape)
        flat[position] = x.detach().requires_grad_()
        carriers.append(flat[position])
    return flat, carriers


def _scores_shape(arguments: list[Any]) -> tuple[Any, ...]:
    """(..., queries, keys) of a fused attention's (query, key, value, ...)."""
    query, key = arguments[:2]
    return (*query.shape[:-1], key.shape[-2])


def gradients(outs: Sequence[Tensor], leaves: list[Tensor], coefficients: Sequence[Tensor]) -> list[Tensor | None]:
    """The coefficients of what results are made of; None for what no derivative reaches."""
    active = [(o, c) for o, c in zip(outs, coefficients, strict=True) if o.requires_grad]
    if not active or not leaves:
        return [None] * len(leaves)
    seeds = [c.to(o.dtype).reshape(o.shape) for o, c in active]
    return list(torch.autograd.grad([o for o, _ in active], leaves, seeds, allow_unused=True))


def sum_by_rows(x: Tensor) -> Tensor:
    """The sum, in float64 but within rows: a tensor of queries by keys need not be written out once more, and wider."""
    x = precise(x)
    return (x.sum(-1) if x.dim() > 1 else x).to(torch.float64).sum()


def vjp_keys(plan: Plan, *values: list[Any]) -> tuple[Any, Any]:
    """What a transposed rule is traced for: with where its examples lie and whether a mask may hide some, and without.

    Without, if it books nothing (`books_nothing`): then it is the same for all.
    """
    statics = (
        plan.rule.name,
        id(plan.rule),
        str(plan.op),
        plan.carriers,
        tuple(sorted(plan.factors.items())),
        plan.masks,
        tuple(sorted(plan.facts.items())),
    )
    places = (tuple(sorted(plan.grow.items())), tuple(sorted(plan.expand)), plan.outputs, str(plan.spec), plan.bases)
    audit = plan.audit and plan.rule.audit is not None
    grown = plan.y_axis if plan.grow else None
    plain = (statics, places, audit, plan.gaps, grown, tuple(tuple(abstract_key(v) for v in group) for group in values))
    return (plain, (plan.y_axis, plan.x_axes, plan.safe)), plain


def may_be_shared(plan: Plan) -> bool:
    """Is it what this package and torch define, not what a user may define anew under the same name?"""
    return is_torchs_own(plan.op) and plan.rule.is_shipped
