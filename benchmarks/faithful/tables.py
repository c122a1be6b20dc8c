"""Tables of a comparison: means with errors, and paired differences, corrected for how many are looked at."""

from __future__ import annotations

from benchmarks.faithful.rankings import REFERENCE, SPREAD
from lrp_fx.evaluation import Metric, registered
from lrp_fx.evaluation.tables import Rows, Values, differences, marks, means, to_reference

#: The metrics of texts that are looked at first.
HEADLINE = ("AUAC generation", "AU-MSE generation", "AUAC pruning", "AU-MSE pruning", "ABPC")

#: Those that the pages have beside them.
FURTHER = ("MoRF", "LeRF", "AUAC pruning, signed", "AU-MSE pruning, signed")

MARKS = marks(REFERENCE)


def areas() -> list[Metric]:
    """The areas under curves that the pages of texts measure."""
    return [registered[name] for name in (*HEADLINE, *FURTHER)]


def controlled(values: Values) -> dict[str, str]:
    """Rankings with position, by the control that spreads it."""
    return {label.removesuffix(SPREAD): label for label in values if label.endswith(SPREAD)}


def tables(values: Values, metrics: list[Metric]) -> dict[str, Rows]:
    """The tables of one model, by their caption."""
    main, further = [m for m in metrics if m.name in HEADLINE], [m for m in metrics if m.name not in HEADLINE]
    found = {
        "Mean ± standard error": means(values, main, REFERENCE),
        f"Difference to {REFERENCE}: mean, median (p)": differences(values, main, to_reference(values, REFERENCE)),
        "Difference to the control, whose position relevance is spread evenly: mean, median (p)": differences(
            values, main, controlled(values)
        ),
        "Further metrics": means(values, further, REFERENCE),
    }
    return {caption: rows for caption, rows in found.items() if len(rows) > 1 and len(rows[0]) > 1}
