"""Do explanations rank words as the model needs them? ``python -m benchmarks perturbation FOLDER``.

FOLDER holds one folder per text classifier, with held-out sentences in ``eval.jsonl``. Every ranking of `rankings` and
`controls` is scored by the areas of `benchmarks.faithful.tables`, and compared with attnlrp, sentence by sentence. The
explained class is the predicted one; words are replaced by the mask token; the first and the last token stay.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import lrp_fx
from benchmarks.compare import OTHERS, Noise
from benchmarks.faithful.rankings import (
    POSITIONED,
    REFERENCE,
    SPREAD,
    by_rules,
    compared,
    leaning,
    over_depths,
    spread,
)
from benchmarks.faithful.tables import MARKS, areas, tables
from benchmarks.page import Page, table
from lrp_fx.evaluation import Case, Example, Metric, Ranking
from lrp_fx.evaluation.rankings import LATER, RANDOM, Control, Given, later_first, random_order
from lrp_fx.evaluation.tables import Rows, Values, definitions
from lrp_fx.rule import registry
from testing.scoring import load_model, rebuild_model

MODELS = ("llama_sst2", "minilm_sst2")


def rankings() -> list[Ranking]:
    """What is explained and compared; to compare more, add to this list."""
    chosen = compared()
    known = {r.label for r in chosen}
    every = [Ranking(f"pa-lrp, {a}", "pa-lrp", {"position": a}) for a in registry.aggregations]
    return [*chosen, *(r for r in every if r.label not in known), *over_depths()]


def controls() -> list[Control]:
    """What is compared beside it."""
    spreads = [spread(preset, "positive") for preset in POSITIONED]
    return [random_order(), later_first(), leaning("pa-lrp-path, signed"), *spreads]


def scores_of(relevance: lrp_fx.Relevance, ranking: Ranking) -> Tensor:
    """(T,): the scores of the one sentence explained, of the only token input."""
    tokens = relevance.per_token(**ranking.options)
    if not isinstance(tokens, Tensor):
        raise SystemExit(f"one token input expected, not {', '.join(tokens)}")
    return tokens[0]


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
    """Scores (T,) of every sentence by the label of the ranking; each preset is converted once. Controls come first."""
    scores: dict[str, list[Tensor]] = {r.label: [] for r in (*controls(), *rankings())}
    for name, chosen in by_rules(rankings()).items():
        explainer = lrp_fx.convert(material.model, rules=chosen[0].rules)
        for ids in progress(material.sentences, f"{material.name}: explain, {name}"):
            relevance = explainer(**batch(ids.unsqueeze(0)))
            for ranking in chosen:
                scores[ranking.label].append(scores_of(relevance, ranking))
    generator = torch.Generator().manual_seed(seed)
    for i, ids in enumerate(material.sentences):
        found = {r.label: scores[r.label][i] for r in rankings()}
        given = Given(len(ids), torch.arange(1, len(ids) - 1), found, generator)
        for control in controls():
            scores[control.label].append(control.scores(given))
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
    """Every area of every ranking and sentence."""
    everything, metrics = examples(material), areas()
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


# ------------------------------------------------------------------------------------------------ the page
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


def about(options: argparse.Namespace) -> str:
    import transformers

    versions = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"
    return f"""\
Words are inserted into, or replaced in, held-out sentences in the order of their scores; the area under the model's
answer says how well the order fits the model. The explained class is the predicted one, the fill is the mask token, the
first and the last token stay. Sentences are the first {options.count} of the held-out file with at least
{options.min_tokens} tokens, those two counted (lrp_fx {lrp_fx.__version__}, {versions}).

{MARKS}

Controls explain nothing. `{RANDOM}`, `{LATER}`, and attnlrp with a term that leans to later words as much as the path
rule does: what is not better than these is no finding. `{SPREAD.strip(", ")}`: the sum of the position relevance is
divided evenly among the words, so that it says nothing about which word has it; what a position-aware ranking gains
over {REFERENCE} but not over this is not due to where the position relevance lies.

`temperature 2` and `rows shared` are attnlrp with the softmax rules of `rules/softmax_others.py`; `attnlrp-gamma` is
the published setting of ResLRP."""


def sections(found: list[tuple[Material, dict[str, Rows]]], metrics: list[Metric]) -> str:
    """The results of each model and what the metrics are."""
    parts = []
    for material, shown in found:
        parts.append(f"## {material.name}, {len(material.sentences)} sentences")
        for caption, rows in shown.items():
            parts += [f"{caption}:", table(rows[0], rows[1:])]
    heading, *rows = definitions(metrics)
    return "\n\n".join([*parts, "## Metrics", table(heading, rows)])


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
