"""Injections: the places where position meets content, whatever way the model does it.

requires  a rewritten program in which position is a carrier
ensures   one `Injection` for each vector (or matrix of scores) that receives position: sine and cosine of one rotation
          belong to one injection, queries and keys to two; found by dataflow, in graph order
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from lrp_fx.analysis.provenance import PARAMETER, POSITION
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import ancestors, is_float, op_name
from lrp_fx.ir.operators import axes_of, has, is_matrix_product
from lrp_fx.ir.sizes import shape_of
from lrp_fx.ir.source import module_path, source_line
from lrp_fx.rewrite.application import Application, Rewritten
from lrp_fx.structure.planes import Planes
from lrp_fx.structure.rotations import Use, find_rotations
from lrp_fx.structure.scores import becomes_scores, softmax_after
from lrp_fx.structure.streams import ResidualStream
from lrp_fx.structure.windows import Windows, find_windows

ABSOLUTE, ROTARY, SCALE, BIAS = "absolute", "rotary", "scale", "bias"
DISENTANGLED, KERNEL = "disentangled", "kernel"


@dataclass(frozen=True)
class Injection:
    """Position meeting content at one place.

    ``kind``: absolute (added to tokens), rotary, scale (of tokens), kernel (weights of tokens), bias (between pairs),
    disentangled (rows of a table in a matrix product) or other. ``uses``: the leaves, each with the application it
    enters. ``planes``: the rotation planes of each use, None where features are not rotated. ``pairs``: for rows of a
    table, the scores (..., queries, keys) that the product becomes, and the share of their relevance that is the
    table's. ``windows``: the tokens of each window, where attention runs inside windows.
    """

    kind: str
    variant: str
    layer: int | None
    uses: tuple[tuple[fx.Node, Application], ...]
    planes: Planes | None = None
    pairs: tuple[fx.Node, float] | None = None
    windows: Windows | None = None

    @property
    def name(self) -> str:
        return self.uses[0][1].node.name

    @property
    def module(self) -> str:
        return module_path(self.uses[0][1].node)

    @property
    def source(self) -> str:
        return source_line(self.uses[0][1].node)

    @property
    def rule(self) -> str:
        return self.uses[0][1].rule.name


def find_injections(rewritten: Rewritten, streams: list[ResidualStream], layers: dict[fx.Node, int]) -> list[Injection]:
    """All injections of a program, in graph order."""
    positions = {n for n, kind in rewritten.leaves.items() if kind == POSITION}
    uses = [
        (leaf, a) for a in rewritten.applications.values() for leaf in dict.fromkeys(a.operands) if leaf in positions
    ]
    rotations = find_rotations(rewritten, uses)
    turned = {id(use) for rotation in rotations for use in rotation.uses}
    result = [Injection(ROTARY, r.variant, layers.get(r.uses[0][1].node), r.uses, r.planes) for r in rotations]
    result += [_single(rewritten, use, streams, layers) for use in uses if id(use) not in turned]
    order = {n.name: i for i, n in enumerate(rewritten.program.graph.nodes)}
    return sorted(result, key=lambda i: order[i.name])


# ------------------------------------------------------------------------------------------------ the others
def _single(rewritten: Rewritten, use: Use, streams: list[ResidualStream], layers: dict[fx.Node, int]) -> Injection:
    leaf, application = use
    kind = _kind(rewritten, leaf, application)
    describe = {
        ABSOLUTE: _absolute_variant,
        BIAS: _bias_variant,
        DISENTANGLED: _table_variant,
        SCALE: lambda *_: "temperature",
    }
    variant = describe[kind](rewritten, leaf) if kind in describe else f"in {application.kind}"
    pairs = _pairs(rewritten, leaf, application) if kind == DISENTANGLED else None
    windows = find_windows(rewritten, streams, leaf, application) if kind == BIAS else None
    return Injection(kind, variant, layers.get(application.node), (use,), pairs=pairs, windows=windows)


def _pairs(rewritten: Rewritten, leaf: fx.Node, application: Application) -> tuple[fx.Node, float] | None:
    """The term of the scores that a product with table rows becomes, picked by distance or shifted into place."""
    node = _summed(rewritten, leaf, application) or application.node
    while True:
        users = [u for u in node.users if u in rewritten.applications]
        follows = rewritten.applications[users[0]] if len(users) == 1 else None
        moves = follows is not None and (
            follows.kind in ("move", "route") or (follows.kind == "linear" and has(users[0], Fact.SCALING))
        )
        if not moves:
            break
        node = users[0]
    softmax = softmax_after(rewritten, node)
    if (
        follows is None
        or follows.kind not in ("sum", "softmax")
        or softmax is None
        or shape_of(node)[-2:] != shape_of(softmax)[-2:]
    ):
        return None  # a term for rows or columns of patches is broadcast: none of its axes counts all keys
    flat, counts = application.flat(), application.factors
    return node, sum(n for i, n in counts.items() if flat[i] is leaf) / sum(counts.values())


def _kind(rewritten: Rewritten, leaf: fx.Node, application: Application) -> str:
    node = application.node
    if is_matrix_product(node) and application.kind == "product" and not _is_term(application):
        return DISENTANGLED
    if _summed(rewritten, leaf, application) is not None and _pairs(rewritten, leaf, application) is not None:
        return DISENTANGLED  # a product with rows, written as products that are added up
    if application.kind in ("product", "gate") and not _is_term(application):
        return KERNEL if _differs_by_feature(leaf) else SCALE
    if application.kind == "attention" or becomes_scores(rewritten, node):
        return BIAS
    return ABSOLUTE if application.kind in ("sum", "residual", "route") else "other"


def _summed(rewritten: Rewritten, leaf: fx.Node, application: Application) -> fx.Node | None:
    """The sum over features of a product, feature by feature, of content and a leaf that has all of them."""
    node = application.node
    users = [u for u in node.users if u in rewritten.applications]
    if (
        application.kind != "product"
        or not has(node, Fact.SCALING)
        or len(users) != 1
        or op_name(users[0]) != "aten.sum"
    ):
        return None
    rank, shape = len(shape_of(node)), shape_of(leaf)
    axes = [a - rank for a in axes_of(users[0], rank)]
    return users[0] if len(axes) == 1 and -axes[0] <= len(shape) and shape[axes[0]] > 1 else None


def _differs_by_feature(leaf: fx.Node) -> bool:
    shape = shape_of(leaf)
    return bool(shape) and shape[-1] > 1


def _is_term(application: Application) -> bool:
    """Does position enter a fused product-and-sum as the term that is added?"""
    return has(application.node, Fact.TERM_FIRST) and 0 in application.carriers


def _absolute_variant(rewritten: Rewritten, leaf: fx.Node) -> str:
    """Sinusoidal where sines are computed, or where every row of the table is as long as a row of sines and
    cosines is.
    """
    above = ancestors([leaf])
    if any(has(n, Fact.SINUSOID) for n in above):
        return "sinusoidal"
    tables = [
        t
        for n in above
        if n.op == "get_attr"
        and (t := getattr(rewritten.program.module, str(n.target))).is_floating_point()
        and t.dim() > 1
    ]
    return "sinusoidal" if tables and all(_is_sinusoidal(t) for t in tables) else "learned"


def _is_sinusoidal(table: torch.Tensor) -> bool:
    """``sin^2 + cos^2 = 1`` for each frequency: every row but those of padding has the squared length D/2."""
    lengths = table.detach().double().square().sum(-1).flatten()
    lengths = lengths[lengths > 0]
    return bool(lengths.numel()) and bool(((lengths / (table.shape[-1] / 2) - 1).abs() < 0.02).all())


def _bias_variant(rewritten: Rewritten, leaf: fx.Node) -> str:
    """A learned table picked by distance, a small network over distances, or fixed numbers."""
    above = [n for n in ancestors([leaf]) if is_float(n)]
    learned = {n for n in above if n.meta.get("origin") == PARAMETER}
    if not learned:
        return "fixed"
    in_matrix = any(is_matrix_product(n) and any(a in learned for a in n.all_input_nodes) for n in above)
    nonlinear = any(has(n, Fact.ACTIVATION) for n in above)
    return "network" if in_matrix and nonlinear else "learned table"


def _table_variant(rewritten: Rewritten, leaf: fx.Node) -> str:
    above = ancestors([leaf])
    buffers = [n for n in above if n.op == "get_attr" and is_float(n) and n.meta.get("origin") != PARAMETER]
    fixed = [t for n in buffers if (t := getattr(rewritten.program.module, str(n.target))).dim() > 1]
    return (
        "sinusoidal table"
        if any(has(n, Fact.SINUSOID) for n in above) or any(map(_is_sinusoidal, fixed))
        else "learned table"
    )
