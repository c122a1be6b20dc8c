"""Heads: which rows and columns of a model's parameters belong to which head of an attention.

Asked of the flow of data: a feature of a map belongs to the heads whose result has a derivative by it, and a feature
that a map reads to the head that it changes with. Both are found by running the operations between the map and the
attention on drawn values, whatever these are: rotations, norms, gates, one map for queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, fx

from lrp_fx.errors import raise_if_out_of_memory, warn_user
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.layout import BATCH, FEATURE, SEGMENTED, TOKEN, Layout
from lrp_fx.ir.operators import has
from lrp_fx.ir.sizes import shape_of
from lrp_fx.ir.source import module_path
from lrp_fx.rewrite.application import Rewritten
from lrp_fx.structure.divisions import HEAD, Division
from lrp_fx.structure.drawn import run
from lrp_fx.structure.heads import find_attention
from lrp_fx.structure.parameters import made_of_parameters

#: Types of axes that are no features.
_ROWS = (BATCH, TOKEN, SEGMENTED)
#: How far from a whole number rounding may take one.
_WHOLE = 1e-3


@dataclass(frozen=True)
class _Attention:
    """``result``: what it gives, with the head of every element, (of the result's shape), and how many there are."""

    site: str
    result: fx.Node
    head: Tensor
    count: int


def find_heads(rewritten: Rewritten) -> tuple[Division, ...]:
    """What belongs to the heads of every attention; parameters are attributes of the program."""
    finder = _Finder(rewritten)
    found: list[Division] = []
    for attention in _attentions(rewritten):
        try:
            found += [*finder.read_by(attention), *finder.reading(attention)]
        except Exception as error:  # an operation that takes no drawn values, it may be
            raise_if_out_of_memory(error)
            reason = next(iter(str(error).splitlines()), "")
            warn_user(
                f"which parameters belong to which head of {attention.site} is not known: it could not be run on drawn "
                f"values ({type(error).__name__}: {reason})"
            )
    return tuple(found)


def _attentions(rewritten: Rewritten) -> Iterator[_Attention]:
    results = [attention.weighted for attention in find_attention(rewritten)]
    modules = [module_path(result) for result in results]
    for result, module in zip(results, modules, strict=True):
        heads = _heads(rewritten.facts.layout.get(result), shape_of(result))
        if heads is not None:
            name = module if modules.count(module) == 1 and module else f"{module}:{result.name}"
            yield _Attention(name, result, *heads)


def _heads(layout: Layout | None, shape: tuple[int, ...]) -> tuple[Tensor, int] | None:
    """The head of every element of an attention's result, and the number of heads: features in front of the last two
    axes (they may be merged with the batch); None where it is not known what these axes are.
    """
    if layout is None or len(layout) != len(shape):
        return None
    head, count = torch.zeros(shape, dtype=torch.int64), 1
    for axis, factors in enumerate(layout[:-2]):
        sizes = [size for _, size in factors]
        if prod(sizes) != shape[axis]:
            return None
        for number, (kind, size) in enumerate(factors):
            if kind == FEATURE:
                own = torch.arange(shape[axis]) // prod(sizes[number + 1 :]) % size
                head = head * size + own.reshape([-1 if a == axis else 1 for a in range(len(shape))])
                count *= size
            elif kind not in _ROWS:
                return None
    return head, count


class _Finder:
    def __init__(self, rewritten: Rewritten) -> None:
        self.rewritten, self.applications = rewritten, rewritten.applications
        self.made = made_of_parameters(rewritten)
        self.labels: dict[tuple[fx.Node, fx.Node | None], list[tuple[str, int, Tensor]]] = {}

    def is_map(self, node: fx.Node) -> bool:
        """A matrix product with parameters."""
        application = self.applications.get(node)
        if application is None or not has(node, Fact.MAP | Fact.CONTRACTION):
            return False
        return any(a in self.made for a in node.all_input_nodes if a not in application.operands)

    # ------------------------------------------------------------------------------------------------ its operands
    def read_by(self, attention: _Attention) -> Iterator[Division]:
        """Rows of the maps that make queries, keys and values."""
        maps, region, stack = dict[fx.Node, Tensor](), set[fx.Node](), [attention.result]
        while stack:
            node = stack.pop()
            if self.is_map(node):
                maps.setdefault(node, torch.zeros(0))
            elif node in self.applications and self.applications[node].kind != "residual" and node not in region:
                region.add(node)
                stack.extend(self.applications[node].operands)
        generator = torch.Generator().manual_seed(1)
        given = {n: torch.randn(shape_of(n), generator=generator, dtype=torch.float64).requires_grad_() for n in maps}
        with torch.enable_grad():
            result = run(region, given)[attention.result]
        weights = torch.randn(result.shape, generator=generator, dtype=torch.float64)
        members: dict[fx.Node, list[Tensor]] = {n: [] for n in given}
        for number in range(attention.count):
            seed = torch.where(attention.head == number, weights, 0.0)
            grads = torch.autograd.grad(result, list(given.values()), seed, retain_graph=True, allow_unused=True)
            for (node, value), grad in zip(given.items(), grads, strict=True):
                axis = self._feature_axis(node)
                if axis is not None:
                    members[node].append(_along(torch.zeros_like(value) if grad is None else grad, axis) > 0)
        for node, rows in members.items():
            if rows:
                shares = torch.stack(rows).double()
                yield from self._divided(attention, node, None, shares / shares.sum(0).clamp_min(1))

    # ------------------------------------------------------------------------------------------------ its result
    def reading(self, attention: _Attention) -> Iterator[Division]:
        """Columns of the maps that read its result, where each feature is of one head."""
        region, maps, stack = set[fx.Node](), list[tuple[fx.Node, fx.Node]](), [attention.result]
        while stack:
            node = stack.pop()
            for user in node.users:
                application = self.applications.get(user)
                if application is None or node not in application.operands or application.kind == "residual":
                    continue
                if self.is_map(user):
                    maps.append((user, node))
                elif user not in region:
                    region.add(user)
                    stack.append(user)
        generator = torch.Generator().manual_seed(2)
        one, other = (torch.randn(attention.head.shape, generator=generator, dtype=torch.float64) for _ in range(2))
        usual = run(region, {attention.result: one})
        changed = [
            run(region, {attention.result: torch.where(attention.head == number, other, one)})
            for number in range(attention.count)
        ]
        for node, read in maps:
            axis = self._feature_axis(read)
            if axis is None:
                continue
            shares = torch.stack([_along(values[read] - usual[read], axis) > 0 for values in changed]).double()
            if bool((shares.sum(0) == 1).all()):
                yield from self._divided(attention, node, read, shares)

    # ------------------------------------------------------------------------------------------------ parameters
    def _feature_axis(self, node: fx.Node) -> int | None:
        """The axis of a value that runs over features."""
        layout, shape = self.rewritten.facts.layout.get(node), shape_of(node)
        if layout is None or len(layout) != len(shape):
            return None
        axes = [a for a, factors in enumerate(layout) if not any(kind in _ROWS for kind, _ in factors) and shape[a] > 1]
        return axes[0] if len(axes) == 1 else None

    def _divided(
        self, attention: _Attention, node: fx.Node, read: fx.Node | None, shares: Tensor
    ) -> Iterator[Division]:
        for parameter, axis, feature in self._feature_of(node, read):
            own = torch.where(feature >= 0, shares[:, feature.clamp_min(0)], 0.0)
            yield Division(HEAD, attention.site, parameter, axis, own)

    def _feature_of(self, node: fx.Node, read: fx.Node | None) -> list[tuple[str, int, Tensor]]:
        """(parameter, axis, feature at each place of it): of the map's result, or of what it reads; -1 for none.

        The derivative by a parameter of a map's result, weighted by the number of its features (or that of what it
        reads, holding the number of its features), is that number wherever the parameter has to do with it.
        """
        if (node, read) not in self.labels:
            counted = node if read is None else read
            axis = self._feature_axis(counted)
            self.labels[node, read] = [] if axis is None else list(self._labelled(node, read, axis))
        return self.labels[node, read]

    def _labelled(self, node: fx.Node, read: fx.Node | None, axis: int) -> Iterator[tuple[str, int, Tensor]]:
        application = self.applications[node]
        numbers = _numbered(shape_of(node if read is None else read), axis)
        given = {o: torch.ones(shape_of(o), dtype=torch.float64) for o in application.operands}
        if read is not None:
            given[read] = numbers
        chain, parameters = {node}, dict[fx.Node, Tensor]()
        stack = [a for a in node.all_input_nodes if a in self.made]
        while stack:
            made = stack.pop()
            if made.op == "get_attr":
                parameters[made] = torch.ones(shape_of(made), dtype=torch.float64).requires_grad_()
            elif made not in chain:
                chain.add(made)
                stack.extend(a for a in made.all_input_nodes if a in self.made)
        with torch.enable_grad():
            result = run(chain, {**given, **parameters})[node]
        own = self._feature_axis(node)
        if own is None:
            return
        seed = _first(numbers if read is None else torch.ones_like(result), own)
        grads = torch.autograd.grad(result, list(parameters.values()), seed, allow_unused=True)
        for parameter, grad in zip(parameters, grads, strict=True):
            if grad is not None and (read is None or grad.dim() > 1):  # a bias is added to results
                yield from _axes(str(parameter.target), grad)


def _along(values: Tensor, axis: int) -> Tensor:
    """The largest amount at each place of an axis."""
    return values.abs().movedim(axis, 0).flatten(1).amax(1) if values.dim() > 1 else values.abs()


def _first(values: Tensor, axis: int) -> Tensor:
    """The values at the first place of every axis but one, zero elsewhere."""
    kept = torch.zeros(values.shape, dtype=torch.bool)
    kept[tuple(slice(None) if a == axis else 0 for a in range(values.dim()))] = True
    return torch.where(kept, values, 0.0)


def _axes(parameter: str, grad: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """The axis of a parameter along which its derivative says the number of a feature, and these, from 0."""
    for axis in range(grad.dim()):
        rows = grad.movedim(axis, 0).reshape(grad.shape[axis], -1)
        numbers = rows[:, :1].round()
        known = [int(n) for n in numbers.flatten() if n > 0]
        if bool((rows - numbers).abs().max() < _WHOLE) and 1 < len(known) == len(set(known)):
            yield parameter, axis, numbers.flatten().long() - 1


def _numbered(shape: tuple[int, ...], axis: int) -> Tensor:
    """1, 2, 3, ... along an axis."""
    numbers = torch.arange(1, shape[axis] + 1, dtype=torch.float64)
    return numbers.reshape([-1 if a == axis else 1 for a in range(len(shape))]).expand(shape).contiguous()
