"""A matplotlib figure: stacked bars per token, or the picture with its heat."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrp_fx.render.data import Array, Picture, Raster, Series, Tokens, colour, image_scale

EXAMPLES = 8
RED, BLUE, GREY = "#b2182b", "#2166ac", "#8c8c8c"
#: Inches: of a row of pictures, of one of sound with its margins, of a token, and the least and most of the figure.
_ROW, _SOUND, _TOKEN, _WIDTH = 2.8, 6.0, 0.2, (9.0, 24.0)
#: More tokens than this are named one in several.
_NAMED = 120


def plot(picture: Picture) -> Any:
    """A `matplotlib.figure.Figure` with one row of axes per example and input, which notebooks show by themselves.

    Texts are stacked bars (content red or blue by sign, position grey), pictures their input beside content (over it,
    and alone) and position, sound its content over time and frequency.
    """
    try:
        from lrp_fx.render.notebook import ShownFigure
    except ImportError as error:
        raise ImportError(
            "plot() draws with matplotlib: pip install lrp-fx[plot], or use show() or to_html()"
        ) from error
    parts = [(view, part) for view in picture.examples for part in view.parts]
    heights = [_SOUND if isinstance(p, Raster) and p.axes else _ROW for _, p in parts] or [_ROW]
    longest = max((len(p.text) for _, p in parts if isinstance(p, Tokens)), default=0)
    width = min(max(_WIDTH[0], _TOKEN * longest), _WIDTH[1])
    figure = ShownFigure(figsize=(width, sum(heights)), layout="constrained", facecolor="white")
    rows = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for row, (view, part) in zip(rows, parts, strict=False):
        number = f", example {view.number}" if picture.count > 1 else ""
        title = f"{part.name}{number}: {view.title or picture.target}, score {view.bookings.score:+.4g}"
        row.suptitle(_plain(title), fontsize=9)
        _draw(row, part)
    return figure


def _plain(text: str) -> str:
    """Not to be read as mathematics."""
    return text.replace("$", r"\$")


def _draw(row: Any, part: Tokens | Raster | Series) -> None:
    if isinstance(part, Tokens):
        _bars(row.subplots(), part)
    elif isinstance(part, Raster) and part.axes:
        _sound(row, part)
    elif isinstance(part, Raster):
        _pictures(row, part)
    else:
        _wave(row.subplots(), part)


def _wave(axes: Any, series: Series) -> None:
    axes.plot(series.heat, linewidth=0.8, color=RED)
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_xlabel("time", fontsize=8)
    axes.set_ylabel("relevance", fontsize=8)
    beside = axes.twinx()
    beside.plot(series.value, linewidth=0.5, color=GREY, alpha=0.6)
    beside.set_ylabel("input", fontsize=8, color=GREY)


def _bars(axes: Any, tokens: Tokens) -> None:
    steps = range(len(tokens.text))
    axes.bar(steps, tokens.content, color=[RED if v >= 0 else BLUE for v in tokens.content], label="content")
    same_side = [c if c * p > 0 else 0.0 for c, p in zip(tokens.content, tokens.position, strict=True)]
    axes.bar(steps, tokens.position, bottom=same_side, color=GREY, label="position")
    axes.axhline(0, color="black", linewidth=0.5)
    named = list(steps)[:: 1 + len(steps) // _NAMED]
    axes.set_xticks(named, [_plain(tokens.text[k]) for k in named], rotation=60, ha="right", fontsize=8)
    axes.set_ylabel("relevance")
    axes.legend(fontsize=8)
    if any(tokens.hidden):
        _hatch(axes, tokens)


def _hatch(axes: Any, tokens: Tokens) -> None:
    """Hidden tokens: hatched over the whole height that the others need, with their numbers."""
    shown = ~np.array(tokens.hidden, bool)
    ends = np.stack([tokens.content, tokens.position, tokens.total])[:, shown]
    room = 0.08 * ((ends.max(initial=0.0) - ends.min(initial=0.0)) or 1.0)
    low, high = ends.min(initial=0.0) - room, ends.max(initial=0.0) + room
    axes.set_ylim(low, high)
    for k in np.flatnonzero(~shown):
        axes.axvspan(k - 0.4, k + 0.4, facecolor="white", edgecolor=GREY, hatch="//", linewidth=0, zorder=3)
        axes.text(
            k,
            (low + high) / 2,
            f"{tokens.total[k]:+.3g}",
            rotation=90,
            ha="center",
            va="center",
            backgroundcolor="white",
            fontsize=8,
            zorder=4,
        )


def _pictures(row: Any, raster: Raster) -> None:
    top = image_scale(raster.heat)
    by_patch = " by patch" if raster.by_patch else ""
    heat = np.array([colour(float(v) / top) for v in raster.heat.ravel()]).reshape(*raster.heat.shape, 3) / 255
    panels: list[tuple[str, Array]] = [
        ("input", raster.image),
        ("content over the input", raster.overlay(heat, top)),
        (f"content{by_patch}", raster.heat),
    ]
    panels += [("position by patch", raster.position)] if raster.position is not None else []
    for axes, (title, values) in zip(row.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _panel(row, axes, values)
        axes.set_title(title, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])


def _panel(row: Any, axes: Any, values: Array, aspect: str = "equal") -> None:
    """A picture, or numbers in colours with their scale beside them."""
    if values.ndim == 3:
        axes.imshow(values, aspect=aspect, interpolation="nearest")
        return
    top = image_scale(values)
    drawn = axes.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top, aspect=aspect, interpolation="nearest")
    row.colorbar(drawn, ax=axes, shrink=0.8)


def _sound(row: Any, raster: Raster) -> None:
    """Input and content by frequency and time, and content over each of both."""
    up, along = raster.axes
    over = dict(raster.margins)
    names = [["input", "input"], ["content", "up"], ["along", "."]]
    axes = row.subplot_mosaic(names, width_ratios=[5, 1], height_ratios=[1, 1.2, 0.8])
    for name, values in (("input", raster.image), ("content", raster.heat)):
        _panel(row, axes[name], values[::-1], "auto")
        axes[name].invert_yaxis()
        axes[name].set_ylabel(up, fontsize=8)
        axes[name].set_title(name, fontsize=8)
    axes["along"].bar(range(len(over[along])), over[along], width=1.0, color=_signs(over[along]))
    axes["along"].set_xlabel(along, fontsize=8)
    axes["along"].set_title(f"over {along}", fontsize=8)
    axes["along"].margins(x=0)
    axes["up"].barh(range(len(over[up])), over[up], height=1.0, color=_signs(over[up]))
    axes["up"].set_title(f"over {up}", fontsize=8)
    axes["up"].margins(y=0)


def _signs(values: Array) -> list[str]:
    return [RED if v >= 0 else BLUE for v in values]
