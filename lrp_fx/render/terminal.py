"""Terminal output: tokens on a coloured background, a compact table of content and position, the ledger."""

from __future__ import annotations

import math

import numpy as np
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lrp_fx.render.data import (
    Array,
    Bookings,
    Example,
    Picture,
    Raster,
    Series,
    Tokens,
    colour,
    image_scale,
    ink,
    pooled,
    scale,
)

EXAMPLES, _ROWS, _BAR, _CELLS = 8, 24, 10, 32


def show(picture: Picture, console: Console | None = None) -> None:
    """Print per example the token heatmap (or the picture), content and position parts, and the ledger.

    console: where to print (default: standard output).
    """
    out = console or Console()
    for view in picture.examples:
        out.print(_heading(picture, view))
        for part in view.parts:
            out.print(Padding(_part(part, coloured=out.color_system is not None), (0, 0, 1, 2)))
        for note in view.notes:
            out.print(Padding(Text(note, style="dim"), (0, 0, 1, 2)))
        out.print(Padding(_ledger(view.bookings), (0, 0, 1, 2)))
    hidden = picture.count - len(picture.examples)
    if hidden > 0:
        out.print(f"... and {hidden} more example(s)")


def _heading(picture: Picture, view: Example) -> Text:
    number = f"example {view.number}: " if picture.count > 1 else ""
    return Text.assemble(
        (f"{number}{view.title or picture.target}", "bold"),
        f"  score {view.bookings.score:+.5g}  rules {picture.ruleset}",
    )


def _part(part: Tokens | Raster | Series, *, coloured: bool) -> Group:
    if isinstance(part, Tokens):
        left_out = [Text(t, style="dim") for t in (part.left_out, part.note) if t]
        return Group(Text(part.name, style="italic"), _heatmap(part), *left_out, Text(""), _table(part))
    if isinstance(part, Raster):
        return _raster(part, coloured)
    return Group(
        Text(f"{part.name}: content relevance over time{_how(coloured)} (sum {part.heat.sum():+.4g})", style="italic"),
        _strip(part.heat, coloured),
    )


def _how(coloured: bool) -> str:
    return ", red for, blue against" if coloured else ", shaded for, dotted against"


def _raster(part: Raster, coloured: bool) -> Group:
    axes = f", {part.axes[0]} upwards, {part.axes[1]} to the right" if part.axes else ""
    by_patch = " by patch" if part.by_patch else ""
    told = f"{part.name}: content relevance{by_patch}{_how(coloured)}{axes} (sum {part.heat.sum():+.4g})"
    heat = part.heat
    for axis in (0, 1):  # grids of a few patches: large enough to be seen
        heat = heat.repeat(max(1, _CELLS // 2 // max(part.heat.shape)), axis)
    lines = [Text(told, style="italic"), _blocks(heat) if coloured else _shades(heat)]
    for name, values in part.margins:
        lines += [Text(f"over {name}", style="italic"), _strip(values, coloured)]
    return Group(*lines)


def _style(x: float) -> str:
    background = colour(x)
    return f"{ink(background)} on #{background[0]:02x}{background[1]:02x}{background[2]:02x}"


def _heatmap(tokens: Tokens) -> Text:
    """All tokens in a row; a gap between them unless the vocabulary writes its own spaces."""
    top = tokens.scale(tokens.total)
    gap = "" if any(t.startswith(" ") for t in tokens.text) else " "
    line = Text()
    for name, value, gone in zip(tokens.text, tokens.total, tokens.hidden, strict=True):
        line.append(f"╱{name}╱" if gone else name, style="dim" if gone else _style(value / top))
        line.append(gap)
    return line


def _table(tokens: Tokens) -> Table:
    """Every token, or the largest ones of long texts, in order."""
    total, top = tokens.total, tokens.scale(tokens.total)
    largest = np.sort(np.argsort(-np.abs(total))[:_ROWS])
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_footer=True, footer_style="bold"
    )
    hidden = f" (largest {len(largest)} of {len(total)})" if len(largest) < len(total) else ""
    table.add_column("#", justify="right")
    table.add_column(f"token{hidden}", footer="sum")
    for name, values in (("total", total), ("content", tokens.content), ("position", tokens.position)):
        table.add_column(name, justify="right", footer=f"{values.sum():+.4f}")
    table.add_column("- total +")
    for i in largest:
        numbers = (f"{v[i]:+.4f}" for v in (total, tokens.content, tokens.position))
        bar = Text(f"{'╱' * _BAR}│{'╱' * _BAR}", "dim") if tokens.hidden[i] else _bar(total[i] / top)
        table.add_row(str(tokens.index[i]), Text(repr(tokens.text[i])[1:-1].strip() or "␣"), *numbers, bar)
    return table


def _bar(x: float) -> Text:
    """A bar left (against) or right (for) of a middle line: readable without colour."""
    length = round(abs(x) * _BAR) if math.isfinite(x) else 0
    bar = "█" * length
    left, right = (bar, "") if x < 0 else ("", bar)
    return Text.assemble((left.rjust(_BAR), "#2166ac"), "│", (right, "#b2182b"))


def _blocks(heat: Array) -> Text:
    """A picture in half-block characters, at most 32 cells wide."""
    small = _small(heat)
    if small.shape[0] % 2:
        small = np.vstack([small, np.zeros((1, small.shape[1]))])
    top = image_scale(small)
    text = Text()
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        for a, b in zip(upper, lower, strict=True):
            foreground, background = colour(a / top), colour(b / top)
            text.append("▀", style=f"rgb({','.join(map(str, foreground))}) on rgb({','.join(map(str, background))})")
        text.append("\n")
    text.rstrip()
    return text


def _shades(heat: Array) -> Text:
    """The same without colour, two characters a cell: blocks for positive, dots and crosses for negative relevance."""
    small = _small(heat)
    steps = np.clip(np.rint(small / image_scale(small) * 3), -3, 3).astype(int)
    return Text("\n".join("".join(2 * " ░▒█x:·"[step] for step in row).rstrip() for row in steps))


def _strip(values: Array, coloured: bool) -> Text:
    """One number for each step, at most 64 of them (32 without colours); signs as colours, else as shades."""
    cells = pooled(values, 2 * _CELLS if coloured else _CELLS)
    if not coloured:
        return _shades(cells[None])
    top = scale(cells)
    text = Text()
    for value in cells:
        text.append(
            "▁▂▃▄▅▆▇█"[min(7, int(abs(value) / top * 7.99))],
            style="rgb(178,24,43)" if value >= 0 else "rgb(33,102,172)",
        )
    return text


def _small(heat: Array) -> Array:
    return pooled(pooled(heat, _CELLS, 0), _CELLS, 1)


def _ledger(bookings: Bookings) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("ledger", "amount", "share of score"):
        table.add_column(name, justify="left" if name == "ledger" else "right")
    table.add_row("score", f"{bookings.score:+.6g}", "100.0 %", style="bold")
    for kind, name, amount, share in bookings.rows:
        table.add_row(f"  {kind} {name}", f"{amount:+.6g}", f"{100 * share:+.1f} %")
    table.add_row("error (relative)", f"{bookings.error:.1e}", "")
    high = bookings.cancels
    table.add_row(
        "cancellation", f"{bookings.cancellation:.2f}", Text("parts cancel: read with care", "yellow") if high else ""
    )
    if bookings.most is not None:
        most = bookings.most
        told = Text.assemble(f"most: {most.token} {100 * most.share:+.0f} %", (f" {most.care}", "yellow"))
        table.add_row("tokens cancel", f"{most.cancellation:.2f}", told)
    return table
