"""Is a surrogate linear in its carriers? Where it is not, relevance flows through what should be a constant.

A surrogate is linear when its coefficients do not depend on where they are taken. That is asked twice: of the
derivative's own graph, which needs no values and costs one run, and, where the graph leaves it open (some derivatives
read their operand and then ignore it), of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree as pytree

from lrp_fx.errors import raise_if_out_of_memory
from lrp_fx.ir.sizes import hint
from lrp_fx.rule.call import Call
from lrp_fx.rule.definition import Rule
from lrp_fx.rule.kinds import KINDS, TANGENT
from lrp_fx.rule.primitives import Tape, recording

#: Answers by rule (kept with them, so that its id stays its own) and call, whatever the sizes: layers repeat.
_asked: dict[Any, tuple[Rule, bool]] = {}


def missing_freeze(rule: Rule, call: Call) -> str | None:
    """What is wrong with a surrogate that must be linear and is not; None where it is, or need not be.

    The call's tensors may be abstract: only their sizes, types and devices are read.
    """
    if KINDS[rule.kind].surrogate == TANGENT or rule.kind == "leaf" or not call.carriers:
        return None
    types = tuple(type(a).__name__ for a in call.flat())
    key = (id(rule), str(call.op), call.carriers, call.masks, types, str(sorted(call.facts.items())))
    if key not in _asked:
        _asked[key] = rule, _is_nonlinear(rule, call)
    return freeze_is_missing(rule, call) if _asked[key][1] else None


def freeze_is_missing(rule: Rule, call: Call) -> str:
    """What is said of a surrogate that is not linear."""
    return (
        f"a `freeze` is missing in the surrogate of {rule.name} for {call.name}: relevance flows through what should "
        "be a constant (it is not linear in its carriers with its frozen parts fixed)"
    )


def _is_nonlinear(rule: Rule, call: Call) -> bool:
    """A surrogate that cannot be run on values of its sizes is not accused: its tracing will say what is wrong."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            suspect = depends_on_carriers(rule, _remade(call, _abstract))
        return suspect and _differs(rule, _remade(call, _numbers))
    except (
        RuntimeError,
        NotImplementedError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        StopIteration,
    ) as error:
        raise_if_out_of_memory(error)
        return False


def depends_on_carriers(rule: Rule, call: Call) -> bool:
    """Do the surrogate's coefficients depend on its carriers, by the graph of its derivative? Asks no values."""
    leaves, grads = _coefficients(rule, call, Tape(), create_graph=True)
    found = [g for g in grads if g is not None and g.requires_grad]
    if not found:
        return False
    try:
        again = torch.autograd.grad(found, leaves, [torch.ones_like(g) for g in found], allow_unused=True)
    except RuntimeError as error:  # a derivative that has none itself, and may or may not read the carriers
        raise_if_out_of_memory(error)
        return True
    return any(g is not None for g in again)


def _differs(rule: Rule, call: Call) -> bool:
    """Are the coefficients different at two places, with the frozen parts of the first?

    The second place of a choice is the first, twice as large: there the same values win, and a derivative holds a
    choice fixed without being asked to.
    """
    g = torch.Generator().manual_seed(1)
    carriers = dict(zip(sorted(call.carriers), call.operands(), strict=True))
    elsewhere = {i: torch.randn(x.shape, generator=g, dtype=x.dtype) for i, x in carriers.items()}
    moved = {i: 2 * x for i, x in carriers.items()} if rule.kind == "route" else elsewhere
    tape = Tape()
    first = _coefficients(rule, call, tape)[1]
    second = _coefficients(rule, call.put(moved), Tape(replay=iter(tape.frozen)))[1]
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    known = [(a, b) for a, b in pairs if a.isfinite().all() and b.isfinite().all()]
    return any(not torch.allclose(a, b, rtol=1e-6, atol=1e-9 * float(a.abs().max())) for a, b in known)


def _coefficients(
    rule: Rule, call: Call, tape: Tape, *, create_graph: bool = False
) -> tuple[list[Tensor], Sequence[Tensor | None]]:
    leaves = {i: call.operand(i).detach().requires_grad_() for i in sorted(call.carriers)}
    with torch.enable_grad(), recording(tape):
        results = pytree.tree_leaves(rule.surrogate(call.map(lambda i, a: leaves.get(i, a))))
        active = [y for y in results if isinstance(y, Tensor) and y.requires_grad]
        seeds = [torch.ones_like(y).detach() for y in active]
        if not active:
            return list(leaves.values()), [None] * len(leaves)
        grads = torch.autograd.grad(active, list(leaves.values()), seeds, create_graph=create_graph, allow_unused=True)
    return list(leaves.values()), grads


def _remade(call: Call, make: Callable[[Tensor], Tensor]) -> Call:
    """The call with new values of the same sizes (those of the traced example), and without the operation's result."""

    def new(_: int, a: Any) -> Any:
        return make(a) if isinstance(a, Tensor) else hint(a) if isinstance(a, torch.SymInt) else a

    return replace(call.map(new), value=None)


def _abstract(a: Tensor) -> Tensor:
    return torch.empty([hint(s) for s in a.shape], dtype=a.dtype, device=a.device)


def _numbers(a: Tensor) -> Tensor:
    """Normal numbers, in double precision; zeros for indices, which any table has."""
    shape = [hint(s) for s in a.shape]
    if a.is_complex():
        return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.complex128)
    if a.is_floating_point():
        return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.zeros(shape, dtype=a.dtype)
