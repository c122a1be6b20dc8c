"""The page: one row for each model type, and the summary line."""

from __future__ import annotations

import argparse

import torch
import transformers

from benchmarks.coverage.reasons import true_reason
from benchmarks.coverage.row import Row

HEADINGS = (
    "model type",
    "head",
    "capture",
    "nodes",
    "exact / inferred / approximated",
    "position",
    "padding",
    "ledger error",
    "worst site",
    "gradient",
    "s",
    "what is short",
)

LEGEND = """\
*capture*: `dynamic` (any batch and length), `static` (captured again for other sizes) or `concrete` (traced again for
every call: the model decides by its inputs' values). *approximated*: operations on the relevance path that got the
tangent, booked in the sink `unexplained`; the last column names them. *position*: kinds of position sites found.
*padding*: is relevance of a padded example that of the example alone, and of padding exactly zero? (`the model cares`:
its own answer changes with padding; `-`: no plain text input with a mask.) *gradient*: how far the preset `gradient` is
from what autograd says of the model itself."""


def about(options: argparse.Namespace) -> str:
    torch_version = torch.__version__.split("+")[0]
    return f"""\
A tiny model with random weights of every model type in transformers' auto classes (torch {torch_version}, transformers
{transformers.__version__}), converted with `pa-lrp`, explained in float64 on two inputs, every site balanced."""


def summary(rows: list[Row], types: int) -> str:
    """What the sweep came to, in one line; ``types``: how many model types there are."""
    runs = [r for r in rows if r.runs]
    count = {name: sum(getattr(r, name) for r in rows) for name in ("captured", "closed", "explained")}
    narrow = sum(r.closed and r.dtype == "float32" for r in rows)
    worst = {
        what: max((getattr(r, what) for r in rows if r.closed and r.dtype == "float64"), default=0.0)
        for what in ("ledger", "site", "forward")
    }
    methods = ", ".join(f"{sum(r.method == m for r in runs)} {m}" for m in ("dynamic", "static", "concrete"))
    nodes = [sum(r.shares[i] for r in rows) for i in range(3)]
    without = sum(r.expected and r.captured and not r.positions for r in rows)
    padded = [
        r for r in rows if "ok" in r.padding or "off" in r.padding or "gets" in r.padding or "failed" in r.padding
    ]
    good = sum("off" not in r.padding and "gets" not in r.padding and "failed" not in r.padding for r in padded)
    missing = f" of {types} (the sweep was stopped before it came to the others)" if len(rows) < types else ""
    return (
        f"**{len(rows)} model types{missing}, {len(runs)} run forward here: {count['captured']} captured ({methods}), "
        f"{count['closed']} with a closed ledger and every site "
        f"balanced to 1e-9 in float64 ({narrow} of them only in float32, to 1e-4), {count['explained']} of these with "
        "nothing approximated.** "
        f"Worst in float64: ledger {worst['ledger']:.0e}, site {worst['site']:.0e}, output {worst['forward']:.0e} "
        "from the model's own (which forces float32 in places). "
        f"Nodes on relevance paths: {nodes[0]} by listed rules, {nodes[1]} inferred, {nodes[2]} approximated. "
        f"Padded equals unpadded in {good} of the {len(padded)} types whose own answer does not change; {without} "
        "types with something named after positions have no position site."
    )


def table(rows: list[Row]) -> list[str]:
    """Markdown lines, in alphabetical order."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    return lines + [f"| {' | '.join(cells(r))} |" for r in sorted(rows, key=lambda r: r.model_type)]


def cells(row: Row) -> tuple[str, ...]:
    shares = " / ".join(map(str, row.shares)) if row.captured else ""
    short = [row.stage] if not row.closed else []
    short += [row.reason] if row.reason else []
    short += (
        [f"approximated: {', '.join(f'{n} x {op}' for op, n in row.approximated.items())}"] if row.approximated else []
    )
    short += (
        ["in float32: the model does not run, or takes other kernels when exported, in float64"]
        if row.dtype == "float32" and row.runs
        else []
    )
    short += [true_reason(row)] if true_reason(row) else []
    position = "; ".join(row.positions) or ("none found" if row.expected and row.captured else "-")
    numbers = [
        f"{row.ledger:.0e}" if row.ledger == row.ledger else "",
        f"{row.site:.0e}" if row.site == row.site else "",
        f"{row.gradient:.0e}" if row.gradient == row.gradient else "",
    ]
    text = ". ".join(short).replace("|", "\\|")
    return (
        row.model_type,
        row.head,
        row.method,
        str(row.nodes or ""),
        shares,
        position,
        row.padding,
        *numbers,
        f"{row.seconds:.0f}",
        text,
    )
