"""Notebook: a matplotlib figure that a notebook shows by itself."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A `matplotlib.figure.Figure` made without pyplot that is drawn where it is the last line of a cell.

    pyplot tells notebooks how figures are shown; who does not load it (no global state, no window) says it here.
    """

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=100)
        return out.getvalue()
