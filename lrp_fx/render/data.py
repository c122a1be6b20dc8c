"""What there is to draw, free of tensors, shared by all outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
#: Share of values inside the colour scale of images: single extreme pixels must not fade the rest.
_QUANTILE = 0.995
#: How many hidden tokens are named.
_NAMED = 4


@dataclass(frozen=True)
class Tokens:
    """One text: ``total = content + position`` for each token; padded tokens are left out, ``index`` tells where they
    were. ``hidden``: tokens that are drawn hatched, and do not count in the scale of colours. ``stands_for``: column ->
    what is drawn there in the place of several tokens (an image); ``note``: what is to be said of all of them.
    """

    name: str
    text: tuple[str, ...]
    index: tuple[int, ...]
    content: Array
    position: Array
    hidden: tuple[bool, ...]
    stands_for: Mapping[int, str] = field(default_factory=dict)
    note: str = ""

    def about(self, k: int) -> str:
        """Which token a column is, or what it stands for."""
        return self.stands_for.get(k, f"token {self.index[k]}") + (", hidden" if self.hidden[k] else "")

    @property
    def total(self) -> Array:
        result: Array = self.content + self.position
        return result

    def scale(self, values: Array) -> float:
        """The magnitude of one of its rows drawn in full colour: of the tokens that are not hidden."""
        return scale(values[~np.array(self.hidden, bool)])

    @property
    def left_out(self) -> str:
        """What the hidden tokens got, and what the others add up to; empty where none is hidden."""
        gone = [(i, t, v) for i, t, v, h in zip(self.index, self.text, self.total, self.hidden, strict=True) if h]
        if not gone:
            return ""
        named = ", ".join(f"#{i} {t.strip()} {v:+.4g}" for i, t, v in gone[:_NAMED])
        more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
        amount = sum(v for *_, v in gone)
        together = f"together {amount:+.4g}, the others {self.total.sum() - amount:+.4g}"
        return f"hidden, not in the colours: {named}{more} ({together})"


@dataclass(frozen=True)
class Raster:
    """A floating input drawn as a picture: ``heat`` (H, W), ``image`` (H, W, 3) in 0..1 (of as many pixels, or of
    several for each cell of ``heat``), ``position`` (rows, columns of patches) or None.

    ``axes``: what runs upwards and to the right (``("frequency", "time")``), empty for pictures. ``input``, ``group``:
    the input that it is a part of, and of which of its images.
    """

    name: str
    heat: Array
    image: Array
    position: Array | None = None
    prefix: int = 0
    axes: tuple[str, ...] = ()
    input: str = ""
    group: int = 0

    @property
    def by_patch(self) -> bool:
        """Is a cell of heat several pixels of the image?"""
        rows, columns = self.image.shape[:2]
        return bool(self.heat.shape != (rows, columns))

    @property
    def margins(self) -> list[tuple[str, Array]]:
        """For named axes, relevance by each of them: over time (summed over frequencies), over frequency."""
        if not self.axes:
            return []
        upwards, along = self.axes
        return [(along, self.heat.sum(0)), (upwards, self.heat[::-1].sum(1))]

    def overlay(self, heat: Array, top: float) -> Array:
        """The image in faint grey with coloured ``heat`` (H, W, 3) over it, the stronger the more there is."""
        strength = np.clip(np.abs(self.heat) / top, 0, 1)[..., None] ** 0.6
        if self.by_patch:
            down, across = (self.image.shape[a] // self.heat.shape[a] for a in (0, 1))
            strength, heat = (x.repeat(down, 0).repeat(across, 1) for x in (strength, heat))
        result: Array = heat * strength + (0.35 + 0.5 * self.image) * (1 - strength)
        return result


@dataclass(frozen=True)
class Series:
    """A waveform or one number per step: ``value`` and ``heat``, (T,)."""

    name: str
    value: Array
    heat: Array
    input: str = ""
    group: int = 0


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
class Most:
    """How much tokens cancel among themselves, the name of the one that got most, its signed share of the absolute
    amounts, and what makes them doubtful: that they cancel, that this one speaks against the others."""

    cancellation: float
    token: str
    share: float
    cancels: bool
    against: bool

    @property
    def care(self) -> str:
        """What is to be said of them; empty where nothing is."""
        against = "it speaks against the others: " if self.against else ""
        return f"{against}read with care" if self.against or self.cancels else ""


@dataclass(frozen=True)
class Bookings:
    """One example's ledger: ``rows`` of (kind, name, amount, share of the score), the two figures of trust, whether
    the parts cancel so that no picture should be trusted, and the same of tokens (None where there are none)."""

    score: float
    rows: tuple[tuple[str, str, float, float], ...]
    error: float
    cancellation: float
    cancels: bool = False
    most: Most | None = None


@dataclass(frozen=True)
class Example:
    """Everything drawn for one row of the batch; ``title``: what is explained. ``notes``: what is not drawn."""

    number: int
    bookings: Bookings
    title: str = ""
    notes: list[str] = field(default_factory=list)
    tokens: list[Tokens] = field(default_factory=list)
    rasters: list[Raster] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    sites: list[SiteRow] = field(default_factory=list)

    @property
    def parts(self) -> list[Tokens | Raster | Series]:
        """All inputs of this example: texts, then pictures, then waveforms."""
        return [*self.tokens, *self.rasters, *self.series]


@dataclass(frozen=True)
class Picture:
    """What is drawn of one result: its first ``examples`` of ``count``, and what they explain by which rules."""

    target: str
    ruleset: str
    count: int
    examples: tuple[Example, ...]


def scale(*values: Array, quantile: float = 1.0) -> float:
    """The magnitude drawn in full colour (never zero)."""
    magnitudes = np.concatenate([np.abs(v).ravel() for v in values]) if values else np.zeros(0)
    magnitudes = magnitudes[np.isfinite(magnitudes)]
    top = float(np.quantile(magnitudes, quantile)) if magnitudes.size else 0.0
    return top or float(magnitudes.max(initial=0.0)) or 1.0


def pooled(values: Array, most: int, axis: int = 0) -> Array:
    """No more than ``most`` numbers along an axis: sums of equally many (the last of the rest), because relevance adds
    up, and because unequal shares would look like more and less of it."""
    count = -(-values.shape[axis] // most)
    result: Array = np.add.reduceat(values, np.arange(0, values.shape[axis], count), axis) if count > 1 else values
    return result


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
