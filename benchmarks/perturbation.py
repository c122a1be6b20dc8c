"""Do explanations rank words as the model needs them? ``python -m benchmarks perturbation FOLDER``.

FOLDER holds one folder per text classifier, with held-out sentences in ``eval.jsonl``. Every ranking of `rankings` is
scored by every metric of `benchmarks.metrics` that needs the model alone, and compared with attnlrp, sentence by
sentence. The explained class is the predicted one; words are replaced by the mask token; the first and the last token
stay.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import lrp_fx
from benchmarks.compare import OTHERS, Noise
from benchmarks.metrics import Case, Example, Metric, applicable
from benchmarks.metrics.paired import compare, mean_and_error
from benchmarks.page import Page, table
from lrp_fx.rule import registry
from testing.scoring import load_model, rebuild_model

MODELS = ("llama_sst2", "minilm_sst2")
REFERENCE = "attnlrp"
RANDOM = "random order"
SPREAD = ", spread evenly"
DEPTH = ", mean over depths"
CONTROLLED = ("positive", "paper-positive")
HEADLINE = ("AUAC generation", "AU-MSE generation", "AUAC pruning", "AU-MSE pruning", "ABPC")

#: label of a ranking -> metric -> its values (examples,)
Values = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Ranking:
    """A way to score tokens: a preset and the keyword arguments of `Relevance.per_token`; without a preset, at random.

    ``spread``: a control. The relevance of position is spread evenly over the words: the same sum, and nothing about
    which word has it. Like any positive relevance of position, it only moves the scores up.
    """

    label: str
    preset: str | None
    options: dict[str, Any] = field(default_factory=dict)
    spread: bool = False

    def scores(self, relevance: lrp_fx.Relevance) -> Tensor:
        """(T,): the scores of the one sentence explained."""
        scores = _only(relevance.per_token(**self.options))
        if not self.spread:
            return scores
        content = _only(relevance.per_token(**{**self.options, "position": None}))
        return content + (scores - content)[1:-1].mean()


def _only(tokens: Tensor | dict[str, Tensor]) -> Tensor:
    """(T,): the tokens of the only sentence of the only token input."""
    if not isinstance(tokens, Tensor):
        raise SystemExit(f"one token input expected, not {', '.join(tokens)}")
    return tokens[0]


def rankings() -> list[Ranking]:
    """What is compared, in the order of the table; to compare more, add to this list."""
    found = [Ranking(RANDOM, None)]
    found += [
        Ranking(preset, preset, {"position": None}) for preset in ("gradient", REFERENCE, "cp-lrp", "attnlrp-gamma")
    ]
    for preset in ("pa-lrp", "pa-lrp-gamma"):
        found += [
            Ranking(f"{preset}, {aggregation or 'content only'}", preset, {"position": aggregation})
            for aggregation in (None, *registry.aggregations)
        ]
        found += [
            Ranking(f"{preset}, {aggregation}{SPREAD}", preset, {"position": aggregation}, spread=True)
            for aggregation in CONTROLLED
        ]
    for preset, aggregation in ((REFERENCE, None), ("pa-lrp", "signed"), ("pa-lrp", "positive")):
        found.append(
            Ranking(
                f"{preset}, {aggregation or 'content only'}{DEPTH}", preset, {"position": aggregation, "depth": "mean"}
            )
        )
    return found


@dataclass(frozen=True)
class Material:
    """A classifier, the id that stands for a removed word, and held-out sentences (T,) of it."""

    name: str
    model: nn.Module
    fill: int
    sentences: list[Tensor]


def load(folder: Path, count: int, min_tokens: int) -> Material:
    """The model and its first ``count`` sentences of at least ``min_tokens`` tokens, the first and last counted."""
    import transformers

    quiet: Any = transformers.logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    model: Any = rebuild_model(folder) if (folder / "load.py").exists() else load_model(folder)
    rows = [json.loads(line)["input_ids"] for line in (folder / "eval.jsonl").read_text().splitlines()]
    chosen = [torch.tensor(ids) for ids in rows if len(ids) >= min_tokens][:count]
    if not chosen:
        raise SystemExit(f"{folder.name}: no sentence has {min_tokens} tokens")
    return Material(
        folder.name, model, transformers.AutoTokenizer.from_pretrained(model.name_or_path).mask_token_id, chosen
    )


def progress(items: Iterable[Any], what: str) -> Iterable[Any]:
    """The items, with a bar on the terminal where tqdm is installed."""
    try:
        from tqdm import tqdm  # type: ignore[import-untyped]
    except ImportError:
        return items
    return tqdm(items, desc=what, disable=None, leave=False)  # type: ignore[no-any-return]


def batch(ids: Tensor) -> dict[str, Tensor]:
    """Inputs of the model for ids (B, T) without padding."""
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def explain(material: Material, seed: int) -> dict[str, list[Tensor]]:
    """Scores (T,) of every sentence by the label of the ranking; each preset is converted once."""
    generator = torch.Generator().manual_seed(seed)
    scores: dict[str, list[Tensor]] = {r.label: [] for r in rankings()}
    scores[RANDOM] = [torch.rand(len(ids), generator=generator) for ids in material.sentences]
    for preset in dict.fromkeys(r.preset for r in rankings() if r.preset):
        explainer = lrp_fx.convert(material.model, rules=preset)
        for ids in progress(material.sentences, f"{material.name}: explain, {preset}"):
            relevance = explainer(**batch(ids.unsqueeze(0)))
            for ranking in rankings():
                if ranking.preset == preset:
                    scores[ranking.label].append(ranking.scores(relevance))
    return scores


def examples(material: Material) -> list[Example]:
    """Every sentence with its predicted class and the words between its first and last token."""

    def predict(ids: Tensor) -> Tensor:
        logits: Tensor = material.model(**batch(ids)).logits
        return logits

    with torch.no_grad():
        targets = [int(predict(ids.unsqueeze(0)).argmax()) for ids in material.sentences]
    return [
        Example(ids, torch.arange(1, len(ids) - 1), target, predict, material.fill)
        for ids, target in zip(material.sentences, targets, strict=True)
    ]


def measure(material: Material, scores: dict[str, list[Tensor]]) -> tuple[Values, list[Metric]]:
    """Every applicable metric of every ranking and sentence."""
    everything = examples(material)
    metrics = applicable(everything[0])
    cells: dict[str, dict[str, list[float]]] = {label: {m.name: [] for m in metrics} for label in scores}
    for i, example in enumerate(progress(everything, f"{material.name}: perturb")):
        for label, ranked in scores.items():
            case = Case(example, ranked[i])
            for metric in metrics:
                cells[label][metric.name].append(metric(case))
    return {
        label: {name: torch.tensor(row, dtype=torch.float64) for name, row in rows.items()}
        for label, rows in cells.items()
    }, metrics


# ------------------------------------------------------------------------------------------------ tables
Rows = list[list[str]]


def means(values: Values, metrics: list[Metric]) -> Rows:
    """Heading and rows: mean ± standard error, with the verdict of the paired test against `REFERENCE`."""
    rows = [["ranking", *(f"{m.name} {'↑' if m.better == 'higher' else '↓'}" for m in metrics)]]
    for label, row in values.items():
        cells = [label]
        for metric in metrics:
            mean, error = mean_and_error(row[metric.name])
            verdict = compare(row[metric.name], values[REFERENCE][metric.name]).verdict(metric.better)
            cells.append(f"{mean:.3f} ± {error:.3f} {verdict}".rstrip())
        rows.append(cells)
    return rows


def differences(values: Values, metrics: list[Metric], pairs: dict[str, str]) -> Rows:
    """Heading and rows: mean and median of the differences of a ranking to another, and p of the paired test."""
    rows = [["ranking", *(m.name for m in metrics)]]
    for label, other in pairs.items():
        found = [compare(values[label][m.name], values[other][m.name]) for m in metrics]
        rows.append([label, *(f"{c.mean:+.4f}, {c.median:+.4f} (p {c.p:.2g})" for c in found)])
    return rows


def show(console: Console, title: str, rows: Rows) -> None:
    shown = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    for i, heading in enumerate(rows[0]):
        shown.add_column(heading, justify="right" if i else "left")
    for row in rows[1:]:
        shown.add_row(*row)
    console.print(shown)
    console.print()


def tables(values: Values, metrics: list[Metric]) -> dict[str, Rows]:
    """The tables of one model, by their caption."""
    main, further = [m for m in metrics if m.name in HEADLINE], [m for m in metrics if m.name not in HEADLINE]
    to_reference = {label: REFERENCE for label in values if label != REFERENCE}
    to_control = {label.removesuffix(SPREAD): label for label in values if label.endswith(SPREAD)}
    found = {
        "Mean ± standard error": means(values, main),
        f"Difference to {REFERENCE}: mean, median (p)": differences(values, main, to_reference),
        "Difference to the control, whose position relevance is spread evenly: mean, median (p)": differences(
            values, main, to_control
        ),
        "Further metrics": means(values, further),
    }
    return {caption: rows for caption, rows in found.items() if len(rows) > 1 and len(rows[0]) > 1}


def about(options: argparse.Namespace) -> str:
    import transformers

    versions = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"
    return f"""\
Words are inserted into, or replaced in, held-out sentences in the order of their scores; the area under the model's
answer says how well the order fits the model. The explained class is the predicted one, the fill is the mask token, the
first and the last token stay. Sentences are the first {options.count} of the held-out file with at least
{options.min_tokens} tokens, those two counted (lrp_fx {lrp_fx.__version__}, {versions}).

`++` and `--`: better and worse than {REFERENCE} with p < 0.01 in a two-sided Wilcoxon signed-rank test over sentences,
`+` and `-`: with p < 0.05; not corrected for the number of comparisons.

The rankings `{SPREAD.strip(", ")}` are a control: the sum of the position relevance is divided evenly among the words,
so that it says nothing about which word has it. What a position-aware ranking gains over {REFERENCE} but not over its
control is not due to where the position relevance lies."""


def sections(found: list[tuple[Material, dict[str, Rows]]], metrics: list[Metric]) -> str:
    """The results of each model and what the metrics are."""
    parts = []
    for material, shown in found:
        parts.append(f"## {material.name}, {len(material.sentences)} sentences")
        for caption, rows in shown.items():
            parts += [f"{caption}:", table(rows[0], rows[1:])]
    definitions = [[m.name, m.definition, m.better, ", ".join(m.cites)] for m in metrics]
    return "\n\n".join([*parts, "## Metrics", table(["metric", "definition", "better", "source"], definitions)])


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - start


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, default=Path("models"), help="of text classifiers")
    parser.add_argument(
        "--model", action="append", help=f"name of a model's folder, may be repeated (default: {', '.join(MODELS)})"
    )
    parser.add_argument("--count", type=int, default=200, help="sentences of each model")
    parser.add_argument(
        "--min-tokens", type=int, default=10, help="leave out shorter sentences; the first and last token count"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random order")


def body(options: argparse.Namespace) -> Iterator[str]:
    if not options.folder.is_dir():
        raise SystemExit(f"no folder {options.folder}: name the one that holds {', '.join(options.model or MODELS)}")
    console = Console() if sys.stdout.isatty() else Console(width=200)
    found: list[tuple[Material, dict[str, Rows]]] = []
    for name in options.model or MODELS:
        material = load(options.folder / name, options.count, options.min_tokens)
        scores, explaining = timed(explain, material, options.seed)
        (values, metrics), perturbing = timed(measure, material, scores)
        found.append((material, tables(values, metrics)))
        for caption, rows in found[-1][1].items():
            show(console, f"{name}, {len(material.sentences)} sentences: {caption}", rows)
        console.print(f"{name}: {explaining:.0f} s to explain, {perturbing:.0f} s to perturb", highlight=False)
        yield sections(found, metrics)


BENCHMARK = Page(
    "perturbation",
    "Do explanations rank words as the model needs them? Words put in, or taken out, in the order of their scores",
    "perturbation.md",
    "Perturbation: which words the model needs",
    about,
    body,
    add_options,
    selects=("model", "count", "min_tokens", "seed"),
    arguments=("FOLDER",),
    noise={OTHERS: Noise(relative=0.1, absolute=0.002)},
)
