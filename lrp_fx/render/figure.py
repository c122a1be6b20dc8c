"""A matplotlib figure: stacked bars per token, or the picture with its heat."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrp_fx.render.data import Picture, Raster, Series, Tokens, image_scale

EXAMPLES = 8
RED, BLUE, GREY = "#b2182b", "#2166ac", "#8c8c8c"


def plot(picture: Picture) -> Any:
    """A `matplotlib.figure.Figure` with one row of axes per example and input.

    Texts are stacked bars (content red or blue by sign, position grey), pictures their input beside content and
    position.
    """
    from matplotlib.figure import Figure  # drawn without pyplot: no global state, no window

    parts = [(view, part) for view in picture.examples for part in view.parts]
    figure = Figure(figsize=(9, max(2.6, 2.6 * len(parts))), layout="constrained")
    rows = figure.subfigures(max(1, len(parts)), 1, squeeze=False)[:, 0]
    for row, (view, part) in zip(rows, parts, strict=False):
        row.suptitle(
            f"{part.name}, example {view.number}: {picture.target}, score {view.bookings.score:+.4g}", fontsize=9
        )
        _draw(row, part)
    return figure


def _draw(row: Any, part: Tokens | Raster | Series) -> None:
    if isinstance(part, Tokens):
        _bars(row.subplots(), part)
    elif isinstance(part, Raster):
        _pictures(row, part)
    else:
        axes = row.subplots()
        axes.plot(part.heat, linewidth=0.8, color=RED)
        axes.axhline(0, color="black", linewidth=0.5)
        axes.set_ylabel("relevance")


def _bars(axes: Any, tokens: Tokens) -> None:
    steps = range(len(tokens.text))
    axes.bar(steps, tokens.content, color=[RED if v >= 0 else BLUE for v in tokens.content], label="content")
    same_side = [c if c * p > 0 else 0.0 for c, p in zip(tokens.content, tokens.position, strict=True)]
    axes.bar(steps, tokens.position, bottom=same_side, color=GREY, label="position")
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_xticks(list(steps), [t.replace("$", r"\$") for t in tokens.text], rotation=60, ha="right", fontsize=8)
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
    panels = [("input", raster.image), ("content", raster.heat)] + (
        [("position by patch", raster.position)] if raster.position is not None else []
    )
    for axes, (title, values) in zip(row.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        if title == "input":
            axes.imshow(values, aspect="auto" if raster.heat.shape[0] != raster.heat.shape[1] else "equal")
        else:
            top = image_scale(values)
            drawn = axes.imshow(
                values,
                cmap="RdBu_r",
                vmin=-top,
                vmax=top,
                aspect="auto" if raster.heat.shape[0] != raster.heat.shape[1] else "equal",
            )
            row.colorbar(drawn, ax=axes, shrink=0.8)
        axes.set_title(title, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
