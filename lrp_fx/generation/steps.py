"""Steps: the relevance of each step of a text that a model wrote, all of them from one forward pass.

requires  the whole text as one call (`lrp_fx.generation.writing`)
ensures   for each step (or span of steps) the relevance of every source, as the explainer gives it for the text up to
          there; a causal model gives nothing to what comes later
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.generation.writing import Writing
from lrp_fx.report.ledger import Ledger
from lrp_fx.report.parts import changed, compact
from lrp_fx.report.relevance import Relevance
from lrp_fx.report.tokens import is_text
from lrp_fx.targets import Class, Contrast, Span, Target

#: Tokens of text that are transposed at a time: so many steps share one pass that together they have no more.
TOKENS_AT_ONCE = 8192
BESIDE = "beside tokens"
#: What is left of two sums of the same, relative to their parts.
_ROUNDING = 1e-6

Explain = Callable[..., list[Relevance]]


@dataclass(frozen=True)
class Row:
    """One row of the matrix. ``content``, ``position`` (S,): by source. ``rest``: what went to no source, by name, as a
    number; ``score`` is the sum of all. ``probability``, ``entropy``: of what was written, in its rows of the output;
    NaN where not known. ``ledger``: the books.
    """

    content: Tensor
    position: Tensor
    rest: dict[str, float]
    score: float
    probability: float
    entropy: float
    ledger: Ledger | None


def rows_of(
    explain: Explain,
    writing: Writing,
    spans: Sequence[tuple[int, int]],
    against: Sequence[int] | None = None,
    at_once: int | None = None,
) -> tuple[list[Row], dict[str, tuple[int, ...]]]:
    """One row for each span of steps ``(first, after the last)``; and the sources: input -> the shape of its tokens,
    (T,), or () for an input that counts as one.

    against: what might have been written instead, id by id; steps that have the same are rows of zeros.
    at_once: how many steps share a pass of the transpose.
    """
    targets = [_target(writing, span, against) for span in spans]
    asked = [n for n, target in enumerate(targets) if target is not None]
    count = at_once or max(1, TOKENS_AT_ONCE // len(writing.ids))
    rows: list[Row | None] = [None] * len(spans)
    sources: dict[str, tuple[int, ...]] = {}
    for first in range(0, len(asked), count):
        numbers = asked[first : first + count]
        for n, relevance in zip(numbers, explain(targets=[targets[n] for n in numbers], **writing.inputs), strict=True):
            content, position = _by_source(relevance, writing.name)
            sources = sources or {name: tuple(R.shape) for name, R in content.items()}
            rows[n] = _row(relevance, content, position)
    if not sources:
        raise InputError("both continuations are the same: there is nothing between them to explain")
    like = next(row for row in rows if row is not None)
    return [row if row is not None else _nothing(like) for row in rows], sources


def _target(writing: Writing, span: tuple[int, int], against: Sequence[int] | None) -> Target | None:
    """What a row explains; None where both continuations have the same token."""
    first, after = span
    ids, row = writing.written[first:after], writing.start - 1 + first
    if against is not None:
        other = against[first]
        return Contrast(ids[0], other, position=row) if other != ids[0] else None
    return Class(ids[0], position=row) if len(ids) == 1 else Span(ids, start=row)


def _row(relevance: Relevance, content: dict[str, Tensor], position: dict[str, Tensor]) -> Row:
    said = relevance.target
    chances = said.probabilities
    if chances is not None and said.kind == "contrast":
        chances = chances[:, :1]
    flat = [torch.cat([R.reshape(-1) for R in part.values()]) for part in (content, position)]
    return Row(
        flat[0],
        flat[1],
        _rest(relevance.ledger, float((flat[0] + flat[1]).sum())),
        float(relevance.score[0]),
        float("nan") if chances is None else float(chances[0].prod()),
        float("nan") if said.entropy is None else float(said.entropy[0]),
        _light(relevance.ledger, content, position),
    )


def _nothing(like: Row) -> Row:
    zeros = torch.zeros_like(like.content)
    return Row(zeros, zeros, {}, 0.0, float("nan"), float("nan"), None)


def _by_source(relevance: Relevance, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Content and position of the tokens of each text, (T,), and of every other input as a whole, (); the text that is
    written comes last.
    """
    content, position = _tokens(relevance, content=True), _tokens(relevance, content=False)
    for other, R in relevance.content.items():
        if other not in content:
            books = relevance.ledger.token_books.rows.get(other)
            content[other] = R.sum()
            position[other] = books.sum() - R.sum() if books is not None else torch.zeros_like(R.sum())
    if name not in content:
        raise InputError(f"{name} gets no relevance by token: what is written cannot be told step by step")
    names = [*(n for n in content if n != name), name]
    return {n: content[n] for n in names}, {n: position[n] for n in names}


def _tokens(relevance: Relevance, *, content: bool) -> dict[str, Tensor]:
    """Input -> (T,): content, or signed position."""
    found = relevance.per_token(None if content else "signed", content=content)
    texts = {n: R for n, R in relevance.content.items() if is_text(n, R, relevance.inputs)}
    rows = found if isinstance(found, dict) else {next(iter(texts)): found}
    return {n: R[0] for n, R in rows.items() if n in texts and R.dim() == 2}


def _rest(ledger: Ledger, counted: float) -> dict[str, float]:
    """What went to no source: each sink, each leaf that is no token's, and of the others what no token was told of."""
    own = {n: float(t[0]) for n, t in ledger.leaves.items() if n.split(":")[0] in ("content", "position")}
    rest = {n: float(t[0]) for n, t in ledger.leaves.items() if n not in own}
    rest |= {n: float(t[0]) for n, t in ledger.sinks.items()}
    beside = sum(own.values()) - counted
    if abs(beside) > _ROUNDING * float(ledger.magnitude[0]):
        rest[BESIDE] = beside
    return rest


def _light(ledger: Ledger, content: dict[str, Tensor], position: dict[str, Tensor]) -> Ledger:
    """The books without the tensors that they were read from: one for each step is kept."""
    rows = {n: (R + position[n]).unsqueeze(0) for n, R in content.items() if R.dim() == 1}
    inputs = {n: ledger.token_books.inputs[n] for n in rows}
    books = replace(ledger.token_books, content=rows, position=(), inputs=inputs, axes={})
    return changed(replace(ledger, token_books=books), lambda tensor, axis: compact(tensor, axis).cpu())
