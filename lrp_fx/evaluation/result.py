"""The result of an evaluation: every value, and tables of them with errors and paired tests."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lrp_fx.errors import InputError
from lrp_fx.evaluation.metric import Metric
from lrp_fx.evaluation.paired import mean_and_error
from lrp_fx.evaluation.tables import Compared, Rows, Values, against, differences, marks, means, to_reference

_WIDTH = 100


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """What `lrp_fx.evaluate` found.

    ``values``     label of a ranking -> name of a metric -> its values (examples,) in float64.
    ``metrics``    what was measured, in the order of the columns.
    ``reference``  the label that all others are compared with: the explainer's own rules.
    ``controls``   labels of what explains nothing.
    ``targets``    what was explained of each example.
    ``fill``       what stood in the place of a unit, in words. ``units``: what was taken away.
    """

    values: Values
    metrics: tuple[Metric, ...]
    reference: str
    controls: tuple[str, ...]
    targets: tuple[str, ...]
    fill: str
    units: str

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.targets)

    @property
    def labels(self) -> list[str]:
        """The rankings: the explainer's own, those it was compared with, controls."""
        return list(self.values)

    @cached_property
    def comparisons(self) -> Compared:
        """(label, metric) -> paired comparison with the reference: differences are of the label minus the reference, p
        is corrected for all of them together (Holm 1979).
        """
        return against(self.values, self.metrics, to_reference(self.values, self.reference))

    def mean(self, label: str, metric: str) -> tuple[float, float]:
        """Mean over examples and its standard error; raises `InputError` for a label or a metric that there is not."""
        if label not in self.values or metric not in self.values[label]:
            names = ", ".join(m.name for m in self.metrics)
            raise InputError(f"no {metric!r} of {label!r}: rankings are {', '.join(self.values)}, metrics {names}")
        return mean_and_error(self.values[label][metric])

    def table(self) -> Rows:
        """Heading and rows: mean ± standard error of each ranking, with a sign where it differs from the reference."""
        return means(self.values, self.metrics, self.reference)

    def differences(self) -> Rows:
        """Heading and rows: mean and median of the differences to the reference, and p of the paired test."""
        return differences(self.values, self.metrics, to_reference(self.values, self.reference))

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain numbers and texts, as JSON takes them."""
        tests = {
            label: {
                m.name: {"mean": c.mean, "median": c.median, "shift": c.shift, "p": c.p}
                for m in self.metrics
                if (c := self.comparisons.get((label, m.name))) is not None
            }
            for label in self.values
            if label != self.reference
        }
        return {
            "examples": len(self),
            "reference": self.reference,
            "controls": list(self.controls),
            "fill": self.fill,
            "units": self.units,
            "targets": list(self.targets),
            "metrics": {m.name: {"definition": m.definition, "better": m.better} for m in self.metrics},
            "values": {label: {name: v.tolist() for name, v in row.items()} for label, row in self.values.items()},
            "differences": tests,
        }

    def __str__(self) -> str:
        examples = "1 example" if len(self) == 1 else f"{len(self)} examples"
        head = f"{examples}; taken away: {self.units}; in their place: {self.fill}"
        note = f"mean ± standard error. {marks(self.reference)}"
        controls = f" {', '.join(self.controls)}: controls, which explain nothing." if self.controls else ""
        words = " ".join(f"{note}{controls}".split())
        return "\n".join([head, "", *_columns(self.table()), "", *textwrap.wrap(words, _WIDTH)])

    __repr__ = __str__


def _columns(rows: Rows) -> list[str]:
    """Rows of cells under each other, the first to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.ljust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return [line.rstrip() for line in lines]
