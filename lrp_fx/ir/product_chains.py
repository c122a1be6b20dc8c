"""Chains of products: the factors of a product whose own factors are products that nothing else reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import fx


def is_inner(node: fx.Node, is_link: Callable[[fx.Node], bool]) -> bool:
    """Is a link of a chain read by another link alone?"""
    return len(node.users) == 1 and is_link(next(iter(node.users)))


def chain_places(product: fx.Node, is_link: Callable[[fx.Node], bool]) -> Iterator[tuple[fx.Node, fx.Node]]:
    """(product, factor) for every factor of the chain that ends in ``product``; ``is_link``: is it a product of two?"""
    for operand in product.args[:2]:
        if isinstance(operand, fx.Node):
            inner = is_link(operand) and len(operand.users) == 1
            yield from chain_places(operand, is_link) if inner else ((product, operand),)
