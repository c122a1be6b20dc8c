"""Drawings: pictures, sound and waveforms as parts of a page."""

from __future__ import annotations

import base64
import struct
import zlib
from html import escape

import numpy as np

from lrp_fx.render.data import Array, Raster, Series, colour, image_scale, pooled, scale

#: The width of a picture in CSS pixels, and the most bars in a row.
_WIDTH, _BARS = 224, 400


def raster(part: Raster) -> str:
    """A picture beside its relevance: the input, content over it, content alone, position by patch."""
    top = image_scale(part.heat)
    heat = _coloured(part.heat, top)
    by_patch, told = (" by patch", "by patch: ") if part.by_patch else ("", "")
    figures = [
        ("input", part.image),
        (f"content{by_patch} over the input", part.overlay(heat, top)),
        (f"{told}content relevance, sum {part.heat.sum():+.4g}, full colour at {top:.3g}", heat),
    ]
    if part.position is not None:
        limit = scale(part.position)
        left = f" ({part.prefix} leading token(s) not drawn)" if part.prefix else ""
        figures.append(
            (
                f"position by patch{left}: sum {part.position.sum():+.4g}, full colour at {limit:.3g}",
                _coloured(part.position, limit),
            )
        )
    drawn = [_picture(caption, pixels, part) for caption, pixels in figures]
    return f"<h3>{escape(part.name)}</h3>\n" + "\n".join([*drawn, *_margins(part)])


def _picture(caption: str, pixels: Array, part: Raster) -> str:
    size = part.image.shape
    text = escape(caption, quote=True)
    data = base64.b64encode(png(pixels)).decode("ascii")
    if part.axes:
        image = f'<img style="width: 100%; height: 8rem" alt="{text}" src="data:image/png;base64,{data}">'
        return f'<figure class="wide">{_framed(image, part)}<figcaption>{text}</figcaption></figure>'
    height = max(32, min(448, round(_WIDTH * size[0] / size[1])))
    image = (
        f'<img style="width: {_WIDTH}px; aspect-ratio: {_WIDTH} / {height}" alt="{text}" '
        f'src="data:image/png;base64,{data}">'
    )
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


def _framed(image: str, part: Raster) -> str:
    """With the names of the axes beside it."""
    (up, along), (rows, columns) = part.axes, part.heat.shape
    return (
        f'<div class="frame"><span class="up">{up} ({rows})</span>{image}<span class="along">{along} '
        f"(0 to {columns - 1})</span></div>"
    )


def _margins(part: Raster) -> list[str]:
    """Relevance over time, over frequency."""
    found = []
    for axis, values in part.margins:
        bars = pooled(values, _BARS)
        note = f'<p class="note">over {axis}: content relevance, tallest {scale(bars):.3g}</p>'
        drawn = _bars(bars, f"content relevance over {axis}", "")
        found.append(f"{note}\n{drawn}{_along(axis, values.size)}")
    return found


def series(part: Series) -> str:
    """The input as a grey line over its relevance in bars, at most 400 of them (sums, because relevance adds up)."""
    heat = pooled(part.heat, _BARS)
    value = pooled(part.value, _BARS)
    high, step = scale(value), 800 / heat.size
    points = " ".join(f"{(i + 0.5) * step:.2f},{60 - v / high * 55:.2f}" for i, v in enumerate(value))
    line = f'<polyline points="{points}" fill="none" stroke="#777" stroke-width="1"/>'
    total = f"sum {part.heat.sum():+.4g}"
    drawing = _bars(heat, f"{part.name}: content relevance over time, {total}", line)
    note = f"grey: the input; bars: content relevance, {total}, tallest {scale(heat):.3g}"
    return f'<h3>{escape(part.name)}</h3>\n<p class="note">{note}</p>\n{drawing}{_along("time", part.heat.size)}'


def _along(axis: str, count: int) -> str:
    return f'<p class="note" style="text-align: center">{escape(axis)} (0 to {max(0, count - 1)})</p>'


def _bars(heat: Array, label: str, more: str) -> str:
    top, step = scale(heat), 800 / heat.size
    bars = "".join(_bar(i * step, step, h / top * 55) for i, h in enumerate(heat))
    frame = f'viewBox="0 0 800 120" preserveAspectRatio="none" role="img" aria-label="{escape(label, quote=True)}"'
    return f"<svg {frame}>{bars}{more}</svg>"


def _bar(left: float, width: float, height: float) -> str:
    """A bar up (positive) or down from the middle line at 60."""
    return (
        f'<rect x="{left:.2f}" y="{60 - max(0.0, height):.2f}" width="{width:.2f}" height="{abs(height):.2f}" '
        f'fill="rgb{colour(np.sign(height))}"/>'
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
