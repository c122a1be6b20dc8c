"""Sources: what a value can depend on, and which tensors of a model are its weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import ancestors, is_float, op_name
from lrp_fx.ir.operators import has

CONTENT, POSITION, LEARNED, SEGMENT = "content", "position", "learned", "segment"
MASK, PARAMETER, CONSTANT = "mask", "parameter", "constant"
#: What masks are filled with is minus infinity, or as low as this.
VERY_LOW = -1e4
#: Functions that are infinite somewhere.
_POLES = frozenset(
    f"aten.{n}" for n in "log log2 log10 log1p logit atanh xlogy div true_divide reciprocal rsqrt pow tan".split()
)
#: Sources that can carry relevance; the others are coefficients, routing or constants.
LEAF_KINDS = (CONTENT, POSITION, LEARNED, SEGMENT)
#: Sources of what depends on no input.
FIXED = frozenset({PARAMETER, CONSTANT})


def source_of_tensor(tensor: Tensor, origin: str) -> str:
    """What a tensor that a model holds is: ``parameter`` for a weight, however it is held.

    Weights are held as parameters, buffers, plain attributes, integers with a scale, indices into a code book. No
    weight, but ``constant``, is what chooses (truth values), what fills a mask, and one number everywhere.
    """
    if origin == PARAMETER or tensor.layout is not torch.strided:  # a mask or a fill is not sparse
        return PARAMETER
    if tensor.dtype == torch.bool or is_one_number(tensor):
        return CONSTANT
    fills = tensor.is_floating_point() and bool(_extremes(tensor)[0] <= VERY_LOW)
    return CONSTANT if fills else PARAMETER


def is_one_number(tensor: Tensor) -> bool:
    """Does the tensor hold the same number everywhere?"""
    if not tensor.numel() or tensor.is_complex() or tensor.dtype == torch.bool:
        return not tensor.numel() or bool((tensor == tensor.flatten()[0]).all())
    low, high = _extremes(tensor)
    return bool(low == high)


def _extremes(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest element, without a copy of a large weight (but for types of one byte that have none)."""
    low, high = (tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor).aminmax()
    return low, high


def is_very_low(value: object) -> bool:
    """Is it minus infinity, or as low as masks are filled with?"""
    if isinstance(value, fx.Node):
        return any(_is_low_number(a) for node in ancestors([value]) for a in node.args)
    return _is_low_number(value)


def may_be_infinite(value: fx.Node) -> bool:
    """May it be minus infinity: computed by a function that has a pole, filled with it, or held beside the parameters,
    which are checked to be finite? (Asked of what depends on no input.)
    """
    through = [n for n in ancestors([value], until=lambda n: not is_float(n)) if is_float(n)]
    return any(
        op_name(n) in _POLES
        or (n.op == "get_attr" and n.meta.get("origin") != PARAMETER)
        or (has(n, Fact.CHOICE | Fact.FILL) and -math.inf in n.args)
        for n in through
    )


def _is_low_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value <= VERY_LOW
