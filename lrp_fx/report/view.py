"""View: a result as data to draw, free of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lrp_fx.capture.arguments import role_of
from lrp_fx.errors import InputError
from lrp_fx.render.data import Array, Bookings, Example, Most, Picture, Raster, Series, SiteRow, Tokens
from lrp_fx.report.explained import Explained
from lrp_fx.report.hiding import hidden
from lrp_fx.report.ledger import CANCELLATION_LIMIT, Ledger
from lrp_fx.report.patches import patch_grid, pool, position_map
from lrp_fx.report.position import PositionSite
from lrp_fx.report.tokens import AGAINST_LIMIT, TOKEN_CANCELLATION_LIMIT, is_text


class Result(Protocol):
    """What of a `Relevance` is drawn."""

    @property
    def score(self) -> Tensor: ...
    @property
    def content(self) -> dict[str, Tensor]: ...
    @property
    def position(self) -> list[PositionSite]: ...
    @property
    def inputs(self) -> dict[str, Tensor]: ...
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
    return {n: books[n] if n in books else R + position[n] for n, R in texts.items()}


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
    return [_readable(str(n), i) for n, i in zip(names, ids, strict=True)]


def _readable(name: str, index: int) -> str:
    """Spaces and line breaks as sentence-piece, byte-level and byte-fallback vocabularies write them."""
    for mark, text in (("▁", " "), ("Ġ", " "), ("Ċ", "⏎"), ("<0x0A>", "⏎"), ("\n", "⏎"), ("\t", "⇥")):
        name = name.replace(mark, text)
    return name if name else f"[{index}]"


def _array(x: Tensor) -> Array:
    return x.detach().to("cpu", torch.float64).numpy()


def _is_text(relevance: Result, name: str) -> bool:
    value = relevance.inputs.get(name)
    return (
        value is not None
        and value.dim() == 2
        and not value.is_floating_point()
        and relevance.content[name].shape == value.shape
    )


def _position_per_token(relevance: Result) -> dict[str, Tensor]:
    names = [n for n, R in relevance.content.items() if R.dim() == 2]
    if not names:
        return {}
    found = relevance.per_token("signed", content=False)
    return found if isinstance(found, dict) else {names[0]: found}


def _example(relevance: Result, b: int, tokenizer: Any, position: dict[str, Tensor], out: dict[str, Tensor]) -> Example:
    result = Example(b, _bookings(relevance, b, tokenizer), sites=_sites(relevance, b))
    for name, R in relevance.content.items():
        if _is_text(relevance, name):
            result.tokens.append(_tokens(relevance, name, b, tokenizer, position[name], out.get(name)))
        elif R.dim() in (3, 4):
            result.rasters.append(_raster(relevance, name, b))
        else:
            value = relevance.inputs.get(name)
            shown = value[b] if value is not None and value.shape == R.shape else torch.zeros_like(R[b])
            result.series.append(Series(name, _array(shown).ravel(), _array(R[b]).ravel()))
    return result


def _tokens(relevance: Result, name: str, b: int, tokenizer: Any, position: Tensor, out: Tensor | None) -> Tokens:
    ids = relevance.inputs[name][b].tolist()
    mask = _mask_of(relevance, name)
    kept = [i for i in range(len(ids)) if mask is None or bool(mask[b, i] != 0)]
    names = token_names([ids[i] for i in kept], tokenizer)
    content, placed = _array(relevance.content[name][b])[kept], _array(position[b])[kept]
    left_out = np.zeros(len(kept), bool) if out is None else out[b].cpu().numpy()[kept]
    return Tokens(name, tuple(names), tuple(kept), content, placed, tuple(map(bool, left_out)))


def _mask_of(relevance: Result, name: str) -> Tensor | None:
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


def _raster(relevance: Result, name: str, b: int) -> Raster:
    heat = _array(relevance.content[name][b])
    value = relevance.inputs.get(name)
    picture = (
        _array(value[b]) if value is not None and value.shape == relevance.content[name].shape else np.zeros_like(heat)
    )
    if heat.ndim == 2:  # features by time, as spectrograms and embedded inputs are
        return Raster(name, heat, _rgb(picture[None]))
    heat = heat.sum(0)
    grid, prefix = _patch_grid(relevance, heat.shape, b)
    return Raster(name, heat, _rgb(picture), grid, prefix)


def _rgb(picture: Array) -> Array:
    """(C, H, W) of any range as (H, W, 3) in 0..1; grey unless there are three channels."""
    if picture.shape[0] != 3:
        picture = np.repeat(picture.mean(0, keepdims=True), 3, axis=0)
    low, high = float(picture.min(initial=0.0)), float(picture.max(initial=0.0))
    result: Array = ((picture - low) / ((high - low) or 1.0)).transpose(1, 2, 0)
    return result


def _patch_grid(relevance: Result, size: tuple[int, ...], b: int) -> tuple[Array | None, int]:
    """Position relevance by patch, where position runs over a grid of patches; and how many leading tokens are no
    patches.
    """
    pixels, grid = position_map(relevance.position, size, "signed")
    if pixels is None or grid is None:
        return None, 0
    found = (patch_grid(R.shape[1], size) for site in relevance.position if (R := site.per_token()) is not None)
    prefix = next(f[0] for f in found if f is not None and f[1:] == grid)
    return _array(pool(pixels, grid)[min(b, len(pixels) - 1)]), prefix


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
