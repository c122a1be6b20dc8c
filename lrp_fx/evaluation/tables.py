"""Tables of a comparison: means with errors, and paired differences, corrected for how many are looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from lrp_fx.evaluation.metric import Metric
from lrp_fx.evaluation.paired import Comparison, compare, corrected, mean_and_error

#: label of a ranking -> metric -> its values (examples,)
Values = Mapping[str, Mapping[str, Tensor]]
Rows = list[list[str]]
Compared = dict[tuple[str, str], Comparison]


def marks(reference: str) -> str:
    """What the signs in a table of means say."""
    return f"""\
`++` and `--`: better and worse than {reference} with p < 0.01 in a two-sided Wilcoxon signed-rank test over examples,
`+` and `-`: with p < 0.05; p is corrected for the number of comparisons in its table (Holm 1979)."""


def against(values: Values, metrics: Sequence[Metric], pairs: Mapping[str, str]) -> Compared:
    """Of each ranking to another, metric by metric; p corrected for all of them together."""
    found = {(a, m.name): compare(values[a][m.name], values[b][m.name]) for a, b in pairs.items() for m in metrics}
    return dict(zip(found, corrected(list(found.values())), strict=True))


def to_reference(values: Values, reference: str) -> dict[str, str]:
    """Every other ranking with the reference."""
    return {label: reference for label in values if label != reference}


def means(values: Values, metrics: Sequence[Metric], reference: str) -> Rows:
    """Heading and rows: mean ± standard error, with the verdict of the paired test against the reference."""
    found = against(values, metrics, to_reference(values, reference))
    rows = [["ranking", *(m.heading for m in metrics)]]
    for label, row in values.items():
        cells = [label]
        for metric in metrics:
            mean, error = mean_and_error(row[metric.name])
            verdict = found[label, metric.name].verdict(metric.better) if label != reference else ""
            cells.append(f"{mean:.3f} ± {error:.3f} {verdict}".rstrip())
        rows.append(cells)
    return rows


def differences(values: Values, metrics: Sequence[Metric], pairs: Mapping[str, str]) -> Rows:
    """Heading and rows: mean and median of the differences of a ranking to another, and p of the paired test."""
    rows = [["ranking", *(m.name for m in metrics)]]
    found = against(values, metrics, pairs)
    for label in pairs:
        cells = (found[label, m.name] for m in metrics)
        rows.append([label, *(f"{c.mean:+.4f}, {c.median:+.4f} (p {c.p:.2g})" for c in cells)])
    return rows


def definitions(metrics: Sequence[Metric]) -> Rows:
    """What the metrics are."""
    return [["metric", "definition", "better", "source"]] + [
        [m.name, m.definition, m.better, ", ".join(m.cites)] for m in metrics
    ]
