"""Every head of every type: ``python -m benchmarks heads [TYPE ...] [--again failed]``, as `coverage` for the first."""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from benchmarks.coverage import sweep
from benchmarks.coverage.examine import GRADIENT, SAME
from benchmarks.coverage.page import about as about_types
from benchmarks.coverage.reasons import true_reason
from benchmarks.coverage.row import Row
from benchmarks.page import Page
from benchmarks.page import table as markdown

COUNTED = ("run forward", "captured", "closed", "nothing approximated", "gradient equal", "padded equal")
LEGEND = """\
A head that several tasks name is one head, listed under the first of them. *run forward*: the tiny model can be built
here and accepts one of the inputs that are tried; all further columns count these. *closed*: the ledger of each example
and every site balance. *gradient equal*: the preset `gradient` is gradient x input by autograd (of those that autograd
differentiates); *padded equal*: a padded example has the relevance of the example alone, and padding none (of those
whose own answer does not change)."""


def add_options(parser: argparse.ArgumentParser) -> None:
    sweep.add_options(parser)
    parser.set_defaults(heads="all")


def about(options: argparse.Namespace) -> str:
    return f"{about_types(options)} Here: every head that they name."


def body(options: argparse.Namespace) -> Iterator[str]:
    todo = len(sweep.jobs(options.heads))
    rows = sweep.measured(options)
    yield "\n\n".join(
        [summary(rows, todo), LEGEND, by_task(rows), "## What is short", shortfalls(rows), *not_run(rows)]
    )


def counts(rows: Sequence[Row]) -> list[str]:
    """One cell for each of `COUNTED`."""
    run = [r for r in rows if r.runs]
    compared = [r for r in run if r.gradient == r.gradient]
    equal = sum(r.gradient <= (GRADIENT if r.dtype == "float64" else SAME) for r in compared)
    padded = [r for r in run if any(w in r.padding for w in ("ok", "off", "gets", "failed"))]
    good = sum(not any(w in r.padding for w in ("off", "gets", "failed")) for r in padded)
    simple = [sum(getattr(r, name) for r in run) for name in ("captured", "closed", "explained")]
    return [str(n) for n in (len(run), *simple)] + [f"{equal} of {len(compared)}", f"{good} of {len(padded)}"]


def summary(rows: Sequence[Row], heads: int) -> str:
    """What the sweep came to, in one line."""
    stopped = f" of {heads}: the sweep was stopped before it came to the others" if len(rows) < heads else ""
    said = ", ".join(f"{n} {what}" for n, what in zip(counts(rows), COUNTED, strict=True))
    wide = [r for r in rows if r.closed and r.dtype == "float64"]
    worst = ", ".join(f"{what} {max((getattr(r, what) for r in wide), default=0.0):.0e}" for what in ("ledger", "site"))
    narrow = sum(r.closed and r.dtype == "float32" for r in rows)
    run = sum(r.runs for r in rows)
    share = sum(r.closed for r in rows) / max(1, run)
    return (
        f"**{len(rows)} heads ({len({r.model_type for r in rows})} types){stopped}: {said}. Closed: {share:.1%} of "
        f"those that run.** Worst in float64: {worst}; {narrow} only in float32."
    )


def by_task(rows: Sequence[Row]) -> str:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.task].append(row)
    lines = [[task.lower(), str(len(group)), *counts(group)] for task, group in sorted(groups.items())]
    return markdown(["task", "heads", *COUNTED], lines)


def shortfalls(rows: Sequence[Row]) -> str:
    short = [r for r in rows if r.runs and (not r.explained or r.reason or _padding(r))]
    return markdown(
        ["model type", "head", "stage", "what is short"],
        [[r.model_type, r.head, r.stage, _said(r)] for r in sorted(short, key=lambda r: (r.model_type, r.task))],
    )


def _said(row: Row) -> str:
    approximated = ", ".join(f"{n} x {op}" for op, n in row.approximated.items())
    parts = [row.reason, f"approximated: {approximated}" if approximated else "", _padding(row), true_reason(row)]
    return ". ".join(p for p in parts if p).replace("|", "\\|")


def _padding(row: Row) -> str:
    return f"padding {row.padding}" if any(w in row.padding for w in ("failed", "gets", "off")) else ""


def not_run(rows: Sequence[Row]) -> list[str]:
    """What was not tried, and why, in one line for each reason."""
    missing = [r for r in rows if not r.runs]
    if not missing:
        return []
    kinds = Counter(
        "needs a package that is not installed" if "ImportError" in r.reason else f"{r.stage} with the inputs tried"
        for r in missing
    )
    said = "; ".join(f"{n} {kind}" for kind, n in kinds.items())
    names = ", ".join(sorted(f"{r.model_type} ({r.task.lower()})" for r in missing))
    return ["## Not run", f"{said}: {names}."]


BENCHMARK = Page(
    "heads",
    "Every head of every model type: captured, closed, its gradient autograd's, padded as alone",
    "heads.md",
    "Heads: every head that transformers names",
    about,
    body,
    add_options,
    selects=("heads", "sample"),
)
