"""The history: which model was verified with which versions. Rows are added, and none is ever taken away."""

from __future__ import annotations

import csv
import datetime
from pathlib import Path

from benchmarks.page import MEASURED
from benchmarks.real.rows import Rows, versions

FILE = MEASURED / "verified.csv"
HEADINGS = ("model", "packages", "lrp_fx", "torch", "transformers", "date", "verified", "worst error")
#: The types of error above which a model counts as not verified: books in float32, pictures that must not change.
BOOKS, PICTURES = 1e-5, 1e-3


def add(rows: Rows, names: list[str], file: Path = FILE) -> None:
    """A row for every model that was measured whole, and is right, unless the same is the last that is said of it."""
    before = table(file)
    said = {row[0]: row for row in before}
    new = [row for name in names if (row := _row(rows, name)) and _same(said.get(name)) != _same(row)]
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out, lineterminator="\n").writerows([HEADINGS, *before, *new])


def table(file: Path = FILE) -> list[list[str]]:
    """All rows of the history, the oldest first."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as given:
        return list(csv.reader(given))[1:]


def _same(row: list[str] | None) -> list[str] | None:
    """A row without its date and figure, which another run of the same need not repeat."""
    return row and [cell for cell, heading in zip(row, HEADINGS, strict=True) if heading not in ("date", "worst error")]


def _row(rows: Rows, name: str) -> list[str] | None:
    """What is said of a model; None where something is missing or wrong."""
    if not rows.complete(name) or not rows.get(name, "sense")["right"]:
        return None
    presets = rows.get(name, "books")
    good = [preset for preset, found in presets.items() if verified(found)]
    if not good:
        return None
    whole = "all presets" if len(good) == len(presets) else ", ".join(good)
    worst = max(presets[preset]["error"] for preset in good)
    given = versions(name)
    what = f"outputs, books, padding, checkpoint, file, bfloat16; {whole}"
    return [name, *given.values(), datetime.date.today().isoformat(), what, f"{worst:.0e}"]


def verified(found: dict[str, float]) -> bool:
    """Do books close under a preset, and are pictures the same in a batch, from a file and with blocks recomputed?"""
    return (
        "failed" not in found
        and found["error"] <= BOOKS
        and max(found["padded"], found["checkpoint"]) <= PICTURES
        and bool(found["saved"])
    )
