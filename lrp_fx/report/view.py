"""View: a result as data to draw, free of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lrp_fx.capture.arguments import role_of
from lrp_fx.errors import InputError
from lrp_fx.render.data import Bookings, Example, Most, Picture, Raster, Series, SiteRow, Tokens
from lrp_fx.report.drawn import MOST, Given, array, groups, parts_of
from lrp_fx.report.explained import Explained
from lrp_fx.report.fold import fold
from lrp_fx.report.hiding import hidden
from lrp_fx.report.ledger import CANCELLATION_LIMIT, Ledger
from lrp_fx.report.position import PositionSite
from lrp_fx.report.tokens import AGAINST_LIMIT, TOKEN_CANCELLATION_LIMIT, is_text
from lrp_fx.report.vocabulary import readable


class Result(Given, Protocol):
    """What of a `Relevance` is drawn."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def target(self) -> Explained: ...
    @property
    def ruleset(self) -> str: ...
    def per_token(self, position: str | None = ..., *, content: bool = ...) -> Tensor | dict[str, Tensor]: ...


def picture(result: Result, tokenizer: Any = None, limit: int | None = None, hide: Any = None) -> Picture:
    """The first ``limit`` examples as data; ``hide``: tokens that are not to count in the scale of colours.

    tokenizer: a Hugging Face tokenizer, a function of an id, or names by id; without one, ids are shown.
    """
    return Picture(
        str(result.target), result.ruleset, result.score.numel(), tuple(examples(result, tokenizer, limit, hide))
    )


def examples(relevance: Result, tokenizer: Any = None, limit: int | None = None, hide: Any = None) -> list[Example]:
    """Views of the first ``limit`` examples of the batch."""
    batch = relevance.score.numel()
    per_token = _position_per_token(relevance)
    out = hidden(hide, _drawn(relevance, per_token)) if hide is not None else {}
    count = batch if limit is None else min(batch, limit)
    return [_example(relevance, b, tokenizer, per_token, out) for b in range(count)]


def _drawn(relevance: Result, position: dict[str, Tensor]) -> dict[str, Tensor]:
    """What each token got of the texts that are drawn token by token, as the ledger has it if it does."""
    books = relevance.ledger.token_books.rows
    texts = {n: R for n, R in relevance.content.items() if _is_text(relevance, n)}
    if not texts and any(R.dim() == 3 and is_text(n, R, relevance.inputs) for n, R in books.items()):
        raise InputError(
            "hide=: several texts of an example are not drawn token by token\n    next: per_token(hide=...) leaves "
            "tokens of them out"
        )
    return {n: books[n] if n in books else R + position.get(n, 0) for n, R in texts.items()}


def token_names(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """Readable tokens: ``tokenizer`` is a Hugging Face tokenizer, a function of one id, a sequence or mapping by id, or
    None.
    """
    if tokenizer is None:
        return [str(i) for i in ids]
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        names = tokenizer.convert_ids_to_tokens(list(ids))
    elif isinstance(tokenizer, Mapping):
        names = [tokenizer.get(i, i) for i in ids]
    elif isinstance(tokenizer, (Sequence, np.ndarray)):
        names = [tokenizer[i] if i < len(tokenizer) else i for i in ids]
    else:
        names = [tokenizer(i) for i in ids]
    return [readable(str(n)) or f"[{i}]" for n, i in zip(names, ids, strict=True)]


def _is_text(relevance: Result, name: str) -> bool:
    value = relevance.inputs.get(name)
    return (
        value is not None
        and value.dim() == 2
        and not value.is_floating_point()
        and relevance.content[name].shape == value.shape
    )


def _position_per_token(relevance: Result) -> dict[str, Tensor]:
    """By name of each text; of none whose texts position does not tell apart."""
    names = [n for n, R in relevance.content.items() if R.dim() == 2]
    apart = [n for n in names if not _is_text(relevance, n) or len(relevance.content[n]) == relevance.score.numel()]
    if not apart or len(apart) < len(names):
        return {}
    found = relevance.per_token("signed", content=False)
    return found if isinstance(found, dict) else {names[0]: found}


def _example(relevance: Result, b: int, tokenizer: Any, position: dict[str, Tensor], out: dict[str, Tensor]) -> Example:
    result = Example(b, _bookings(relevance, b, tokenizer), relevance.target[b].title, sites=_sites(relevance, b))
    texts = [n for n in relevance.content if _is_text(relevance, n)]
    for name in relevance.content:
        if name not in texts:
            parts = parts_of(relevance, name, b)
            result.rasters.extend(p for p in parts[:MOST] if isinstance(p, Raster))
            result.series.extend(p for p in parts[:MOST] if isinstance(p, Series))
            if len(parts) > MOST:
                rest = sum(float(p.heat.sum()) for p in parts[MOST:])
                result.notes.append(f"{name}: {len(parts) - MOST} more pictures not drawn, content {rest:+.4g}")
    drawn = groups([*result.rasters, *result.series])
    for name in texts:
        result.tokens.extend(_texts(relevance, name, b, tokenizer, position.get(name), out.get(name), drawn))
    return result


def _texts(
    relevance: Result,
    name: str,
    b: int,
    tokenizer: Any,
    position: Tensor | None,
    out: Tensor | None,
    drawn: Mapping[tuple[str, int], tuple[float, float]],
) -> list[Tokens]:
    """The text of one example, or all texts where the input's first axis counts something else."""
    ids = relevance.inputs[name]
    rows = [b] if len(ids) == relevance.score.numel() else range(len(ids))
    found = []
    for row in rows:
        title = name if len(rows) == 1 else f"{name}, text {row + 1} of {len(rows)}"
        placed = torch.zeros_like(relevance.content[name][row]) if position is None else position[row]
        hatched = torch.zeros_like(ids[row], dtype=torch.bool) if out is None else out[row]
        tokens = _tokens(relevance, name, row, tokenizer, placed, hatched)
        note = "" if position is not None else "position is not told apart by text: content only"
        found.append(fold(replace(tokens, name=title, note=note), ids[row].tolist(), drawn))
    return found


def _tokens(relevance: Result, name: str, row: int, tokenizer: Any, position: Tensor, out: Tensor) -> Tokens:
    ids = relevance.inputs[name][row].tolist()
    mask = mask_of(relevance, name)
    kept = [i for i in range(len(ids)) if mask is None or bool(mask[row, i] != 0)]
    names = token_names([ids[i] for i in kept], tokenizer)
    content, placed = array(relevance.content[name][row])[kept], array(position)[kept]
    return Tokens(name, tuple(names), tuple(kept), content, placed, tuple(map(bool, out.cpu().numpy()[kept])))


def mask_of(relevance: Result, name: str) -> Tensor | None:
    """The 0/1 mask of a text: of its shape, and with the same prefix where both are named as usual (``decoder_``)."""
    shape = relevance.inputs[name].shape
    masks = {
        n: v
        for n, v in relevance.inputs.items()
        if v.shape == shape and not v.is_floating_point() and role_of(n, v) == "mask"
    }
    if name.endswith("input_ids"):
        masks = {
            n: v
            for n, v in masks.items()
            if not n.endswith("attention_mask") or n.removesuffix("attention_mask") == name.removesuffix("input_ids")
        }
    return next(iter(masks.values()), None)


def _sites(relevance: Result, b: int) -> list[SiteRow]:
    """Injections of one kind in one module count as one site (queries and keys)."""
    groups: dict[tuple[str, str, str, str], list[float]] = {}
    for site in relevance.position:
        groups.setdefault((site.module, site.source, _form(site), site.rule), []).append(float(site.total[b]))
    return [SiteRow(*place, len(totals), sum(totals)) for place, totals in groups.items()]


def _form(site: PositionSite) -> str:
    reach = "pairs of tokens" if site.is_pairwise else "per token" if site.token_axes else "whole input"
    return f"{site.kind}, {site.variant} ({reach})"


def _bookings(relevance: Result, b: int, tokenizer: Any) -> Bookings:
    ledger = relevance.ledger
    score = float(ledger.score[b])

    def row(kind: str, name: str, amounts: Tensor) -> tuple[str, str, float, float]:
        amount = float(amounts[b])
        return kind, name, amount + 0.0, amount / score + 0.0 if score else float("nan")

    rows = [row("leaf", n, t) for n, t in ledger.leaves.items()] + [row("sink", n, t) for n, t in ledger.sinks.items()]
    return Bookings(
        score,
        tuple(rows),
        float(ledger.error[b]),
        float(ledger.cancellation[b]),
        float(ledger.cancellation[b]) > CANCELLATION_LIMIT,
        _most(relevance, b, tokenizer),
    )


def _most(relevance: Result, b: int, tokenizer: Any) -> Most | None:
    """How much tokens cancel, and which of them got most."""
    token = relevance.ledger.largest_tokens[b]
    if token is None:
        return None
    given, words = relevance.inputs.get(token.input), [token.where]
    if given is not None and len(token.place) == given.dim() - 1 and not given.is_floating_point():
        words.insert(0, token_names([int(given[(b, *token.place)])], tokenizer)[0].strip())
    if len(relevance.ledger.token_books.rows) > 1:
        words.append(f"of {token.input}")
    cancellation = float(relevance.ledger.token_cancellation[b])
    against = token.against and abs(token.share) >= AGAINST_LIMIT
    return Most(cancellation, " ".join(words), token.share, cancellation > TOKEN_CANCELLATION_LIMIT, against)
