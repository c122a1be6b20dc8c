"""A matrix of steps by sources: in the terminal, as a page, as a figure.

requires  numbers and names, free of tensors
ensures   one scale of colours for all steps; every number is readable as text, too
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from lrp_fx.errors import InputError
from lrp_fx.render.data import Array, colour, image_scale, ink
from lrp_fx.render.style import PAGE, STYLE
from lrp_fx.render.write import write_text

#: Sources that are named for a step where nothing is coloured.
_NAMED = 5
#: The part of the full colour below which a number is not written out in its cell.
_UNSEEN = 0.002
#: Beside the style of every page; the table scrolls by itself, and the names of its rows stay in sight.
_STYLE = """
.lrp .matrix { overflow: auto; max-height: 85vh; max-width: 100%; }
.lrp.lrp.lrp .matrix table { border-collapse: separate; border-spacing: 0; max-width: none; font-size: .72rem; }
.lrp.lrp.lrp .matrix th, .lrp.lrp.lrp .matrix td { padding: .1rem .3rem; text-align: right; white-space: pre;
    border-right: 1px solid var(--faint); font-variant-numeric: tabular-nums; overflow-wrap: normal; }
.lrp.lrp.lrp .matrix th { font: 600 .8rem ui-monospace, monospace; position: sticky; left: 0; z-index: 1; }
.lrp.lrp.lrp .matrix thead th { vertical-align: middle; writing-mode: vertical-rl; transform: rotate(180deg);
    text-align: left; position: static; padding: .3rem .1rem; }
.lrp.lrp.lrp .matrix thead th.written { text-decoration: underline; }
"""


@dataclass(frozen=True)
class Matrix:
    """``rows`` and ``columns``: what was written, and the sources (the first ``given`` of which were not written).

    ``values`` (n, S); ``scores``, ``probabilities`` (NaN: not known) and ``rest`` (what went to no source), (n,);
    ``against``: what might have been written, by row, or nothing.
    """

    title: str
    ruleset: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    given: int
    values: Array
    scores: Array
    probabilities: Array
    rest: Array
    against: tuple[str, ...] = ()

    def row(self, k: int) -> str:
        """What a row is called: what was written, and instead of what."""
        own = readable(self.rows[k])
        return f"{own} / {readable(self.against[k])}" if self.against else own

    def chance(self, k: int) -> str:
        """Its probability as it is printed; empty where it is not known."""
        p = float(self.probabilities[k])
        return "" if p != p else f"{p:.2f}" if p >= 0.005 else f"{p:.0e}"


def readable(token: str) -> str:
    """A token without the marks that vocabularies write spaces and line breaks with."""
    for mark, text in (("▁", " "), ("Ġ", " "), ("Ċ", "⏎"), ("<0x0A>", "⏎"), ("\n", "⏎"), ("\t", "⇥"), ("</w>", "")):
        token = token.replace(mark, text)
    return token.removeprefix("##").strip() or "␣"


# ------------------------------------------------------------------------------------------------ terminal
def show(matrix: Matrix, console: Any = None) -> None:
    """Print each step: its probability and score, and its sources in colours, or the largest of them by name."""
    from rich.console import Console
    from rich.text import Text

    out = console or Console()
    out.print(Text(f"{matrix.title}, rules {matrix.ruleset}", "bold"))
    top = image_scale(matrix.values)
    width = max(len(matrix.row(k)) for k in range(len(matrix.rows)))
    for k in range(len(matrix.rows)):
        chance = f"p {matrix.chance(k):>5}" if matrix.chance(k) else " " * 7
        line = Text.assemble((matrix.row(k).rjust(width), "bold"), f"  {chance}  {matrix.scores[k]:+8.4g}  ")
        line.append_text(_coloured(matrix, k, top) if out.color_system is not None else Text(_largest(matrix, k)))
        out.print(line)


def _coloured(matrix: Matrix, k: int, top: float) -> Any:
    from rich.text import Text

    line = Text()
    last = max((int(n) for n in np.flatnonzero(matrix.values[k])), default=-1)
    for n in range(last + 1):
        background = colour(matrix.values[k, n] / top)
        style = f"{ink(background)} on #{background[0]:02x}{background[1]:02x}{background[2]:02x}"
        line.append(f" {readable(matrix.columns[n])}", style)
    return line


def _largest(matrix: Matrix, k: int) -> str:
    order = np.argsort(-np.abs(matrix.values[k]), kind="stable")[:_NAMED]
    return ", ".join(f"{readable(matrix.columns[n])} {matrix.values[k, n]:+.3g}" for n in order if matrix.values[k, n])


# ------------------------------------------------------------------------------------------------ page
def to_html(matrix: Matrix, path: str | Path | None = None) -> str:
    """The page as text, written to ``path`` (UTF-8) if one is given."""
    head = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>'
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}{escape(matrix.title)}</title>\n<style>{PAGE}</style>\n'
        f"</head>\n<body>\n{fragment(matrix)}\n</body>\n</html>\n"
    )
    if path is not None:
        write_text(path, page)
    return page


def fragment(matrix: Matrix) -> str:
    """The same without the page around it, as notebooks embed it; its styles touch nothing outside."""
    top = image_scale(matrix.values)
    heads = "".join(
        f"<th{_written(matrix, n)}>{escape(readable(name))}</th>"
        for n, name in enumerate((*matrix.columns, "no source", "score", "p"))
    )
    rows = "\n".join(_row(matrix, k, top) for k in range(len(matrix.rows)))
    return (
        f'<style>{STYLE}{_STYLE}</style>\n<div class="lrp">\n<h1>Relevance of {escape(matrix.title)}</h1>\n<p>Rows: '
        "what was written, from the first step on; columns: what it was written from (underlined: itself written). "
        f"Rules <b>{escape(matrix.ruleset)}</b>; red speaks for a step, blue against it, full colour at {top:.3g}.</p>"
        f'\n<div class="matrix"><table><thead><tr><th></th>{heads}</tr></thead>\n<tbody>{rows}</tbody></table></div>'
        "\n</div>"
    )


def _written(matrix: Matrix, n: int) -> str:
    return ' class="written"' if matrix.given <= n < len(matrix.columns) else ""


def _row(matrix: Matrix, k: int, top: float) -> str:
    cells = []
    for n, value in enumerate(matrix.values[k]):
        background = colour(value / top)
        style = f' style="background:rgb{background};color:{ink(background)}"' if value else ""
        title = f"{readable(matrix.columns[n])} for {matrix.row(k)}: {value:+.6g}"
        cells.append(f'<td{style} title="{escape(title, quote=True)}">{_short(value, top)}</td>')
    cells += [f"<td>{matrix.rest[k]:+.2g}</td><td>{matrix.scores[k]:+.4g}</td><td>{matrix.chance(k)}</td>"]
    return f"<tr><th>{escape(matrix.row(k))}</th>{''.join(cells)}</tr>"


def _short(value: float, top: float) -> str:
    """A number in few letters; what would not be seen is a dot (its title has it)."""
    if abs(value) < _UNSEEN * top:
        return "·" if value else ""
    return f"{value:+.2g}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:+.2g}"


# ------------------------------------------------------------------------------------------------ figure
def plot(matrix: Matrix) -> Any:
    """A `matplotlib.figure.Figure`, which notebooks show: steps by sources, a line where what was written begins."""
    try:
        from lrp_fx.render.notebook import ShownFigure
    except ImportError as error:
        raise InputError("plot() draws with matplotlib\n    next: pip install lrp-fx[plot], or use show()") from error
    size = (max(5.0, 2.5 + 0.3 * len(matrix.columns)), max(2.6, 1.6 + 0.28 * len(matrix.rows)))
    figure = ShownFigure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.subplots()
    top = image_scale(matrix.values)
    drawn = axes.imshow(matrix.values, cmap="RdBu_r", vmin=-top, vmax=top, aspect="auto")
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="relevance")
    names = [readable(c).replace("$", r"\$") for c in matrix.columns]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    labels = [matrix.row(k).replace("$", r"\$") for k in range(len(matrix.rows))]
    chances = [f"  {matrix.chance(k)}" if matrix.chance(k) else "" for k in range(len(labels))]
    axes.set_yticks(range(len(labels)), [a + b for a, b in zip(labels, chances, strict=True)], fontsize=8)
    axes.axvline(matrix.given - 0.5, color="black", linewidth=0.6)
    axes.set_title(f"{matrix.title}, rules {matrix.ruleset}", fontsize=9)
    return figure
