"""Every kind of positional encoding: ``python -m benchmarks positions [NAME ...]``.

Converts the models of ``testing/positions`` in float64 with every site balanced, and reports what was recognised, the
share of the score that position carries, and how the books close. NAME: only kinds whose name or architecture contains
it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import lrp_fx
from benchmarks.compare import Noise
from benchmarks.page import Page, table
from testing.positions import KINDS

HEADINGS = (
    "kind of position",
    "architecture",
    "recognised as",
    "injections",
    "per",
    "share of the score",
    "ledger error",
    "worst depth",
)


def explain(kind: Any) -> lrp_fx.Relevance:
    """The model of one entry, in float64, every site balanced."""
    model = kind.build().double()
    inputs = {n: v.double() if v.is_floating_point() else v for n, v in kind.inputs().items()}
    return lrp_fx.convert(model, conserve="site", **kind.options)(
        **inputs, **({} if kind.target is None else {"target": kind.target})
    )


def row(kind: Any) -> tuple[str, ...]:
    """What one model gave, a cell for each heading."""
    try:
        relevance = explain(kind)
    except lrp_fx.LrpError as error:
        return (kind.name, kind.architecture, f"{type(error).__name__}: {str(error).splitlines()[0][:90]}", *[""] * 5)
    found = sorted({f"{p.kind}, {p.variant}" for p in relevance.position}) or ["no position"]
    reach = sorted({"pair" if p.is_pairwise else "token" if p.token_axes else "-" for p in relevance.position})
    shares = relevance.ledger.shares().get("position")
    depths = max((float(d.error.max()) for d in relevance.ledger.depths), default=0.0)
    return (
        kind.name,
        kind.architecture,
        "; ".join(found),
        str(len(relevance.position)),
        ", ".join(reach),
        "0" if shares is None else ", ".join(f"{float(s):+.3f}" for s in shares[:2]),
        f"{float(relevance.ledger.error.max()):.0e}",
        f"{depths:.0e}",
    )


ABOUT = """\
Tiny models with random weights, one for each way in which transformers inject position, explained in float64 with
`pa-lrp` and every site balanced. Shares are of the score of two examples; with random weights they only show that the
encoding takes part.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", help="only kinds whose name or architecture contains one of these")


def body(options: argparse.Namespace) -> Iterator[str]:
    rows: list[tuple[str, ...]] = []
    for kind in KINDS:
        if not options.names or any(n in kind.name or n in kind.architecture for n in options.names):
            rows.append(row(kind))
            print("|", " | ".join(rows[-1]), "|", flush=True)
            yield table(HEADINGS, rows)


ROUNDING = Noise(absolute=1e-9)
BENCHMARK = Page(
    "positions",
    "Every way in which transformers inject position: what it is recognised as, its share, its books",
    "position_kinds.md",
    "Every kind of position",
    lambda options: ABOUT,
    body,
    add_options,
    selects=("names",),
    noise={"ledger error": ROUNDING, "worst depth": ROUNDING, "share of the score": Noise(absolute=0.001)},
)
