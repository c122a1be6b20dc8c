"""Tables of a comparison: means with errors, and paired differences, corrected for how many are looked at."""

from __future__ import annotations

from torch import Tensor

from benchmarks.faithful.rankings import REFERENCE, SPREAD
from benchmarks.metrics import Metric
from benchmarks.metrics.paired import Comparison, compare, corrected, mean_and_error

#: label of a ranking -> metric -> its values (examples,)
Values = dict[str, dict[str, Tensor]]
Rows = list[list[str]]
Compared = dict[tuple[str, str], Comparison]

#: The metrics of texts that are looked at first.
HEADLINE = ("AUAC generation", "AU-MSE generation", "AUAC pruning", "AU-MSE pruning", "ABPC")

MARKS = f"""\
`++` and `--`: better and worse than {REFERENCE} with p < 0.01 in a two-sided Wilcoxon signed-rank test over examples,
`+` and `-`: with p < 0.05; p is corrected for the number of comparisons in its table (Holm 1979)."""


def against(values: Values, metrics: list[Metric], pairs: dict[str, str]) -> Compared:
    """Of each ranking to another, metric by metric; p corrected for all of them together."""
    found = {(a, m.name): compare(values[a][m.name], values[b][m.name]) for a, b in pairs.items() for m in metrics}
    return dict(zip(found, corrected(list(found.values())), strict=True))


def to_reference(values: Values) -> dict[str, str]:
    return {label: REFERENCE for label in values if label != REFERENCE}


def means(values: Values, metrics: list[Metric]) -> Rows:
    """Heading and rows: mean ± standard error, with the verdict of the paired test against `REFERENCE`."""
    found = against(values, metrics, to_reference(values))
    rows = [["ranking", *(f"{m.name} {'↑' if m.better == 'higher' else '↓'}" for m in metrics)]]
    for label, row in values.items():
        cells = [label]
        for metric in metrics:
            mean, error = mean_and_error(row[metric.name])
            verdict = found[label, metric.name].verdict(metric.better) if label != REFERENCE else ""
            cells.append(f"{mean:.3f} ± {error:.3f} {verdict}".rstrip())
        rows.append(cells)
    return rows


def differences(values: Values, metrics: list[Metric], pairs: dict[str, str]) -> Rows:
    """Heading and rows: mean and median of the differences of a ranking to another, and p of the paired test."""
    rows = [["ranking", *(m.name for m in metrics)]]
    found = against(values, metrics, pairs)
    for label in pairs:
        cells = (found[label, m.name] for m in metrics)
        rows.append([label, *(f"{c.mean:+.4f}, {c.median:+.4f} (p {c.p:.2g})" for c in cells)])
    return rows


def controlled(values: Values) -> dict[str, str]:
    """Rankings with position, by the control that spreads it."""
    return {label.removesuffix(SPREAD): label for label in values if label.endswith(SPREAD)}


def tables(values: Values, metrics: list[Metric]) -> dict[str, Rows]:
    """The tables of one model, by their caption."""
    main, further = [m for m in metrics if m.name in HEADLINE], [m for m in metrics if m.name not in HEADLINE]
    found = {
        "Mean ± standard error": means(values, main),
        f"Difference to {REFERENCE}: mean, median (p)": differences(values, main, to_reference(values)),
        "Difference to the control, whose position relevance is spread evenly: mean, median (p)": differences(
            values, main, controlled(values)
        ),
        "Further metrics": means(values, further),
    }
    return {caption: rows for caption, rows in found.items() if len(rows) > 1 and len(rows[0]) > 1}


def definitions(metrics: list[Metric]) -> Rows:
    """What the metrics are."""
    return [["metric", "definition", "better", "source"]] + [
        [m.name, m.definition, m.better, ", ".join(m.cites)] for m in metrics
    ]
