"""Pictures of a `Relevance`: in the terminal, as a self-contained HTML page, as a matplotlib figure.

requires  a `Relevance`
ensures   nothing is computed that the relevance does not hold; every number shown can be read there
"""

from __future__ import annotations

from lrp_fx.render.figure import plot
from lrp_fx.render.page import fragment, to_html
from lrp_fx.render.terminal import show

__all__ = ["fragment", "plot", "show", "to_html"]
