"""A self-contained HTML page: no script, no request, every number also readable as text."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np

from lrp_fx.render.data import Array, Bookings, Example, Most, Picture, Raster, SiteRow, Tokens, colour, ink
from lrp_fx.render.drawings import raster, series
from lrp_fx.render.style import PAGE, STYLE
from lrp_fx.render.write import write_text

EXAMPLES = 64


def to_html(picture: Picture, path: str | Path | None = None) -> str:
    """The page as text, written to ``path`` (UTF-8) if one is given."""
    body = fragment(picture)
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>'
        f"Relevance: {escape(_titles(picture))}</title>\n<style>{PAGE}</style>"
    )
    page = f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'
    if path is not None:
        write_text(path, page)
    return page


def fragment(picture: Picture) -> str:
    """The same without the page around it, as notebooks embed it; its styles touch nothing outside."""
    hidden = picture.count - len(picture.examples)
    parts = [f"<style>{STYLE}</style>", '<div class="lrp">', "<h1>Relevance</h1>", _legend(picture)]
    parts += [_example(view, alone=picture.count == 1) for view in picture.examples]
    parts += [f"<p>... and {hidden} more example(s)</p>"] if hidden else []
    return "\n".join([*parts, "</div>"])


def _titles(picture: Picture) -> str:
    """What is explained: of all examples where it is the same, else the target as it was given."""
    titles = {view.title for view in picture.examples}
    return titles.pop() if len(titles) == 1 and picture.count == 1 else picture.target


def _legend(picture: Picture) -> str:
    stops = ", ".join(f"rgb{colour(x)}" for x in np.linspace(-1, 1, 9))
    bar = (
        f'<span class="scale" style="background: linear-gradient(to right, {stops})" role="img" aria-label="blue '
        'for negative, red for positive"></span>'
    )
    return (
        f"<p>Target <b>{escape(_titles(picture))}</b>, rules <b>{escape(picture.ruleset)}</b>. Speaks against {bar} "
        "speaks for the target.</p>"
    )


def _example(view: Example, *, alone: bool) -> str:
    title = "" if alone else f"Explained: <b>{escape(view.title)}</b>. "
    parts = ["" if alone else f"<h2>Example {view.number}</h2>"]
    parts += [f"<p>{title}Score <b>{view.bookings.score:+.6g}</b></p>"]
    parts += [
        _tokens(p) if isinstance(p, Tokens) else raster(p) if isinstance(p, Raster) else series(p) for p in view.parts
    ]
    parts += [f'<p class="note">{escape(note)}</p>' for note in view.notes]
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
    left_out = "".join(f'<p class="note">{escape(t)}</p>\n' for t in (tokens.left_out, tokens.note) if t)
    return (
        f'<h3>{escape(tokens.name)}</h3>\n<p class="note">Sums: {notes}.</p>\n{left_out}<div class="tokens">'
        f"{''.join(columns)}</div>"
    )


def _column(tokens: Tokens, k: int, rows: list[tuple[str, Array]], tops: list[float]) -> str:
    text, gone = tokens.text[k], tokens.hidden[k]
    drawn = [None if gone else top for top in tops]
    cells = "".join(_cell(name, float(values[k]), top) for (name, values), top in zip(rows, drawn, strict=True))
    kinds = " ".join(["start"] * text.startswith(" ") + ["hidden"] * gone + ["stands"] * (k in tokens.stands_for))
    named = f' class="{kinds}"' if kinds else ""
    style = _style(None if gone else float(tokens.total[k]) / tops[0])
    return (
        f'<div{named} title="{escape(tokens.about(k), quote=True)}"><b{style}>'
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
