"""Known answers of trained models: ``python -m benchmarks known_answers [FOLDER]``.

FOLDER holds one folder per model. Synthetic models (with ``eval.npz`` and marked causal tokens) are scored for every
preset, every aggregation of position and both depths, and compared with published figures where there are any; every
other model is run on its own held-out data and its ledger reported.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import lrp_fx
from benchmarks import placeless
from benchmarks.compare import Noise
from benchmarks.page import ROOT, Page, table
from testing.compiled import Compiled, words
from testing.published import PUBLISHED, TOLERANCE, Published
from testing.scoring import hit_and_mass, load_model, load_sequences, rebuild_model, without_last

HEADINGS = (
    "preset",
    "position",
    "hit",
    "mass",
    "hit without the last",
    "mass without the last",
    "hit, mean depth",
    "mass, mean depth",
    "published hit, mass",
)


@dataclass(frozen=True)
class Row:
    """One preset and aggregation: hit and mass at the input, the same without the last token, and averaged over depths;
    ``published``: hit and mass, or None.
    """

    preset: str
    aggregation: str | None
    at_input: tuple[float, float]
    without: tuple[float, float]
    over_depths: tuple[float, float]
    published: tuple[float, float] | None

    @property
    def agrees(self) -> bool:
        return self.published is None or all(
            abs(a - b) <= TOLERANCE for a, b in zip(self.at_input, self.published, strict=True)
        )

    def cells(self) -> list[str]:
        numbers = [f"{v:.3f}" for v in (*self.at_input, *self.without, *self.over_depths)]
        published = (
            ""
            if self.published is None
            else f"{self.published[0]:.3f}, {self.published[1]:.3f}" + ("" if self.agrees else " (differs)")
        )
        return [self.preset, self.aggregation or "content alone", *numbers, published]


@dataclass(frozen=True)
class Answers:
    """A model's rows, and by preset the shares of the score (medians), the worst ledger error and the worst depth
    error.
    """

    name: str
    count: int
    rows: list[Row]
    books: dict[str, tuple[dict[str, float], float, float]]


def synthetic(folder: Path, count: int | None) -> Answers:
    """Every preset on the first sequences of a model with known causal tokens."""
    published = PUBLISHED.get(folder.name, Published(100))
    model, sequences = load_model(folder), load_sequences(folder, count or published.count)
    rows: list[Row] = []
    books: dict[str, tuple[dict[str, float], float, float]] = {}
    for preset in lrp_fx.rulesets():
        relevance = lrp_fx.convert(model, rules=preset)(
            input_ids=sequences.ids, attention_mask=sequences.mask, target=lrp_fx.targets.Class(sequences.labels)
        )
        for aggregation in (None, *(lrp_fx.aggregations() if relevance.position else ())):
            tokens, streams = (relevance.per_token(aggregation, depth=d) for d in ("input", "mean"))
            at_input, over_depths = (hit_and_mass(scores, sequences) for scores in (tokens, streams))
            without = hit_and_mass(tokens, without_last(sequences))
            known = published.figures.get((preset, aggregation)) if len(sequences.ids) == published.count else None
            rows.append(Row(preset, aggregation, at_input, without, over_depths, known))
        ledger = relevance.ledger
        shares = {name: float(share.median()) for name, share in ledger.shares().items()}
        books[preset] = (shares, float(ledger.error.max()), max(float(d.error.max()) for d in ledger.depths))
    return Answers(folder.name, len(sequences.ids), rows, books)


COMPILED = ("preset", "position", "content", "sinks, largest of any", "ledger error")


def compiled(folder: Path, count: int = 20) -> list[list[str]]:
    """Of a program whose algorithm is known: shares of what was written at each place, means; the sink largest in
    magnitude of any example, and the worst error.
    """
    model = Compiled(folder)
    ids = words(model, count)
    with torch.no_grad():
        answers = model(ids).argmax(-1)
    rows = []
    for preset in lrp_fx.rulesets():
        explain = lrp_fx.convert(model, rules=preset)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what presets leave unexplained: it is in the table
            ledgers = [
                explain(input_ids=ids, target=lrp_fx.targets.Class(answers[:, place], position=place)).ledger
                for place in range(1, ids.shape[1])
            ]
        shares = [ledger.shares() for ledger in ledgers]
        mean = {n: float(torch.cat([s[n] for s in shares if n in s] or [torch.zeros(1)]).mean()) for n in LEAVES}
        sunk = max(float(abs(s[n]).max()) for s in shares for n in s if n not in LEAVES)
        error = max(float(ledger.error.max()) for ledger in ledgers)
        rows.append([preset, *(f"{mean[n]:.3f}" for n in LEAVES), f"{sunk:.3f}", f"{error:.1e}"])
    return rows


LEAVES = ("position", "content")


def show(console: Console, answers: Answers) -> None:
    shown = Table(*HEADINGS, title=f"{answers.name}, {answers.count} sequences", title_justify="left")
    for row in answers.rows:
        shown.add_row(*row.cells())
    console.print(shown)
    for preset, (shares, error, at_depths) in answers.books.items():
        console.print(f"  {preset:<16}{_shares(shares)}; error {error:.1e}, at depths {at_depths:.1e}", highlight=False)


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.3f}" for name, share in shares.items())


BOOKS = ("preset", "shares of the score (medians)", "worst ledger error", "worst error at a depth")


def markdown(answers: Answers) -> str:
    books = [
        [preset, _shares(shares), f"{error:.1e}", f"{at_depths:.1e}"]
        for preset, (shares, error, at_depths) in answers.books.items()
    ]
    head = f"## {answers.name}\n\nFirst {answers.count} held-out sequences."
    return "\n\n".join([head, table(HEADINGS, [row.cells() for row in answers.rows]), table(BOOKS, books)])


def closing(folder: Path, count: int) -> str:
    """Explain held-out data and report the worst ledger error and the shares."""
    if (folder / "eval.npz").exists():
        with np.load(folder / "eval.npz", allow_pickle=True) as data:
            pixels = torch.tensor(data["images"][:count]).float().reshape(-1, 1, *data["images"].shape[1:3]) / 127.5 - 1
        batches: list[dict[str, Any]] = [{"pixel_values": pixels}]
        model = load_model(folder)
    else:
        rows = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()[:count]]
        batches = [
            {
                "input_ids": torch.tensor([r["input_ids"]]),
                "attention_mask": torch.ones(1, len(r["input_ids"]), dtype=torch.int64),
            }
            for r in rows
        ]
        model = rebuild_model(folder) if (folder / "load.py").exists() else load_model(folder)
    explain = lrp_fx.convert(model)
    results = [explain(**b) for b in batches]
    errors = torch.cat([r.ledger.error for r in results])
    shares = {n: float(torch.cat([r.ledger.shares()[n] for r in results]).median()) for n in results[0].ledger.shares()}
    found = f"{len(errors)} examples, captures {explain.statistics.captures}, "
    found += f"ledger error worst {float(errors.max()):.1e}, median {float(errors.median()):.1e}"
    return f"{folder.name}, {explain.ruleset.name}: {found}; {_shares(shares)}"


ABOUT = """\
Models whose truly causal tokens are known: trained on a task that cannot be solved without positions (synth), on a
small task of its own (task_count and task_majority are answered by how many tokens of a kind there are, wherever they
stand: there position is no cause), or compiled from a program (the share of position is the figure there: it alone
decides what `reverse` copies).

**hit**: with k causal tokens, the share of them among the k highest scores; **mass**: the share of positive relevance
on them (position 0 and padding excluded); **without the last**: with the last token taken off the sequence and off
its causal tokens. It reads the answer, so a rule that gives relevance to queries gives it to this token; in the synth
tasks it also asks the question, in the others it is the same for all. Target: the true label's logit, float32. **mean
depth** averages a token's relevance over the depths of the residual stream. **published**: an independent
implementation's figure, where there is one for the same sample; figures agree within 0.01 unless marked.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "examples" / "models", help="of models")
    parser.add_argument(
        "--count", type=int, help="examples of each model (default: the sample of the published figures, else 100)"
    )


def body(options: argparse.Namespace) -> Iterator[str]:
    console, sections = Console(width=130), []
    tasks: list[list[str]] = []
    for folder in sorted(p.parent for p in options.folder.glob("*/README.md")):
        marked = (folder / "eval.npz").exists() and "gt_full" in np.load(folder / "eval.npz", allow_pickle=True)
        if marked:
            answers = synthetic(folder, options.count)
            show(console, answers)
            sections.append(markdown(answers))
            if folder.name.startswith("task_"):
                tasks += placeless.rows(folder, answers.count)
            yield "\n\n".join(sections)
        elif (folder / "eval.npz").exists() or (folder / "eval.jsonl").exists():
            count = min(options.count or 50, 15 if (folder / "eval.npz").exists() else 50)
            console.print(closing(folder, count), highlight=False)
        elif (folder / "program.json").exists():
            rows = compiled(folder)
            sections.append(f"## {folder.name}\n\nA program; see its README.\n\n{table(COMPILED, rows)}")
            console.print(sections[-1], highlight=False)
            yield "\n\n".join(sections)
        else:
            console.print(f"{folder.name}: no held-out data beside it", highlight=False)
    if tasks:
        sections.append(f"{placeless.INTRO}\n\n{table(placeless.HEADINGS, tasks)}")
        console.print(sections[-1], highlight=False)
        yield "\n\n".join(sections)


ROUNDING = Noise(absolute=1e-4)
BENCHMARK = Page(
    "known_answers",
    "How many of the truly causal tokens each preset finds, beside published figures",
    "known_answers.md",
    "Known answers",
    lambda options: ABOUT,
    body,
    add_options,
    selects=("folder", "count"),
    noise={
        **dict.fromkeys(HEADINGS[2:8], Noise(absolute=0.002)),
        **dict.fromkeys(BOOKS[2:], ROUNDING),
        BOOKS[1]: Noise(absolute=0.001),
        **dict.fromkeys(placeless.FIGURES, Noise(relative=0.02, absolute=0.1)),
    },
    fault="(differs)",
)
