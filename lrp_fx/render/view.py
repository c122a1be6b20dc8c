"""What there is to draw: one `Example` per row of the batch, free of tensors, shared by all three outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrp_fx.patches import patch_grid, pool, position_map
from lrp_fx.position import PositionSite
from lrp_fx.relevance import Relevance
from lrp_fx.roles import role_of

Array = np.ndarray[Any, np.dtype[np.float64]]

#: Share of values inside the colour scale of images: single extreme pixels must not fade the rest.
_QUANTILE = 0.995


@dataclass(frozen=True)
class Tokens:
    """One text: ``total = content + position`` for each token; padded tokens are left out, ``index`` tells where they were."""

    name: str
    text: tuple[str, ...]
    index: tuple[int, ...]
    content: Array
    position: Array

    @property
    def total(self) -> Array:
        result: Array = self.content + self.position
        return result


@dataclass(frozen=True)
class Raster:
    """A floating input drawn as a picture: ``heat`` (H, W), ``image`` (H, W, 3) in 0..1, ``position`` (rows, columns of patches) or None."""

    name: str
    heat: Array
    image: Array
    position: Array | None = None
    prefix: int = 0


@dataclass(frozen=True)
class Series:
    """A waveform or one number per step: ``value`` and ``heat``, (T,)."""

    name: str
    value: Array
    heat: Array


@dataclass(frozen=True)
class SiteRow:
    """Position relevance of the injections at one place: what they are, how many, and their sum."""

    module: str
    source: str
    shape: str
    rule: str
    count: int
    total: float


@dataclass(frozen=True)
class Bookings:
    """One example's ledger: ``rows`` of (kind, name, amount, share of the score), and the two figures of trust."""

    score: float
    rows: tuple[tuple[str, str, float, float], ...]
    error: float
    cancellation: float


@dataclass(frozen=True)
class Example:
    """Everything drawn for one row of the batch."""

    number: int
    bookings: Bookings
    tokens: list[Tokens] = field(default_factory=list)
    rasters: list[Raster] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    sites: list[SiteRow] = field(default_factory=list)

    @property
    def parts(self) -> list[Tokens | Raster | Series]:
        """All inputs of this example: texts, then pictures, then waveforms."""
        return [*self.tokens, *self.rasters, *self.series]


def examples(relevance: Relevance, tokenizer: Any = None, limit: int | None = None) -> list[Example]:
    """Views of the first ``limit`` examples of the batch."""
    batch = relevance.score.numel()
    per_token = _position_per_token(relevance)
    return [_example(relevance, b, tokenizer, per_token) for b in range(batch if limit is None else min(batch, limit))]


def scale(*values: Array, quantile: float = 1.0) -> float:
    """The magnitude drawn in full colour (never zero)."""
    magnitudes = np.concatenate([np.abs(v).ravel() for v in values]) if values else np.zeros(0)
    magnitudes = magnitudes[np.isfinite(magnitudes)]
    top = float(np.quantile(magnitudes, quantile)) if magnitudes.size else 0.0
    return top or float(magnitudes.max(initial=0.0)) or 1.0


def image_scale(values: Array) -> float:
    """The same for pictures of many pixels."""
    return scale(values, quantile=_QUANTILE)


def colour(x: float) -> tuple[int, int, int]:
    """Red for +1, white for 0, blue for -1: a diverging pair that colour-blind readers tell apart."""
    x = 0.0 if math.isnan(x) else max(-1.0, min(1.0, x))
    r, g, b = (178, 24, 43) if x > 0 else (33, 102, 172)
    t = abs(x) ** 0.8  # small relevances stay visible
    return round(255 + (r - 255) * t), round(255 + (g - 255) * t), round(255 + (b - 255) * t)


def ink(background: tuple[int, int, int]) -> str:
    """Black or white, whichever contrasts more with the background."""
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#ffffff"


def token_names(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """Readable tokens: ``tokenizer`` is a Hugging Face tokenizer, a function of one id, a sequence or mapping by id, or None."""
    if tokenizer is None:
        return [str(i) for i in ids]
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        names = tokenizer.convert_ids_to_tokens(list(ids))
    elif isinstance(tokenizer, (Mapping, Sequence, np.ndarray)):
        names = [tokenizer[i] if isinstance(tokenizer, Mapping) or i < len(tokenizer) else i for i in ids]
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


def _is_text(relevance: Relevance, name: str) -> bool:
    value = relevance.inputs.get(name)
    return value is not None and value.dim() == 2 and not value.is_floating_point() and relevance.content[name].shape == value.shape


def _position_per_token(relevance: Relevance) -> dict[str, Tensor]:
    names = [n for n, R in relevance.content.items() if R.dim() == 2]
    if not names:
        return {}
    found = relevance.per_token("signed", content=False)
    return found if isinstance(found, dict) else {names[0]: found}


def _example(relevance: Relevance, b: int, tokenizer: Any, position: dict[str, Tensor]) -> Example:
    result = Example(b, _bookings(relevance, b), sites=_sites(relevance, b))
    for name, R in relevance.content.items():
        if _is_text(relevance, name):
            result.tokens.append(_tokens(relevance, name, b, tokenizer, position[name]))
        elif R.dim() in (3, 4):
            result.rasters.append(_raster(relevance, name, b))
        else:
            value = relevance.inputs.get(name)
            shown = value[b] if value is not None and value.shape == R.shape else torch.zeros_like(R[b])
            result.series.append(Series(name, _array(shown).ravel(), _array(R[b]).ravel()))
    return result


def _tokens(relevance: Relevance, name: str, b: int, tokenizer: Any, position: Tensor) -> Tokens:
    ids = relevance.inputs[name][b].tolist()
    mask = _mask_of(relevance, name)
    kept = [i for i in range(len(ids)) if mask is None or bool(mask[b, i] != 0)]
    names = token_names([ids[i] for i in kept], tokenizer)
    return Tokens(name, tuple(names), tuple(kept), _array(relevance.content[name][b])[kept], _array(position[b])[kept])


def _mask_of(relevance: Relevance, name: str) -> Tensor | None:
    """The 0/1 mask of a text: of its shape, and with the same prefix where both are named as usual (``decoder_``)."""
    shape = relevance.inputs[name].shape
    masks = {n: v for n, v in relevance.inputs.items() if v.shape == shape and not v.is_floating_point() and role_of(n, v) == "mask"}
    if name.endswith("input_ids"):
        masks = {n: v for n, v in masks.items() if not n.endswith("attention_mask") or n.removesuffix("attention_mask") == name.removesuffix("input_ids")}
    return next(iter(masks.values()), None)


def _raster(relevance: Relevance, name: str, b: int) -> Raster:
    heat = _array(relevance.content[name][b])
    value = relevance.inputs.get(name)
    picture = _array(value[b]) if value is not None and value.shape == relevance.content[name].shape else np.zeros_like(heat)
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


def _patch_grid(relevance: Relevance, size: tuple[int, ...], b: int) -> tuple[Array | None, int]:
    """Position relevance by patch, where position runs over a grid of patches; and how many leading tokens are no patches."""
    pixels, grid = position_map(relevance.position, size, "signed")
    if pixels is None or grid is None:
        return None, 0
    found = (patch_grid(R.shape[1], size) for site in relevance.position if (R := site.per_token()) is not None)
    prefix = next(f[0] for f in found if f is not None and f[1:] == grid)
    return _array(pool(pixels, grid)[min(b, len(pixels) - 1)]), prefix


def _sites(relevance: Relevance, b: int) -> list[SiteRow]:
    """Injections of one kind in one module count as one site (queries and keys)."""
    groups: dict[tuple[str, str, str, str], list[float]] = {}
    for site in relevance.position:
        groups.setdefault((site.module, site.source, _form(site), site.rule), []).append(float(site.total[b]))
    return [SiteRow(*place, len(totals), sum(totals)) for place, totals in groups.items()]


def _form(site: PositionSite) -> str:
    reach = "pairs of tokens" if site.is_pairwise else "per token" if site.token_axes else "whole input"
    return f"{site.kind}, {site.variant} ({reach})"


def _bookings(relevance: Relevance, b: int) -> Bookings:
    ledger = relevance.ledger
    score = float(ledger.score[b])

    def row(kind: str, name: str, amounts: Tensor) -> tuple[str, str, float, float]:
        amount = float(amounts[b])
        return kind, name, amount + 0.0, amount / score + 0.0 if score else float("nan")

    rows = [row("leaf", n, t) for n, t in ledger.leaves.items()] + [row("sink", n, t) for n, t in ledger.sinks.items()]
    return Bookings(score, tuple(rows), float(ledger.error[b]), float(ledger.cancellation[b]))
