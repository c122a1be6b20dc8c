"""Decode: the outputs of a relevance graph, read by its signature into leaves, injections, streams and the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lrp_fx.analysis.provenance import CACHED, CONTENT, LEARNED, POSITION
from lrp_fx.errors import warn_user
from lrp_fx.report.activation import Activation, Activations
from lrp_fx.report.cautions import cautions, instead
from lrp_fx.report.explained import Explained
from lrp_fx.report.ledger import UNEXPLAINED_LIMIT, DepthBooks, Ledger, SiteBalance, rounding_floor
from lrp_fx.report.position import PositionSite
from lrp_fx.report.relevance import Relevance, Stream
from lrp_fx.report.tokens import DOUBTS, TokenBooks, doubts
from lrp_fx.structure.forms import Form
from lrp_fx.transpose.signature import GraphSignature, InjectionInfo, Leaf, PlaceInfo


@dataclass(frozen=True)
class Statement:
    """What one run booked where."""

    content: dict[str, Tensor]
    position: list[PositionSite]
    learned: dict[str, Tensor]
    segment: dict[str, Tensor]
    cached: dict[str, Tensor]
    streams: list[Stream]
    ledger: Ledger
    forms: dict[str, Form]
    apart: tuple[str, ...]
    at: Activations


@dataclass(frozen=True)
class _Values:
    """The outputs by role: ``leaves`` as (relevance, total, magnitude), the others in the signature's order."""

    score: Tensor
    leaves: list[tuple[Leaf, Tensor, Tensor, Tensor]]
    sinks: list[Tensor]
    depths: list[Tensor]
    passing: list[Tensor]
    pairs: dict[str, Tensor]
    inside: list[Tensor]
    stops: list[Tensor]
    table: Tensor | None


def settle(
    statement: Statement,
    *,
    checked: Statement,
    conserve: str,
    score: Tensor,
    output: Any,
    read: Callable[[], Tensor | None],
    inputs: dict[str, Tensor],
    target: Explained,
    ruleset: str,
    said: set[str],
) -> Relevance:
    """The result of one run; raises `ConservationError` where its books do not close and ``conserve`` demands it.

    What to know before a picture is believed is said of results to look at, not of those that carry gradients: they
    stand in a loss, step after step.

    checked: the same numbers, of which autograd follows none: whoever looks at the books leaves no trace in it.
    read: (B,), the absolute amounts that the score reads of the outputs, None where that is not known.
    said: what an explainer has warned of that it says once.
    """
    near = conserve != "off" and checked.ledger.check(read)
    if not score.requires_grad:
        _warn(checked.ledger, target, said, near=near)
    parts = {f.name: getattr(statement, f.name) for f in fields(statement)}
    return Relevance(score=score, output=output, inputs=inputs, target=target, ruleset=ruleset, **parts)


def _warn(books: Ledger, target: Explained, said: set[str], *, near: bool) -> None:
    """Say what is doubtful; ``near``: do the books close within what the outputs are rounded only?"""
    if near:
        _warn_of_rounding(books)
    for caution in cautions(books, target):
        warn_user(caution)
    for kind, text in doubts(books.token_books, instead(target)) if DOUBTS - said else ():
        if kind not in said:
            said.add(kind)
            warn_user(text)


def _warn_of_rounding(ledger: Ledger) -> None:
    """Say so where a score is so small a difference that a hundredth of it is rounding."""
    lost = (ledger.score - ledger.total).abs() / ledger.score.abs().clamp_min(torch.finfo(ledger.score.dtype).tiny)
    if bool((lost > UNEXPLAINED_LIMIT).any()):
        warn_user(
            f"{float(lost.max()):.1%} of the score of example {int(lost.argmax())} is rounding: it is a small "
            "difference of large outputs; a model in a finer type (model.double()) tells it better"
        )


def read_statement(signature: GraphSignature, flat: tuple[Any, ...], bound: dict[str, Any]) -> Statement:
    """Read the flat outputs of a relevance graph; ``bound``: the inputs."""
    values = _values(signature, flat)
    content: dict[str, Tensor] = {}
    learned: dict[str, Tensor] = {}
    segment: dict[str, Tensor] = {}
    cached: dict[str, Tensor] = {}
    for leaf, R, _, _ in values.leaves:
        if leaf.kind in (CONTENT, CACHED):
            _add_content(content if leaf.kind == CONTENT else cached, leaf, R, bound)
        elif leaf.kind != POSITION:
            (learned if leaf.kind == LEARNED else segment)[leaf.name] = R
    used = {(leaf.name, leaf.user): (leaf, R) for leaf, R, _, _ in values.leaves if leaf.kind == POSITION}
    position = [_position(i, used, values, bound) for i in signature.injections if any(u in used for u in i.uses)]
    forms = {form.input: form for form in signature.forms}
    axes = {leaf.inputs[0]: _axis(leaf, forms) for leaf, *_ in values.leaves if _is_vectors(leaf)}
    books = TokenBooks(content, position, bound, axes, _score(values))
    ledger = _ledger(signature, values, books)
    streams = _streams(signature, values, position)
    at = _activations(signature, values, position)
    apart = tuple(_content_key(leaf) for leaf, *_ in values.leaves if leaf.kind == CONTENT and leaf.apart)
    return Statement(content, position, learned, segment, cached, streams, ledger, forms, apart, at)


def _activations(signature: GraphSignature, values: _Values, position: list[PositionSite]) -> Activations:
    """The places that were asked for; coefficients that are one number for a value are as large as it."""
    found, given = {}, iter(values.inside)
    for info in signature.inside:
        value, c = next(given), next(given)
        rest = (info.axes, info.kind, info.node, info.module, info.source, info.layer)
        shape = torch.broadcast_shapes(value.shape, c.shape)  # type: ignore[no-untyped-call]
        value, c = value.expand(shape), c.expand(shape)
        rotated = next(given) if info.rotated else None
        pairs = _of_position(info, rotated, position, value) if info.sites is not None else None
        found[info.name] = Activation(info.name, value, c, *rest, position=pairs)
    return Activations(found)


def _of_position(info: PlaceInfo, rotated: Tensor | None, position: list[PositionSite], like: Tensor) -> Tensor:
    """What each pair of a query and a key gave to position: by rotation, and by what is added to pairs."""
    found = torch.zeros_like(like) if rotated is None else rotated.expand_as(like)
    for site in position:
        if site.name in (info.sites or ()):
            parts = [site.paired] if site.paired is not None else list(site.parts.values())
            for part in parts:
                found = found + part.expand_as(like)
    return found


def _is_vectors(leaf: Leaf) -> bool:
    """Content given as a row of numbers for each token."""
    return leaf.kind == CONTENT and len(leaf.inputs) == 1 and leaf.token_axes in ((1,), (2,))


def _axis(leaf: Leaf, forms: dict[str, Form]) -> int:
    """The axis of time, as the model reads it where that is known."""
    form = forms.get(leaf.inputs[0])
    return leaf.token_axes[0] if form is None or form.time is None else form.time


def _score(values: _Values) -> Tensor:
    return values.score.to(torch.float64 if values.score.dtype == torch.float64 else torch.float32)


def _values(signature: GraphSignature, flat: tuple[Any, ...]) -> _Values:
    rest = list(flat[signature.outputs + 1 :])

    def take(count: int) -> list[Tensor]:
        taken, rest[:] = rest[:count], rest[count:]
        return taken

    leaves = [(leaf, *take(3)) for leaf in signature.leaves]
    sinks, depths, passing = take(len(signature.sinks)), take(len(signature.depths)), take(signature.passing)
    pairs = dict(zip(signature.pairs, take(len(signature.pairs)), strict=True))
    inside, stops = take(signature.read_inside), take(signature.stops)
    table = rest[0] if signature.sites else None
    return _Values(flat[signature.outputs], leaves, sinks, depths, passing, pairs, inside, stops, table)  # type: ignore[arg-type]


def _add_content(content: dict[str, Tensor], leaf: Leaf, R: Tensor, bound: dict[str, Any]) -> None:
    name = leaf.inputs[0] if leaf.inputs else leaf.name
    fits = not leaf.apart and name in bound and isinstance(bound[name], Tensor) and R.shape == bound[name].shape
    key = name if fits else _content_key(leaf)
    content[key] = content[key] + R if key in content else R


def _content_key(leaf: Leaf) -> str:
    """The name of content that is not laid out as its input is."""
    return f"{leaf.inputs[0] if leaf.inputs else leaf.name}:{leaf.name}"


def _position(
    info: InjectionInfo,
    used: dict[tuple[str, str | None], tuple[Leaf, Tensor]],
    values: _Values,
    bound: dict[str, Any],
) -> PositionSite:
    uses = [(use, planes) for use, planes in zip(info.uses, info.planes, strict=True) if use in used]
    leaves = [used[use][0] for use, _ in uses]
    parts = {f"{leaf.name}:{leaf.user}": used[use][1] for leaf, (use, _) in zip(leaves, uses, strict=True)}
    paired = values.pairs[info.pairs.name] if info.pairs is not None else None
    axes, windows, owners = leaves[0].token_axes, leaves[0].windows, leaves[0].owners
    if windows is not None and owners[0] is not None and bound[owners[0][0]].shape[-1] != windows.count:
        axes, windows, owners = (), None, ()  # of a text of another length its rows may be of other tokens
    owners = owners if info.pairs is None else info.pairs.owners
    return PositionSite(
        name=info.uses[0][1],
        kind=info.kind,
        variant=info.variant,
        layer=info.layer,
        module=info.module,
        source=info.source,
        rule=info.rule,
        parts=parts,
        token_axes=axes if paired is None else (paired.dim() - 2, paired.dim() - 1),
        owners=tuple(o[0] if o is not None else None for o in owners),
        starts=tuple(o[1] if o is not None else 0 for o in owners),
        planes=tuple(planes for _, planes in uses),
        score=values.score,
        paired=paired,
        windows=info.windows or windows,
        grid=leaves[0].grid and paired is None,
    )


def _streams(signature: GraphSignature, values: _Values, position: list[PositionSite]) -> list[Stream]:
    """Stack the depths of each stream."""
    result = []
    for number in dict.fromkeys(d.stream for d in signature.depths):
        found = [(d, R) for d, R in zip(signature.depths, values.depths, strict=True) if d.stream == number]
        # a stream that pools its tokens has rows for them up to there
        found = [(d, R) for d, R in found if R.shape == found[0][1].shape]
        rows = torch.stack([R for _, R in found])
        above = []
        for depth, _ in found:
            names = {f"{signature.leaves[i].name}:{signature.leaves[i].user}" for i in depth.leaves}
            above.append(frozenset(i for i, site in enumerate(position) if names & set(site.parts)))
        result.append(
            Stream(rows, tuple(d.name for d, _ in found), found[-1][0].module, found[0][0].owner, tuple(above))
        )
    return result


def _ledger(signature: GraphSignature, values: _Values, tokens: TokenBooks) -> Ledger:
    dtype, score = signature.dtype, tokens.score
    totals = _stack([t for _, _, t, _ in values.leaves], score)
    sunk = _stack(values.sinks, score)
    leaves = {
        kind: totals[numbers].sum(0) for kind, numbers in _numbers([leaf.kind for leaf, *_ in values.leaves]).items()
    }
    sinks = {name: sunk[numbers].sum(0) for name, numbers in _numbers([name for name, _ in signature.sinks]).items()}
    by_site = [
        (name, site.name, site.module, total) for (name, site), total in zip(signature.sinks, values.sinks, strict=True)
    ]
    magnitude = _stack([m for *_, m in values.leaves], score).sum(0) + sunk.abs().sum(0)
    rows = values.table.tolist() if values.table is not None else []
    floor = rounding_floor(dtype) * float(magnitude.detach().sum()) if rows else 0.0
    books = zip(signature.sites, rows, strict=True) if rows else ()
    balances = [
        SiteBalance(i.name, i.rule, i.module, i.source, row[0], row[1], row[2], max(row[3], floor)) for i, row in books
    ]
    depths = DepthBooks(signature.depths, values.depths, totals, sunk, _stack(values.passing, score))
    return Ledger(score, leaves, sinks, by_site, balances, magnitude, dtype, depths, tokens)


def _stack(totals: list[Tensor], score: Tensor) -> Tensor:
    """(n, B). Where an operation hid which axis is the batch, each example has an equal part of a total (the ledger
    shows it does not close).
    """
    if not totals:
        return score.new_zeros(0, score.numel())
    return torch.stack([t if t.shape == score.shape else (t.sum() / score.numel()).expand_as(score) for t in totals])


def _numbers(names: list[str]) -> dict[str, list[int]]:
    """Name -> the places where it stands."""
    return {name: [i for i, n in enumerate(names) if n == name] for name in dict.fromkeys(names)}
