"""Whatever the table of operators says, rows that are pulled or pushed through an operation are the rows of its result.

Every sample of every row of the table, every axis as that of the rows, every other one as that of the examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from lrp_fx.canonicalize.explicit import make_explicit
from lrp_fx.optimize.pull_rows import Puller
from lrp_fx.optimize.push_operations import pushed
from lrp_fx.optimize.push_rows import Pusher
from lrp_fx.optimize.rows import KeptRows, RowRead
from tests.test_operators import ROWS, Sample, call_of, evaluate, samples_of

aten = torch.ops.aten


def running(name: str) -> Iterator[tuple[Sample, fx.Node]]:
    """The samples of an operation that run."""
    for sample in samples_of(name):
        try:
            yield sample, call_of(*sample)
        except (RuntimeError, TypeError, NotImplementedError):
            continue  # an overload that does not take these types


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_explicit_arguments_mean_the_same(row: Any) -> None:
    for _, node in running(row.name):
        before = node.meta["val"]
        make_explicit(node.graph, node)
        after = evaluate(node, {})
        for a, b in zip(*(v if isinstance(v, (tuple, list)) else [v] for v in (before, after)), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


# ------------------------------------------------------------------------------------------------ rows that are read
def reads(graph: fx.Graph, shape: torch.Size) -> Iterator[RowRead]:
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        yield RowRead(axis, size - 2, None)
        yield RowRead(axis, -1, None)
        for batch, examples in enumerate(shape):
            if batch != axis:
                place = graph.placeholder("place")
                place.meta["val"] = (torch.arange(examples) * 2 + 1) % size
                yield RowRead(axis, place, batch)


def read_rows(sample: Sample, number: int) -> tuple[bool, Tensor, Tensor] | None:
    """(was it pulled, the rows that are read, what the graph computes for them) of one way to read rows."""
    node = call_of(*sample)
    graph = node.graph
    with graph.inserting_before(node):
        asked = dict(enumerate(reads(graph, node.meta["val"].shape))).get(number)
    if asked is None:
        return None
    puller = Puller(graph, nullcontext())
    rows = puller.rows(node, asked)
    expected = rows.meta["val"]
    output = graph.output((rows,))
    puller.run()
    found: Any = output.args[0]
    return node not in graph.nodes, expected, found[0].meta["val"]


PULLED = {
    *"matmul mm bmm addmm baddbmm linear layer_norm softmax mul add tanh where permute transpose unsqueeze".split(),
    *"reshape cat stack slice sum mean logsumexp embedding masked_fill addcmul".split(),
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_pulled_rows_are_the_rows(row: Any) -> None:
    pulled = 0
    for sample, whole in running(row.name):
        number = 0
        if not isinstance(whole.meta["val"], Tensor):
            continue
        while (read := read_rows(sample, number)) is not None:
            was_pulled, expected, found = read
            assert expected.shape == found.shape, (sample[0], number)
            assert torch.allclose(expected, found, rtol=1e-12, equal_nan=True), (sample[0], number)
            number, pulled = number + 1, pulled + was_pulled
    assert pulled or row.name.removeprefix("aten.") not in PULLED


# ------------------------------------------------------------------------------------------------ rows that are kept
def kept_rows(sample: Sample, operand: int, axis: int, batch: int) -> tuple[fx.Node, Pusher]:
    """A call whose operand is zero but for one row of each example, and what carries its rows."""
    target, args, kwargs = sample
    size, examples = args[operand].shape[axis], args[operand].shape[batch]
    place = (torch.arange(examples) * 2 + 1) % size
    index = place.reshape([-1 if a == batch else 1 for a in range(args[operand].dim())])
    index = index.expand([1 if a == axis else n for a, n in enumerate(args[operand].shape)])
    kept = args[operand].gather(axis, index)
    zero_but_rows = torch.zeros_like(args[operand]).scatter(axis, index, kept)
    node = call_of(target, tuple(zero_but_rows if i == operand else a for i, a in enumerate(args)), kwargs)
    with node.graph.inserting_before(node):
        nodes = [node.graph.placeholder(name) for name in ("kept", "place")]
    nodes[0].meta["val"], nodes[1].meta["val"] = kept, place
    node.graph.output((node,))
    pusher = Pusher(node.graph, nullcontext(), 0)
    given: Any = node.args[operand]
    pusher.rows[given] = KeptRows(nodes[0], nodes[1], size, batch, axis)
    return node, pusher


def pushed_rows(node: fx.Node, pusher: Pusher) -> Tensor | None:
    """What the rows that come out say of the whole; None where they are not carried."""
    handler = pushed(node)
    with node.graph.inserting_before(node):
        found = handler(pusher, node, next(iter(pusher.rows.values()))) if handler is not None else None
        if isinstance(found, KeptRows):
            pusher.rows[node] = found
            found = pusher._scattered(node)
    return found.meta["val"] if isinstance(found, fx.Node) else None


PUSHED = "mul neg matmul permute transpose unsqueeze reshape sum expand slice div".split()


def operands(sample: Sample) -> Iterator[tuple[int, int, int]]:
    """(operand, axis of rows, axis of examples), each that there may be."""
    for operand, value in enumerate(sample[1]):
        if isinstance(value, Tensor) and value.is_floating_point():
            for axis in range(value.dim()):
                for batch in range(value.dim()):
                    if axis != batch and value.shape[axis] > 1:
                        yield operand, axis, batch


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_pushed_rows_are_the_rows(row: Any) -> None:
    carried = 0
    for sample, _ in running(row.name):
        for place in operands(sample):
            node, pusher = kept_rows(sample, *place)
            found = pushed_rows(node, pusher)
            if found is not None:
                assert torch.allclose(found, node.meta["val"], rtol=1e-12, equal_nan=True), (sample[0], place)
                carried += 1
    assert carried or row.name.removeprefix("aten.") not in PUSHED
