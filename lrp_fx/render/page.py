"""A self-contained HTML page: no script, no request, every number also readable as text."""

from __future__ import annotations

import base64
import struct
import zlib
from html import escape
from pathlib import Path

import numpy as np

from lrp_fx.render.data import (
    Array,
    Bookings,
    Example,
    Most,
    Picture,
    Raster,
    Series,
    SiteRow,
    Tokens,
    colour,
    image_scale,
    ink,
    scale,
)

EXAMPLES = 64
_STYLE = """
.lrp { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 68rem; margin: 0 auto;
    padding: 1rem 1.5rem; }
.lrp h1 { font-size: 1.25rem; margin: 0 0 .25rem; }
.lrp h2 { font-size: 1.05rem; margin: 2rem 0 .25rem; border-top: 1px solid #ccc; padding-top: 1rem; }
.lrp h3 { font-size: .95rem; margin: 1.25rem 0 .25rem; }
.lrp p { margin: .2rem 0 .6rem; color: #444; }
.lrp .note { font-size: .85rem; }
.lrp .tokens { display: flex; flex-wrap: wrap; gap: 6px 1px; }
.lrp .tokens div { display: flex; flex-direction: column; border: 1px solid #ddd; }
.lrp .tokens .start { margin-left: 5px; }
.lrp .tokens b { font: 600 .9rem ui-monospace, monospace; padding: 1px 5px; text-align: center; white-space: pre; }
.lrp .tokens span { font-size: .68rem; padding: 0 4px; text-align: center; border-top: 1px solid #eee;
    font-variant-numeric: tabular-nums; }
.lrp .tokens .hidden { background: repeating-linear-gradient(135deg, #fff 0 5px, #ddd 5px 7px); }
.lrp .tokens .labels { border-color: transparent; }
.lrp .tokens .labels * { text-align: left; font-family: inherit; border-color: transparent; color: #444; }
.lrp figure { display: inline-block; margin: 0 1rem .5rem 0; vertical-align: top; }
.lrp figcaption { font-size: .85rem; color: #444; max-width: 240px; }
.lrp img { image-rendering: pixelated; border: 1px solid #ccc; display: block; }
.lrp table { border-collapse: collapse; font-size: .88rem; }
.lrp th, .lrp td { padding: .15rem .8rem .15rem 0; text-align: left; border-bottom: 1px solid #e5e5e5; }
.lrp th { font-weight: 600; }
.lrp td, .lrp th { white-space: nowrap; }
.lrp td.n, .lrp th.n { text-align: right; font-variant-numeric: tabular-nums; }
.lrp tr.sum td { font-weight: 600; }
.lrp code { font-size: .8rem; }
.lrp .warn { color: #8a4b00; font-weight: 600; }
.lrp .scale { display: inline-block; width: 8rem; height: .8rem; vertical-align: middle; border: 1px solid #ccc; }
"""


def to_html(picture: Picture, path: str | Path | None = None) -> str:
    """The page as text, written to ``path`` (UTF-8) if one is given."""
    body = fragment(picture)
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>'
        f"Relevance: {escape(picture.target)}</title>"
    )
    page = f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'
    if path is not None:
        Path(path).write_text(page, encoding="utf-8")
    return page


def fragment(picture: Picture) -> str:
    """The same without the page around it, as notebooks embed it; its styles touch nothing outside."""
    hidden = picture.count - len(picture.examples)
    parts = [f"<style>{_STYLE}</style>", '<div class="lrp">', "<h1>Relevance</h1>", _legend(picture)]
    parts += [_example(view, alone=picture.count == 1) for view in picture.examples]
    parts += [f"<p>... and {hidden} more example(s)</p>"] if hidden else []
    return "\n".join([*parts, "</div>"])


def _legend(picture: Picture) -> str:
    stops = ", ".join(f"rgb{colour(x)}" for x in np.linspace(-1, 1, 9))
    bar = (
        f'<span class="scale" style="background: linear-gradient(to right, {stops})" role="img" aria-label="blue '
        'for negative, red for positive"></span>'
    )
    return (
        f"<p>Target <b>{escape(picture.target)}</b>, rules <b>{escape(picture.ruleset)}</b>. Speaks against {bar} "
        "speaks for the target.</p>"
    )


def _example(view: Example, *, alone: bool) -> str:
    parts = ["" if alone else f"<h2>Example {view.number}</h2>", f"<p>Score <b>{view.bookings.score:+.6g}</b></p>"]
    parts += [
        _tokens(p) if isinstance(p, Tokens) else _raster(p) if isinstance(p, Raster) else _series(p) for p in view.parts
    ]
    parts += [_ledger(view.bookings), _sites(view.sites)]
    return "\n".join(p for p in parts if p)


def _tokens(tokens: Tokens) -> str:
    """One column per token: the token on its total, below it content and position, each row on its own scale."""
    rows = [("total", tokens.total), ("content", tokens.content), ("position", tokens.position)]
    tops = [tokens.scale(values) for _, values in rows]
    notes = "; ".join(
        f"<b>{name}</b> {values.sum():+.4g}, full colour at {top:.3g}"
        for (name, values), top in zip(rows, tops, strict=True)
    )
    labels = "".join(f"<span>{name}</span>" for name, _ in rows)
    columns = [f'<div class="labels"><b>token</b>{labels}</div>']
    columns += [_column(tokens, k, rows, tops) for k in range(len(tokens.text))]
    left_out = f'<p class="note">{escape(tokens.left_out)}</p>\n' if tokens.left_out else ""
    return (
        f'<h3>{escape(tokens.name)}</h3>\n<p class="note">Sums: {notes}.</p>\n{left_out}<div class="tokens">'
        f"{''.join(columns)}</div>"
    )


def _column(tokens: Tokens, k: int, rows: list[tuple[str, Array]], tops: list[float]) -> str:
    text, gone = tokens.text[k], tokens.hidden[k]
    drawn = [None if gone else top for top in tops]
    cells = "".join(_cell(name, float(values[k]), top) for (name, values), top in zip(rows, drawn, strict=True))
    kinds = " ".join(["start"] * text.startswith(" ") + ["hidden"] * gone)
    named = f' class="{kinds}"' if kinds else ""
    style = _style(None if gone else float(tokens.total[k]) / tops[0])
    return (
        f'<div{named} title="token {tokens.index[k]}{", hidden" if gone else ""}"><b{style}>'
        f"{escape(text.strip()) or '&nbsp;'}</b>{cells}</div>"
    )


def _cell(name: str, value: float, top: float | None) -> str:
    """``top`` None: not coloured."""
    return f'<span{_style(None if top is None else value / top)} title="{name} {value:+.6g}">{value:+.3g}</span>'


def _style(x: float | None) -> str:
    """The colour of a number in -1..1 as an attribute; none for what is hatched."""
    if x is None:
        return ""
    background = colour(x)
    return f' style="background:rgb{background};color:{ink(background)}"'


def _raster(raster: Raster) -> str:
    top = image_scale(raster.heat)
    heat = _coloured(raster.heat, top)
    strength = np.clip(np.abs(raster.heat) / top, 0, 1)[..., None] ** 0.6
    overlay = heat * strength + (0.35 + 0.5 * raster.image) * (1 - strength)
    figures = [
        ("input", raster.image),
        ("content over the input", overlay),
        (f"content: sum {raster.heat.sum():+.4g}, full colour at {top:.3g}", heat),
    ]
    if raster.position is not None:
        limit = scale(raster.position)
        left = f" ({raster.prefix} leading token(s) not drawn)" if raster.prefix else ""
        figures.append(
            (
                f"position by patch{left}: sum {raster.position.sum():+.4g}, full colour at {limit:.3g}",
                _coloured(raster.position, limit),
            )
        )
    return f"<h3>{escape(raster.name)}</h3>\n" + "\n".join(
        _picture(caption, pixels, raster.heat.shape) for caption, pixels in figures
    )


def _picture(caption: str, pixels: Array, size: tuple[int, ...]) -> str:
    width = 224
    height = max(32, min(448, round(width * size[0] / size[1])))
    data = base64.b64encode(png(pixels)).decode("ascii")
    text = escape(caption, quote=True)
    return (
        f'<figure><img width="{width}" height="{height}" alt="{text}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _coloured(values: Array, top: float) -> Array:
    flat = [colour(float(v) / top) for v in values.ravel()]
    result: Array = np.array(flat, dtype=np.float64).reshape(*values.shape, 3) / 255
    return result


def png(pixels: Array) -> bytes:
    """An RGB picture (H, W, 3) in 0..1 as a PNG file."""
    rows = (np.clip(np.nan_to_num(pixels), 0, 1) * 255).round().astype(np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


def _series(series: Series) -> str:
    """The input as a grey line over its relevance in bars, at most 400 of them (sums, because relevance adds up)."""
    count = max(1, min(400, series.heat.size))
    heat = np.array([c.sum() for c in np.array_split(series.heat, count)])
    value = np.array([c.mean() if c.size else 0.0 for c in np.array_split(series.value, count)])
    top, high, step = scale(heat), scale(value), 800 / count
    bars = "".join(_bar(i * step, step, h / top * 55) for i, h in enumerate(heat))
    line = " ".join(f"{(i + 0.5) * step:.2f},{60 - v / high * 55:.2f}" for i, v in enumerate(value))
    label = escape(f"{series.name}: content relevance over time, sum {series.heat.sum():+.4g}", quote=True)
    frame = (
        f'viewBox="0 0 800 120" width="100%" height="140" preserveAspectRatio="none" role="img" aria-label="{label}"'
    )
    drawing = f'<svg {frame}>{bars}<polyline points="{line}" fill="none" stroke="#777" stroke-width="1"/></svg>'
    note = f"grey: the input; bars: content relevance, sum {series.heat.sum():+.4g}, tallest {top:.3g}"
    return f'<h3>{escape(series.name)}</h3>\n<p class="note">{note}</p>\n{drawing}'


def _bar(left: float, width: float, height: float) -> str:
    """A bar up (positive) or down from the middle line at 60."""
    return (
        f'<rect x="{left:.2f}" y="{60 - max(0.0, height):.2f}" width="{width:.2f}" height="{abs(height):.2f}" '
        f'fill="rgb{colour(np.sign(height))}"/>'
    )


def _ledger(bookings: Bookings) -> str:
    rows = [f'<tr class="sum"><td>score</td><td class="n">{bookings.score:+.6g}</td><td class="n">100.0 %</td></tr>']
    rows += [
        f'<tr><td>{kind} {escape(name)}</td><td class="n">{amount:+.6g}</td><td class="n">{100 * share:+.1f} '
        "%</td></tr>"
        for kind, name, amount, share in bookings.rows
    ]
    care = ' <span class="warn">the parts cancel: read the picture with care</span>' if bookings.cancels else ""
    trust = (
        f'<p class="note">Relative error of the sum {bookings.error:.1e}; cancellation {bookings.cancellation:.2f} '
        f"(sum of the absolute parts over the score).{care}</p>"
    )
    if bookings.most is not None:
        trust += _most(bookings.most)
    return (
        '<h3>Ledger</h3>\n<table><tr><th>where the score went</th><th class="n">amount</th><th class="n">share of '
        f"score</th></tr>{''.join(rows)}</table>\n{trust}"
    )


def _most(most: Most) -> str:
    care = f' <span class="warn">{escape(most.care)}</span>' if most.care else ""
    return (
        f'\n<p class="note">Tokens: cancellation {most.cancellation:.2f} (their absolute amounts over their sum); most '
        f"went to {escape(most.token)}, {100 * most.share:+.0f} % of the absolute amounts.{care}</p>"
    )


def _sites(sites: list[SiteRow]) -> str:
    if not sites:
        return ""
    rows = "".join(map(_site, sites))
    heads = (
        '<tr><th>where position enters</th><th>how</th><th>rule</th><th class="n">vectors</th><th class="n">'
        "relevance</th><th>source</th></tr>"
    )
    return f"<h3>Position sites</h3>\n<table>{heads}{rows}</table>"


def _site(site: SiteRow) -> str:
    source = f'<code title="{escape(site.source, quote=True)}">{escape(site.source.split(": ")[0])}</code>'
    numbers = f'<td class="n">{site.count}</td><td class="n">{site.total:+.4g}</td>'
    return (
        f"<tr><td>{escape(site.module or 'model')}</td><td>{site.shape}</td><td>{escape(site.rule)}</td>"
        f"{numbers}<td>{source}</td></tr>"
    )
