"""Operators: what is known of ATen's operations, as data."""

from __future__ import annotations

from typing import Any

from torch import fx

#: Maps by weights: how many axes of the result follow the one that the bias runs along.
WEIGHTED = {"aten.linear": 0, "aten.conv1d": 1, "aten.conv2d": 2, "aten.conv3d": 3}
MOVES = frozenset(
    "aten.reshape aten.permute aten.transpose aten.t aten.expand aten.expand_as aten.unsqueeze aten.squeeze "
    "aten._to_copy aten.clone aten.repeat "
    "aten.repeat_interleave aten.view_as_real aten.view_as_complex aten.flatten aten.unflatten".split()
)
REDUCTIONS = frozenset(
    "aten.mean aten.sum aten.amax aten.amin aten.max aten.min aten.var aten.std aten.var_mean aten.linalg_vector_norm "
    "aten.norm aten.logsumexp "
    "aten.matmul aten.bmm aten.mm aten.dot aten.cumsum aten.prod aten.avg_pool1d aten.avg_pool2d".split()
)
SCALINGS = frozenset("aten.mul aten.div aten.neg".split())
MATRIX = frozenset(
    "aten.linear aten.addmm aten.conv1d aten.conv2d aten.conv3d aten.convolution aten.matmul aten.mm aten.bmm "
    "aten.baddbmm".split()
)


def argument(node: fx.Node, name: str, default: Any = None) -> Any:
    """An argument of a call by the name that the operation's schema gives it, however it was written.

    Positional, by keyword, or left to its default; ``default`` where the operation has no argument of that name.
    """
    if name in node.kwargs:
        return node.kwargs[name]
    for place, declared in enumerate(declared_arguments(node.target)):
        if declared.name == name:
            given = place < len(node.args)
            return node.args[place] if given else declared.default_value if declared.has_default_value() else default
    return default


def declared_arguments(target: Any) -> list[Any]:
    """The arguments of an operation as its schema declares them; none for what has no schema."""
    schema = getattr(target, "_schema", None)
    return list(schema.arguments) if schema is not None else []
