"""Functions written out: ``1 / (1 + exp(-x))`` is a sigmoid, ``log(1 + exp(x))`` a softplus.

A value that depends on each element of one other value alone, through numbers only, is a function of one variable. It
is evaluated on a few points and compared with the functions that have a name: no sequence of operations is matched.
Values are not recomputed: the function found only says how relevance passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.analysis.dataflow import Dataflow
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import is_float, op_name
from lrp_fx.ir.operators import has, operand_of, run_call
from lrp_fx.recognize.context import Context, Recogniser
from lrp_fx.recognize.meaning import Meaning, Nearness, Refusal, nearest

aten = torch.ops.aten
_LONGEST = 16
_NAMED: dict[str, Any] = {
    "sigmoid": aten.sigmoid.default,
    "tanh": aten.tanh.default,
    "softplus": aten.softplus.default,
    "log_sigmoid": aten.log_sigmoid.default,
}


def named_function(context: Context, node: fx.Node) -> Meaning | Refusal:
    """The named function of one variable that a node ends."""
    flow = context.flow
    if not has(node, Fact.FUNCTION_END):
        return Refusal(f"{op_name(node)} does not end a function written out", Nearness.OPERATION)
    refusals = [Refusal("it is no function of one value through pointwise operations and numbers", Nearness.OPERANDS)]
    for source, region in _variables(flow, node):
        if not any(has(n, Fact.CURVED) for n in region):
            why = f"of %{source.name} it is made of sums, products and powers"
            refusals.append(Refusal(why, Nearness.PATTERN))
        elif (name := _named(region, source, node)) is None:
            why = f"a function of %{source.name} alone, but none of {', '.join(_NAMED)}"
            refusals.append(Refusal(why, Nearness.CONDITION))
        elif source not in context.carrying:
            return Refusal(f"{name} of %{source.name}, whose relevance was frozen above", Nearness.CONDITION)
        else:
            why = f"{name} of %{source.name}, written out"
            return Meaning("elementwise", (source,), why, _NAMED[name], (source,))
    return nearest(refusals)


def _named(region: list[fx.Node], source: fx.Node, node: fx.Node) -> str | None:
    """The function whose values a region has on a few points."""
    points = torch.linspace(-5.0, 5.3, 24, dtype=torch.float64)
    values = _evaluate(region, source, node, points)
    if values is None:
        return None
    same = (name for name, f in _NAMED.items() if torch.allclose(values, f(points), rtol=1e-9, atol=1e-12))
    return next(same, None)


def _variables(flow: Dataflow, node: fx.Node) -> list[tuple[fx.Node, list[fx.Node]]]:
    """Values that the node is a function of, element by element, each with the operations in between (in reverse
    order).
    """
    order = flow.order if _is_step(flow, node) else {}
    region: list[fx.Node] = []
    frontier = {node}
    found = []
    while order and len(region) < _LONGEST:
        last = max(frontier, key=order.__getitem__)
        if len(frontier) == 1 and region:
            found.append((last, list(region)))
        if not _is_step(flow, last):
            break
        frontier.remove(last)
        region.append(last)
        frontier.update(flow.operands(last))
    return found


def _is_step(flow: Dataflow, node: fx.Node) -> bool:
    """Pointwise, of carrying values and numbers only?"""
    others = [a for a in node.all_input_nodes if not flow.carries(a)]
    return (
        not flow.is_leaf(node)
        and bool(flow.operands(node))
        and not others
        and flow.is_pointwise(node)
        and is_float(node)
    )


def _evaluate(region: list[fx.Node], source: fx.Node, result: fx.Node, points: Tensor) -> Tensor | None:
    values = {source: points}
    for node in reversed(region):
        if has(node, Fact.MOVE):  # a cast
            values[node] = values[operand_of(node)]
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
        values[node] = run_call(node, *args, **kwargs)
    value = values[result]
    return value if bool(value.isfinite().all()) else None


NAMED_FUNCTION = Recogniser(
    "named function",
    "sigmoid, tanh, softplus, log-sigmoid written out: one function of one value",
    ("elementwise",),
    named_function,
    before=("renormalised softmax",),
)
