"""Values of texts in a file, a line each, so that a long measurement goes on where it was.

Every line says what made it. A file in which another version or setting had a part is refused: values of two makes are
no sample.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: label -> metric -> value
Row = dict[str, dict[str, float]]


@dataclass(frozen=True)
class KeptRows:
    """``file``: where they are kept, or None. ``made``: what makes them, in words: versions and settings."""

    file: Path | None
    made: str

    def read(self) -> dict[int, Row]:
        """The values by the number of the text; raises `SystemExit` for rows that something else made."""
        if self.file is None or not self.file.exists():
            return {}
        found = [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]
        for number, kept in enumerate(found, 1):
            if kept["made"] != self.made:
                raise SystemExit(
                    f"{self.file}, line {number}: made by {kept['made']}; this is {self.made}\n"
                    "    next: the versions that made it, or --rows with another file, which begins anew"
                )
        return {kept["text"]: _of_lists(kept) for kept in found}

    def add(self, text: int, row: Row) -> None:
        """Append one; in one piece, since several processes may add to the file."""
        if self.file is None:
            return
        lists = {label: [float(f"{v:.6g}") for v in values.values()] for label, values in row.items()}
        names = {label: list(values) for label, values in row.items()}
        longest = max(names.values(), key=len)
        if any(own != longest[: len(own)] for own in names.values()):
            raise ValueError("metrics in several orders")
        kept = {"made": self.made, "text": text, "metrics": longest, "values": lists}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(kept, separators=(",", ":")) + "\n")


def _of_lists(kept: dict[str, Any]) -> Row:
    """Of a line; rankings that were asked less have the first of the metrics."""
    return {label: dict(zip(kept["metrics"], values, strict=False)) for label, values in kept["values"].items()}


def differing(old: Row, new: Row, tolerance: float = 1e-3) -> list[str]:
    """What of a text that was measured again is not as it was, in a line each; beyond what rounding turns about."""
    found = []
    for label in old.keys() | new.keys():
        for name in old.get(label, {}).keys() | new.get(label, {}).keys():
            a, b = (row.get(label, {}).get(name, float("nan")) for row in (old, new))
            if not abs(a - b) <= tolerance * max(1.0, abs(a)):
                found.append(f"{label}, {name}: {a:.6g} was kept, {b:.6g} is measured")
    return sorted(found)
