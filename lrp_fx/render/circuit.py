"""A circuit: nodes in rows, one above the other, and what flows between them; in the terminal and as a page.

requires  names and numbers, free of tensors
ensures   every edge is readable as text, too; a page holds no script and requests nothing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from lrp_fx.render.data import colour, ink
from lrp_fx.render.style import PAGE, STYLE
from lrp_fx.render.write import write_text

#: Pixels: between rows, the height of a node, between nodes, beside labels, of a letter.
_ROW, _HEIGHT, _GAP, _PAD, _LETTER = 84, 26, 14, 8, 7.3
#: Letters of a label that are drawn.
_LETTERS = 16
_STYLE = """
.lrp { --for: #b2182b; --against: #2166ac; }
.lrp .circuit { overflow: auto; max-height: 90vh; max-width: 100%; border: 1px solid var(--faint); }
.lrp.lrp.lrp .circuit svg { height: auto; width: auto; margin: 0 auto; max-width: none; }
.lrp .circuit text { font: 12px ui-monospace, monospace; text-anchor: middle; }
.lrp .circuit rect { stroke: var(--line); }
.lrp .circuit path { fill: none; stroke-opacity: .65; }
.lrp .circuit path:hover { stroke-opacity: 1; }
.lrp .circuit .for { stroke: var(--for); }
.lrp .circuit .against { stroke: var(--against); stroke-dasharray: 6 3; }
"""
_DARK = "@media (prefers-color-scheme: dark) { body .lrp { --for: #ff8a8a; --against: #7db8f0; } }"


@dataclass(frozen=True)
class Node:
    """``row``: counted from below; ``place``: what it is a part of."""

    name: str
    label: str
    kind: str
    relevance: float
    row: int
    place: str


@dataclass(frozen=True)
class Edge:
    """Relevance that flows from ``upper`` to ``lower``."""

    upper: str
    lower: str
    relevance: float


@dataclass(frozen=True)
class Drawing:
    """``nodes`` from above, each row from the left; ``kept``: the share of all that flows which is drawn."""

    title: str
    ruleset: str
    nodes: Sequence[Node]
    edges: Sequence[Edge]
    kept: float

    @property
    def score(self) -> float:
        """What flows from the first node."""
        return self.nodes[0].relevance

    def share(self, edge: Edge) -> float:
        """Of the score."""
        return edge.relevance / self.score if self.score else 0.0

    def below(self, node: Node) -> list[Edge]:
        """The edges that lead down from a node, the largest first."""
        return sorted((e for e in self.edges if e.upper == node.name), key=lambda e: -abs(e.relevance))


# ------------------------------------------------------------------------------------------------ terminal
def show(drawing: Drawing, console: Any = None) -> None:
    """Print every node with the edges that lead down from it, and their share of the score."""
    from rich.console import Console
    from rich.text import Text

    out = console or Console()
    out.print(Text(f"{drawing.title}, rules {drawing.ruleset}; {drawing.kept:.0%} of the flow is drawn", "bold"))
    labels = _labels(drawing)
    width = max(len(label) for label in labels.values())
    top = max((abs(e.relevance) for e in drawing.edges), default=0.0) or 1.0
    for node in drawing.nodes:
        edges = drawing.below(node)
        if edges or node is drawing.nodes[0]:
            out.print(Text.assemble((labels[node.name], "bold"), f"  {node.relevance:+.4g}"))
        for edge in edges:
            background = colour(edge.relevance / top)
            style = f"{ink(background)} on #{background[0]:02x}{background[1]:02x}{background[2]:02x}"
            amount = f"{edge.relevance:+9.4g}  {drawing.share(edge):+6.1%}"
            out.print(Text.assemble("  ", (labels[edge.lower].ljust(width), style), f"  {amount}"))


# ------------------------------------------------------------------------------------------------ page
def to_html(drawing: Drawing, path: str | Path | None = None) -> str:
    """The page as text, written to ``path`` (UTF-8) if one is given."""
    head = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>'
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}Circuit: {escape(drawing.title)}</title>\n'
        f"<style>{PAGE}</style>\n</head>\n<body>\n{fragment(drawing)}\n<style>{_DARK}</style>\n</body>\n</html>\n"
    )
    if path is not None:
        write_text(path, page)
    return page


def fragment(drawing: Drawing) -> str:
    """The same without the page around it, as notebooks embed it; its styles touch nothing outside."""
    return (
        f'<style>{STYLE}{_STYLE}</style>\n<div class="lrp">\n<h1>Circuit</h1>\n<p>Target <b>{escape(drawing.title)}'
        f"</b>, rules <b>{escape(drawing.ruleset)}</b>, score <b>{drawing.score:+.4g}</b>. Relevance flows downwards; "
        "red lines speak for the target, dashed blue ones against it, and the wider a line, the more. "
        f"{drawing.kept:.0%} of the flow is drawn.</p>\n"
        f'<div class="circuit">{_svg(drawing)}</div>\n{_table(drawing)}\n</div>'
    )


def _table(drawing: Drawing) -> str:
    labels = _labels(drawing)
    rows = "".join(
        f"<tr><td>{escape(labels[e.upper])}</td><td>{escape(labels[e.lower])}</td>"
        f'<td class="n">{e.relevance:+.4g}</td><td class="n">{drawing.share(e):+.1%}</td></tr>'
        for e in sorted(drawing.edges, key=lambda e: -abs(e.relevance))
    )
    heads = '<tr><th>from</th><th>to</th><th class="n">relevance</th><th class="n">share of score</th></tr>'
    return f"<h3>Edges</h3>\n<table>{heads}{rows}</table>"


def _labels(drawing: Drawing) -> dict[str, str]:
    """What nodes are called in a list: tokens with their place, ends with what they are."""
    return {
        n.name: f"{n.label.strip()} {n.name}" if n.kind == "token" and n.label != n.name else n.name
        for n in drawing.nodes
    }


def _svg(drawing: Drawing) -> str:
    """Rows from below, each with its nodes side by side in the middle."""
    at, width, height = _placed(drawing.nodes)
    top = max((abs(e.relevance) for e in drawing.edges), default=0.0) or 1.0
    most = max((abs(n.relevance) for n in drawing.nodes), default=0.0) or 1.0
    labels = _labels(drawing)
    lines = [_line(e, at, top, f"{labels[e.upper]} → {labels[e.lower]}", drawing.share(e)) for e in drawing.edges]
    boxes = [_box(n, at[n.name], most) for n in drawing.nodes]
    return (
        f'<svg viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}" role="img" '
        f'aria-label="circuit of {len(boxes)} nodes and {len(lines)} edges; the table below has its edges">'
        f"{''.join(lines)}{''.join(boxes)}</svg>"
    )


def _placed(nodes: Sequence[Node]) -> tuple[dict[str, tuple[float, float, float]], float, int]:
    """(left, top, width) of each node, and the size of the whole; rows without nodes are left out."""
    rows = sorted({n.row for n in nodes}, reverse=True)
    by_row = [[n for n in nodes if n.row == row] for row in rows]
    widths = {n.name: 2 * _PAD + _LETTER * max(3, len(_short(n.label))) for n in nodes}
    full = max(sum(widths[n.name] + _GAP for n in row) for row in by_row) + _GAP
    at: dict[str, tuple[float, float, float]] = {}
    for number, row in enumerate(by_row):
        left = (full - sum(widths[n.name] + _GAP for n in row) + _GAP) / 2
        for node in row:
            at[node.name] = (left, number * _ROW + _GAP, widths[node.name])
            left += widths[node.name] + _GAP
    return at, full, len(rows) * _ROW - (_ROW - _HEIGHT) + 2 * _GAP


def _box(node: Node, at: tuple[float, float, float], most: float) -> str:
    left, top, width = at
    background = colour(node.relevance / most)
    title = f"{node.name}: {node.relevance:+.4g}"
    return (
        f'<g><title>{escape(title)}</title><rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_HEIGHT}" '
        f'rx="4" style="fill:rgb{background}"/><text x="{left + width / 2:.1f}" y="{top + 17}" '
        f'style="fill:{ink(background)}">{escape(_short(node.label))}</text></g>'
    )


def _line(edge: Edge, at: dict[str, tuple[float, float, float]], most: float, name: str, share: float) -> str:
    (x1, y1, w1), (x2, y2, w2) = at[edge.upper], at[edge.lower]
    x1, y1, x2 = x1 + w1 / 2, y1 + _HEIGHT, x2 + w2 / 2
    middle = (y1 + y2) / 2
    kind = "for" if edge.relevance > 0 else "against"
    return (
        f'<path class="{kind}" stroke-width="{0.8 + 7 * abs(edge.relevance) / most:.1f}" d="M{x1:.1f} {y1} '
        f'C{x1:.1f} {middle:.1f} {x2:.1f} {middle:.1f} {x2:.1f} {y2}"><title>{escape(name)}: {edge.relevance:+.4g} '
        f"({share:+.1%})</title></path>"
    )


def _short(label: str) -> str:
    text = label.strip() or "␣"
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"
