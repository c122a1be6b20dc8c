"""Every kind of positional encoding: ``python -m benchmarks.positions [--write PAGE] [NAME ...]``.

Converts the models of ``tests/positions.py`` in float64 with every site balanced, and reports what was recognised, the
share of the score that position carries, and how the books close. NAME: only kinds whose name or architecture contains
it.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import lrp_fx
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


@dataclass(frozen=True)
class Row:
    """What one model gave."""

    cells: tuple[str, ...]


def explain(kind: Any) -> lrp_fx.Relevance:
    """The model of one entry, in float64, every site balanced."""
    model = kind.build().double()
    inputs = {n: v.double() if v.is_floating_point() else v for n, v in kind.inputs().items()}
    return lrp_fx.convert(model, conserve="site", **kind.options)(
        **inputs, **({} if kind.target is None else {"target": kind.target})
    )


def row(kind: Any) -> Row:
    try:
        relevance = explain(kind)
    except lrp_fx.LrpError as error:
        return Row(
            (kind.name, kind.architecture, f"{type(error).__name__}: {str(error).splitlines()[0][:90]}", *[""] * 5)
        )
    found = sorted({f"{p.kind}, {p.variant}" for p in relevance.position}) or ["no position"]
    reach = sorted({"pair" if p.is_pairwise else "token" if p.token_axes else "-" for p in relevance.position})
    shares = relevance.ledger.shares().get("position")
    depths = max((float(d.error.max()) for d in relevance.ledger.depths), default=0.0)
    return Row(
        (
            kind.name,
            kind.architecture,
            "; ".join(found),
            str(len(relevance.position)),
            ", ".join(reach),
            "0" if shares is None else ", ".join(f"{float(s):+.3f}" for s in shares[:2]),
            f"{float(relevance.ledger.error.max()):.0e}",
            f"{depths:.0e}",
        )
    )


PAGE = """# Every kind of position

Tiny models with random weights, one for each way in which transformers inject position, explained in float64 with `pa-lrp`
and every site balanced. Shares are of the score of two examples; with random weights they only show that the encoding
takes part. Written by

    python -m benchmarks.positions --write docs/position_kinds.md

"""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    table, lines = Table(*HEADINGS), [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    for kind in KINDS:
        if not options.names or any(n in kind.name or n in kind.architecture for n in options.names):
            found = row(kind)
            table.add_row(*found.cells)
            lines.append(f"| {' | '.join(found.cells)} |")
            if options.write:  # after each row: a long run that is stopped has not been for nothing
                options.write.write_text(PAGE + "\n".join(lines) + "\n")
    Console(width=190).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
