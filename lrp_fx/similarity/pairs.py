"""Pairs: which tokens of two inputs make their embeddings alike.

A similarity ``s = sum_d f_d(x) g_d(y)`` is a product of two explained quantities for each dimension d. With the books
of both, ``f_d = sum_i R_i(f_d) + sum of rests`` and ``g_d = sum_j R_j(g_d) + sum of rests``, it is

    s = sum_ij [ sum_d R_i(f_d) R_j(g_d) ] + what of x's tokens meets y's rests + the other way round + rests by rests

as BiLRP has it (Eberle et al. 2020): two passes, one for each input, with all dimensions as targets of one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrp_fx.errors import InputError, holding_warnings, warn_user
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.program import MASK_ROLE
from lrp_fx.report.ledger import CANCELLATION_LIMIT
from lrp_fx.report.pieces import tokens_of
from lrp_fx.report.relevance import Relevance
from lrp_fx.runtime.explainer import Explainer
from lrp_fx.similarity.result import Pairs

MEASURES = ("dot", "cosine")
BESIDE = "beside tokens"
#: In warnings about the picture of one dimension, of which nobody makes a picture.
_OF_PICTURES = ("picture", "shares of it", "largest_tokens")

Pool = Callable[[Tensor], Tensor]
POOLS: dict[str, Pool] = {
    "mean": lambda rows: rows.mean(1),
    "first": lambda rows: rows[:, 0],
    "last": lambda rows: rows[:, -1],
}


def pairs(
    explainer: Explainer,
    x: Any,
    y: Any,
    *,
    other: Explainer | None = None,
    pool: str | Pool = "mean",
    measure: str = "dot",
    at_once: int = 32,
) -> Pairs:
    """Which pairs of tokens make two inputs alike (BiLRP, Eberle et al. 2020).

    explainer: of a model whose explained output is an embedding, (1, d), or one for each token, (1, T, d).
    x, y: two inputs, each what a call takes first (a text), or a dictionary of arguments; one example, unpadded.
    other: the explainer of y, where another model embeds it.
    pool: what makes one embedding of (1, T, d): ``mean``, ``first``, ``last``, or a function (1, T, d) -> (1, d). An
        output (1, d) is its own.
    measure: ``dot``: the product of both embeddings; ``cosine``: of these divided by their norms, which count as
        constants.
    at_once: how many dimensions share a pass of the transpose (more take more memory).

    Raises `InputError` for several examples, padding, embeddings of different sizes, and what is none.
    """
    if measure not in MEASURES:
        raise InputError(f"measure={measure!r}; there are {', '.join(MEASURES)}")
    strange = next((e for e in (explainer, other) if e is not None and not isinstance(e, Explainer)), None)
    if strange is not None:
        raise InputError(f"pairs() takes explainers, got a {type(strange).__name__}\n    next: lrp_fx.convert(model)")
    if isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1:
        raise InputError(f"at_once={at_once!r}: give how many dimensions share a pass, at least one")
    a = _side(explainer, x, _pool(pool), at_once, "x")
    b = _side(other or explainer, y, _pool(pool), at_once, "y")
    if len(a.embedding) != len(b.embedding):
        raise InputError(
            f"the embedding of x has {len(a.embedding)} dimensions, that of y {len(b.embedding)}"
            "\n    next: compare what is projected into one space"
        )
    norms = float(a.embedding.norm() * b.embedding.norm()) if measure == "cosine" else 1.0
    if norms == 0.0:
        raise InputError('an embedding is zero: it has no direction\n    next: measure="dot"')
    found = _met(a, b, measure, norms, explainer.ruleset.name)
    if found.cancellation > CANCELLATION_LIMIT:
        warn_user(
            f"the pairs cancel: they got {found.cancellation:.1f} times the similarity of {found.similarity:+.4g} in "
            "absolute amounts; read them with care (Pairs.cancellation)"
        )
    return found


@dataclass(frozen=True)
class _Side:
    """One input: ``tokens`` (n,) names; ``relevance`` (d, n) of tokens; ``rests``: name -> (d,); ``embedding`` (d,)."""

    tokens: tuple[str, ...]
    relevance: Tensor
    rests: dict[str, Tensor]
    embedding: Tensor


def _met(a: _Side, b: _Side, measure: str, norms: float, ruleset: str) -> Pairs:
    """Both sides multiplied, dimension by dimension."""
    return Pairs(
        similarity=float(a.embedding @ b.embedding) / norms,
        measure=measure,
        x=a.tokens,
        y=b.tokens,
        matrix=a.relevance.T @ b.relevance / norms,
        x_alone={n: a.relevance.T @ rest / norms for n, rest in b.rests.items()},
        y_alone={n: b.relevance.T @ rest / norms for n, rest in a.rests.items()},
        beside={(n, m): float(r @ s) / norms for n, r in a.rests.items() for m, s in b.rests.items()},
        embeddings=(a.embedding, b.embedding),
        ruleset=ruleset,
    )


def _side(explainer: Explainer, given: Any, pool: Pool, at_once: int, which: str) -> _Side:
    """All dimensions of one input's embedding explained."""
    args, inputs = ((), dict(given)) if isinstance(given, Mapping) else ((given,), {})
    with holding_warnings() as held:
        results = list(_explained(explainer, args, inputs, pool, at_once, which))
    for message, category in dict.fromkeys(held):
        if not any(about in message for about in _OF_PICTURES):
            warn_user(message, category)
    amounts = torch.stack([_amounts(r) for r in results])
    scores = torch.stack([r.score[0].double().cpu() for r in results])
    rests = [_rests(r, float(scores[d] - amounts[d].sum())) for d, r in enumerate(results)]
    names = dict.fromkeys(n for rest in rests for n in rest)
    columns = {n: torch.tensor([rest.get(n, 0.0) for rest in rests], dtype=torch.float64) for n in names}
    return _Side(_names(results[0]), amounts, columns, scores)


def _explained(
    explainer: Explainer, args: tuple[Any, ...], inputs: dict[str, Any], pool: Pool, at_once: int, which: str
) -> Iterator[Relevance]:
    """The result of each dimension, in order. The first tells how many there are."""
    first = explainer(*args, targets=[_dimension(pool, 0)], **inputs)[0]
    _require_one(explainer, first, which)
    yield first
    size = int(value_of(explainer.rewritten.program.explained_node).shape[-1])
    for start in range(1, size, at_once):
        targets = [_dimension(pool, d) for d in range(start, min(start + at_once, size))]
        yield from explainer(*args, targets=targets, **inputs)


def _dimension(pool: Pool, number: int) -> Callable[[Tensor], Tensor]:
    """One number of the embedding. Which one is an input of the graph, so that all share it."""
    index = torch.tensor([number])

    def dimension(output: Tensor) -> Tensor:
        embedding = output if output.dim() == 2 else pool(output)
        return embedding.index_select(-1, index.to(output.device)).squeeze(-1)

    return dimension


def _require_one(explainer: Explainer, relevance: Relevance, which: str) -> None:
    if len(relevance) != 1:
        raise InputError(
            f"{which} is {len(relevance)} examples: pairs are of the tokens of one\n    next: call it for each pair"
        )
    for known in explainer.rewritten.program.inputs:
        mask = relevance.inputs.get(known.name)
        if known.role == MASK_ROLE and mask is not None and bool((mask == 0).any()) and bool((mask != 0).any()):
            raise InputError(
                f"{which} is padded ({known.name}): its embedding would count padding\n    next: cut it off"
            )


def _pool(given: str | Pool) -> Pool:
    if callable(given):
        return given
    if given not in POOLS:
        raise InputError(f"pool={given!r}; there are {', '.join(POOLS)}, or a function (1, T, d) -> (1, d)")
    return POOLS[given]


def _amounts(relevance: Relevance) -> Tensor:
    """(n,): what each token got, content and position, of all inputs that have tokens."""
    rows = [R[0].flatten().double().cpu() for R in relevance.ledger.token_books.rows.values()]
    if not rows:
        raise InputError("no input of this result has tokens\n    next: explain inputs of ids, vectors or images")
    return torch.cat(rows)


def _names(relevance: Relevance) -> tuple[str, ...]:
    """What the tokens are called, in the same order."""
    known = {(p.input, p.start): p.text for p in tokens_of(relevance)[0]}
    rows = relevance.ledger.token_books.rows
    return tuple(known.get((name, t), f"#{t}") for name, R in rows.items() for t in range(R[0].numel()))


def _rests(relevance: Relevance, left: float) -> dict[str, float]:
    """What of one dimension is no token's: the sinks and the leaves without tokens by name, and what is left of it."""
    ledger = relevance.ledger
    own = [n for n in ledger.leaves if n.split(":")[0] in ("content", "position")]
    found = {n: float(t[0]) for n, t in ledger.leaves.items() if n not in own}
    found |= {n: float(t[0]) for n, t in ledger.sinks.items()}
    return {**found, BESIDE: left - sum(found.values())}
