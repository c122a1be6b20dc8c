"""Steps: the relevance of each step of a text that a model wrote, all of them from one forward pass.

requires  the whole text as one call (`lrp_fx.generation.writing`)
ensures   for each step (or span of steps) the relevance of every source, as the explainer gives it for the text up to
          there; a causal model gives nothing to what comes later
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.generation.writing import Writing, written
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
    begun: Writing,
    ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
    against: Sequence[int] | None = None,
    at_once: int | None = None,
) -> tuple[list[Row], dict[str, tuple[int, ...]]]:
    """One row for each span of steps ``(first, after the last)``; and the sources: input -> the shape of its tokens,
    (T,), or () for an input that counts as one.

    ids: what follows the prompt. against: what might have followed instead; steps that have the same are rows of zeros.
    at_once: how many steps share a pass of the transpose.

    A model that reads what comes later (a prompt that is read both ways) is explained prefix by prefix.
    """
    whole = written(begun, ids)
    targets = {n: t for n, span in enumerate(spans) if (t := _target(whole, span, against)) is not None}
    if not targets:
        raise InputError("both continuations are the same: there is nothing between them to explain")
    rows: dict[int, Row] = {}
    sources: dict[str, tuple[int, ...]] = {}
    for n, relevance in _explained(explain, begun, ids, spans, targets, at_once):
        content, position = _by_source(relevance, whole)
        sources = sources or {name: tuple(R.shape) for name, R in content.items()}
        rows[n] = _row(relevance, content, position)
    nothing = _nothing(next(iter(rows.values())))
    return [rows.get(n, nothing) for n in range(len(spans))], sources


def _explained(
    explain: Explain,
    begun: Writing,
    ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
    targets: Mapping[int, Target],
    at_once: int | None,
) -> Iterator[tuple[int, Relevance]]:
    """The number of each row that is explained, and its result."""
    whole, numbers = written(begun, ids), list(targets)
    count = at_once or max(1, TOKENS_AT_ONCE // len(whole.ids))
    for first in range(0, len(numbers), count):
        some = numbers[first : first + count]
        results = explain(targets=[targets[n] for n in some], **whole.inputs)
        if first == 0 and _reads_ahead(results[0], whole, spans[some[0]]):
            for n in numbers:
                yield n, _alone(explain, begun, ids, spans[n], targets[n])
            return
        yield from zip(some, results, strict=True)


def _reads_ahead(relevance: Relevance, whole: Writing, span: tuple[int, int]) -> bool:
    """Have tokens from the last step of a row on a part in it?"""
    found = _tokens(relevance, content=True).get(whole.name)
    if found is None:
        return False
    later = found[whole.start + span[1] - 1 :]
    return bool(later.abs().sum() > _ROUNDING * found.abs().sum())


def _alone(explain: Explain, begun: Writing, ids: Sequence[int], span: tuple[int, int], target: Target) -> Relevance:
    """A step by itself, after what stands before it and nothing else."""
    if span[1] != span[0] + 1:
        raise InputError(
            "this model reads what comes later: steps cannot be summed in one pass\n    next: leave spans= out, and "
            "add the rows up"
        )
    return explain(targets=[target], **written(begun, ids[: span[0]]).inputs)[0]


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


def _by_source(relevance: Relevance, whole: Writing) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Content and position of the tokens of each text, (T,), and of every other input as a whole, (); the text that is
    written comes last.
    """
    name, content, position = whole.name, _tokens(relevance, content=True), _tokens(relevance, content=False)
    for other, R in relevance.content.items():
        if other not in content:
            books = relevance.ledger.token_books.rows.get(other)
            content[other] = R.sum()
            position[other] = books.sum() - R.sum() if books is not None else torch.zeros_like(R.sum())
    if name not in content:
        raise InputError(f"{name} gets no relevance by token: what is written cannot be told step by step")
    for part in (content, position):  # of a prefix
        part[name] = torch.nn.functional.pad(part[name], (0, len(whole.ids) - len(part[name])))
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
    inputs = ledger.token_books.inputs
    rows = {n: (R + position[n])[: inputs[n].shape[1]].unsqueeze(0) for n, R in content.items() if R.dim() == 1}
    inputs = {n: inputs[n] for n in rows}
    books = replace(ledger.token_books, content=rows, position=(), inputs=inputs, axes={})
    return changed(replace(ledger, token_books=books), lambda tensor, axis: compact(tensor, axis).cpu())
