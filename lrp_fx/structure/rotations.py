"""Rotations: products with position that turn the features of each token.

A rotation keeps lengths: its numbers are of one modulus. What weighs tokens against each other (the decay of a
recurrence, the spectrum of a long convolution) is a product with position, and no rotation; nor is a turn that a
recurrence sums up and takes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from lrp_fx.analysis.provenance import CONTENT
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.operators import has, is_matrix_product
from lrp_fx.ir.sizes import hint
from lrp_fx.rewrite.application import Application, Rewritten
from lrp_fx.structure.planes import NotFollowed, Planes, find_planes, followed
from lrp_fx.structure.scores import softmax_after

Use = tuple[fx.Node, Application]


@dataclass(frozen=True)
class Rotation:
    """The terms of one rotation, each a position leaf with the product it enters; ``planes``: None where they are not
    followed.
    """

    uses: tuple[Use, ...]
    variant: str
    planes: Planes | None


def find_rotations(rewritten: Rewritten, uses: list[Use]) -> list[Rotation]:
    """Products with position that are joined in one sum, or that share their content, and turn it."""
    products = [u for u in uses if _turns_features(u)]
    groups: list[list[Use]] = []
    marks: list[set[fx.Node]] = []
    for use in products:
        mark = {_content_of(use), *_sums_after(rewritten, use[1].node)}
        touching = [i for i, known in enumerate(marks) if known & mark]
        for i in reversed(touching[1:]):
            groups[touching[0]] += groups.pop(i)
            marks[touching[0]] |= marks.pop(i)
        if touching:
            groups[touching[0]].append(use)
            marks[touching[0]] |= mark
        else:
            groups.append([use])
            marks.append(mark)
    known: dict[fx.Node, Any] = {}
    found = [_read(rewritten, g, known) for g in groups if len(g) > 1 or value_of(g[0][0]).is_complex()]
    return [r for r in found if r is not None]


def _turns_features(use: Use) -> bool:
    """Is it an elementwise product in which position differs by feature?"""
    leaf, application = use
    value = value_of(leaf)
    return (
        application.kind in ("product", "gate")
        and op_name(application.node) == "aten.mul"
        and value.dim() > 0
        and hint(value.shape[-1]) > 1
    )


def _content_of(use: Use) -> fx.Node:
    """The other factor, behind signs and casts."""
    leaf, application = use
    node = next((a for a in application.operands if a is not leaf), leaf)
    while _is_sign_or_cast(node) and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _is_sign_or_cast(node: fx.Node) -> bool:
    return has(node, Fact.SIGN | Fact.CAST)


def _sums_after(rewritten: Rewritten, product: fx.Node) -> set[fx.Node]:
    """Sums that the product is a term of, behind signs, casts and scales."""
    found: set[fx.Node] = set()
    stack = [product]
    while stack:
        for user in stack.pop().users:
            application = rewritten.applications.get(user)
            if has(user, Fact.SUM):
                found.add(user)
            elif _is_sign_or_cast(user) or (
                application is not None and application.kind == "linear" and has(user, Fact.SCALING)
            ):
                stack.append(user)
    return found


def _read(rewritten: Rewritten, group: list[Use], known: dict[fx.Node, Any]) -> Rotation | None:
    """The rotation that products are the terms of; None where they are no rotation. ``known``: values of leaves."""
    if value_of(group[0][0]).is_complex():
        turns = all(_turns(rewritten, [use], known) for use in group)
        return Rotation(tuple(group), "complex", None) if turns else None
    sums = {id(u): _sums_after(rewritten, u[1].node) for u in group}
    joined = [
        [u for u in group if s in sums[id(u)]] for s in dict.fromkeys(s for found in sums.values() for s in found)
    ]
    if not all(_turns(rewritten, terms, known) for terms in joined or [group]):
        return None
    terms = [[(u[1].node, _content_of(u)) for u in sum_] for sum_ in joined]
    planes = find_planes(rewritten.program, [u[1].node for u in group], terms)
    return Rotation(tuple(group), planes.pairing if planes is not None else "planes unknown", planes)


def _turns(rewritten: Rewritten, uses: list[Use], known: dict[fx.Node, Any]) -> bool:
    """Do the terms of a sum keep lengths, and are no steps of a recurrence, or make a query or a key (scaled by
    distance, as well)?
    """
    products, leaves = [a.node for _, a in uses], [leaf for leaf, _ in uses]
    if any(_becomes_key(rewritten, p) for p in products):
        return True
    recurs = any(_mixed(rewritten, _content_of(u)) for u in uses) or any(_mixes(rewritten, p) for p in products)
    return not recurs and _keep_length(rewritten, leaves, known)


def _keep_length(rewritten: Rewritten, leaves: list[fx.Node], known: dict[fx.Node, Any]) -> bool:
    """Are the numbers together of one modulus? So it is taken where they depend on inputs."""
    try:
        squares = [followed(rewritten.program, leaf, known).abs().square() for leaf in leaves]
        length = sum(squares[1:], squares[0])
    except (NotFollowed, RuntimeError):
        return True
    return bool((length - length.mean()).abs().max() <= 1e-3 * length.mean())


def _becomes_key(rewritten: Rewritten, product: fx.Node) -> bool:
    """Is the product a factor of scores, behind moves and sums?"""
    stack, seen = [product], {product}
    while stack:
        for user in stack.pop().users:
            application = rewritten.applications.get(user)
            if application is None or user in seen:
                continue
            seen.add(user)
            if application.kind == "attention" or (
                is_matrix_product(user) and softmax_after(rewritten, user) is not None
            ):
                return True
            if application.kind in ("move", "sum", "route") or has(user, Fact.SCALING):
                stack.append(user)
    return False


def _mixes(rewritten: Rewritten, product: fx.Node) -> bool:
    """Are tokens brought together after the product, as a recurrence does, and by no product with content?"""
    stack, seen, found = [product], {product}, False
    while stack:
        for user in stack.pop().users:
            if user in seen or user not in rewritten.applications:
                continue
            seen.add(user)
            if _contracts_content(rewritten, user):
                return False
            if _brings_together(user):
                found = True
            elif not is_matrix_product(user):
                stack.append(user)
    return found


def _mixed(rewritten: Rewritten, content: fx.Node) -> bool:
    """Does a value come from tokens brought together so, with no weights in between?"""
    stack, seen = [content], {content}
    while stack:
        node = stack.pop()
        if _brings_together(node):
            return True
        if not is_matrix_product(node):
            new = [a for a in node.all_input_nodes if a in rewritten.applications and a not in seen]
            seen.update(new)
            stack += new
    return False


def _brings_together(node: fx.Node) -> bool:
    """Does it sum over tokens, by no weights?"""
    return has(node, Fact.CUMULATIVE | Fact.MIXER | Fact.LOOP) and not is_matrix_product(node)


def _contracts_content(rewritten: Rewritten, node: fx.Node) -> bool:
    """Is it a product of two values of content, summed along an axis?"""
    carrying = [a for a in node.all_input_nodes if CONTENT in rewritten.facts.sources.get(a, ())]
    if has(node, Fact.CONTRACTION) or rewritten.applications[node].kind == "attention":
        return len(carrying) > 1
    return len(carrying) == 2 and has(node, Fact.SCALING) and any(has(u, Fact.AVERAGE) for u in node.users)
