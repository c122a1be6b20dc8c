"""Routing: selection by value, by index or by mask. The choice is frozen, what was chosen passes unchanged.

Concatenation and masked assembly belong here too: parts that carry no relevance are booked in the sink ``bias``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lrp_fx.rule import Call, Rule, constant_part, covers, draw, register, sample, sink

aten = torch.ops.aten


def _run(call: Call) -> Any:
    return call.run()


def _assemble(call: Call) -> Tensor:
    y: Tensor = call.run()
    if not _has_constants(call):
        return y
    constant = constant_part(call)
    return (y - constant.masked_fill(constant.isinf(), 0.0)).masked_fill(constant.isinf(), 0.0) + sink(
        "bias", constant, y
    )


def _has_constants(call: Call) -> bool:
    """Is there a part that carries nothing and is not zero? Fills with -inf or the lowest number only mask, unless
    something is made of them (``fills_count``).
    """
    count = call.facts.get("fills_count", False)
    lowest = -float("inf") if count else torch.finfo(torch.float16).min
    masks = frozenset() if count else call.masks
    tensors = (
        a for i, a in enumerate(call.flat()) if i not in call.carriers and i not in masks and isinstance(a, Tensor)
    )
    return any(a.is_floating_point() for a in tensors) or any(
        a != 0 and a > lowest and a != float("inf") for a in _fills(call)
    )


def _fills(call: Call) -> list[float]:
    """Numbers that the operation writes into its result (whole numbers too; dimensions and sizes are none)."""
    parameters = call.op._schema.arguments  # type: ignore[attr-defined]
    given = [(p, call.args[i] if i < len(call.args) else call.kwargs.get(p.name)) for i, p in enumerate(parameters)]
    return [
        float(a)
        for p, a in given
        if p.name != "alpha" and str(p.type) in ("number", "float", "Optional[float]") and isinstance(a, (int, float))
    ]


def _winner_takes_all(call: Call, R_y: Tensor) -> list[Tensor]:
    """Each result gives its relevance to the element(s) it was chosen from, ties in equal parts."""
    (x,) = call.operands()
    dim = call.args[1][0] if isinstance(call.args[1], (list, tuple)) else call.args[1]
    y = call.run()
    y = y[0] if isinstance(y, tuple) else y
    if y.dim() < x.dim():
        y, R_y = y.unsqueeze(dim), R_y.unsqueeze(dim)
    chosen = (x == y).to(x.dtype)
    return [chosen / chosen.sum(dim, keepdim=True) * R_y]


def _chosen(call: Call, R_y: Tensor) -> list[Tensor]:
    """Each element gets the relevance of the places it was put at; where values were added, in proportion."""
    y, empty, results = call.run(), constant_part(call), []
    for position in sorted(call.carriers):
        x = call.operand(position)
        nothing = {i: torch.zeros_like(call.operand(i)) for i in call.carriers}
        alone = [v.reshape(x.shape) for v in torch.diag(x.flatten())]
        put = [call.put(nothing | {position: v}).run() - empty for v in alone]
        R_x = torch.stack([torch.where(p.nan_to_num() == 0, 0.0, p / y * R_y).sum() for p in put])
        results.append(R_x.reshape(x.shape))
    return results


def _reduce_samples() -> list[Call]:
    x = torch.tensor([[1.0, -2.0, 0.5, 4.0], [0.5, 3.0, -1.0, 2.0]], dtype=torch.float64)
    return [sample(aten.amax.default, x, [1], True), sample(aten.amin.default, x, [0], True)]


def _joining_samples() -> list[Call]:
    x, z, w, square, image = draw(3, 4), draw(3, 4, seed=1), draw(4, seed=2), draw(3, 3, seed=3), draw(1, 2, 5, seed=4)
    part, columns, places = draw(3, 2, seed=5), torch.tensor([2, 0]), torch.tensor([[3], [0], [2]])
    mask = torch.tensor([True, False, True, False])
    return [
        *(sample(aten.cat.default, [x, z], 1, carriers=c) for c in ((0,), (0, 1))),
        sample(aten.cat.default, [z, x], carriers=(1,)),
        *(sample(aten.stack.default, [x, z], 1, carriers=c) for c in ((0,), (0, 1))),
        sample(aten.hstack.default, [x, z]),
        sample(aten.where.self, mask, x, z, carriers=(1, 2)),
        sample(aten.where.ScalarOther, mask, x, 2, carriers=(1,)),
        sample(aten.masked_fill.Tensor, x, mask, torch.tensor(2.0, dtype=torch.float64)),
        *(sample(aten.masked_scatter.default, x, mask.expand(3, 4), z, carriers=(c,)) for c in (0, 2)),
        sample(aten.index_put.default, x, [None, columns], part),
        sample(aten.index_put.default, x, [None, columns], part, True),
        sample(aten.scatter.src, x, 1, places, z),
        sample(aten.scatter.value, x, 1, places, 2),
        *(sample(aten.scatter_add.default, x, 1, places, z[:, :1], carriers=(c,)) for c in (0, 3)),
        *(sample(aten.slice_scatter.default, x, part, 1, 1, 3, carriers=(c,)) for c in (0, 1)),
        sample(aten.select_scatter.default, x, w, 0, 1),
        sample(aten.diagonal_scatter.default, square, w[:3]),
        sample(aten.index_add.default, x, 1, columns, part),
        sample(aten.index_add.default, x, 1, columns, part, carriers=(3,), alpha=0.5),
        sample(aten.index_copy.default, x, 1, columns, part),
        sample(aten.index_fill.int_Scalar, x, 1, columns, 2),
        sample(aten.constant_pad_nd.default, x, [1, 2], 3.0),
        sample(aten.constant_pad_nd.default, x, [1, 2]),
        sample(aten.pad.default, x, [1, 2], "constant", 2.0),
        sample(aten.pad.default, image, [1, 1], "reflect"),
    ]


def _assembly_samples() -> list[Call]:
    x = torch.tensor([[1.0, -2.0, 0.0, 4.0], [0.5, 3.0, -1.0, 2.0]], dtype=torch.float64)
    mask = torch.tensor([True, False, False, True])
    other = torch.full((2, 4), 0.25, dtype=torch.float64)
    return [
        sample(aten.masked_fill.Scalar, x, mask, 0.0),
        sample(aten.masked_fill.Scalar, x, mask, float("-inf")),
        sample(aten.masked_fill.Scalar, x, mask, 2.5),
        sample(aten.masked_fill.Scalar, x, mask, 1),
        sample(aten.where.self, mask, x, other, carriers=(1,)),
        sample(aten.where.self, mask, other, x, carriers=(2,)),
        sample(aten.masked_fill.Scalar, x, mask, -3e38, facts={"fills_count": True}),
        replace(
            sample(aten.cat.default, [x, mask.expand(2, 4).double()], 1, facts={"fills_count": True}),
            masks=frozenset({1}),
        ),
    ]


register(
    Rule(
        name="route.winner",
        kind="route",
        law="y = x[choice], for an operation found to choose among its values (max, top-k, sort, pooling); the choice "
        "is frozen",
        cites=("bach2015", "montavon2019"),
        ops=("*",),
        surrogate=_run,
        reference=_winner_takes_all,
        samples=_reduce_samples,
    ),
    Rule(
        name="route.assemble",
        kind="route",
        law="y = where(mask, x, other): each place takes what was put there; parts that carry nothing go to the sink",
        cites=("bach2015",),
        ops=covers(
            "aten",
            "cat stack where masked_fill masked_scatter index_put scatter scatter_add slice_scatter select_scatter "
            "index_add index_copy constant_pad_nd pad diagonal_scatter index_fill hstack",
        ),
        surrogate=_assemble,
        sinks=("bias",),
        reference=_chosen,
        samples=lambda: [*_assembly_samples(), *_joining_samples()],
    ),
)
