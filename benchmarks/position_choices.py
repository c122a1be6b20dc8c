"""Choices about position that no output fixes: ``python -m benchmarks position_choices [FOLDER]``.

FOLDER holds the four ``synth_*`` models (as ``examples/models`` does). Biases between tokens are read as they stand or
against a reference, and credited to keys, queries or both; a rotary score is split between content and position in four
ways; keys are read as they stand or centred; relevance is read at every depth. Every choice is compared, sequence by
sequence, with the plain one: hit and mass on all causal tokens, and without the question, which attends and so gains
from any credit to queries.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import Tensor

import lrp_fx
from benchmarks import page
from benchmarks.compare import Noise
from lrp_fx.evaluation.paired import compare
from lrp_fx.rule import registry
from testing.reference_decoder import SPLITS, explain
from testing.scoring import Sequences, hits_and_masses, load_model, load_sequences, without_last

REFERENCES = {
    "as it stands": {},
    "row mean": {"bias": "bias.row_mean"},
    "attention mean": {"bias": "bias.attention_mean"},
}
COLUMNS = ("hit", "mass", "hit without question", "mass without question")
#: A method's scores: label -> (B, T).
Methods = dict[str, Tensor]


def biases(folder: Path, sequences: Sequences) -> Methods:
    """Reference by credit, with the position relevance signed."""
    model = load_model(folder)
    found: Methods = {}
    for name, leaves in REFERENCES.items():
        rules = dataclasses.replace(registry.rulesets["pa-lrp"], name=name, leaves=leaves)
        relevance = lrp_fx.convert(model, rules=rules)(
            input_ids=sequences.ids, attention_mask=sequences.mask, target=lrp_fx.targets.Class(sequences.labels)
        )
        found.setdefault("content alone", _tokens(relevance.per_token(None)))
        for credit in ("key", "query", "both"):
            found[f"{name}, {credit}"] = _tokens(relevance.per_token(credit=credit))
    return found


def _tokens(found: Tensor | dict[str, Tensor]) -> Tensor:
    assert isinstance(found, Tensor)
    return found


AGGREGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "signed": lambda R: R.sum(-1),
    "positive": lambda R: R.clamp(min=0).sum(-1),
}


def rotations(folder: Path, sequences: Sequences) -> Methods:
    """The four splits of a rotary score, content alone and with position."""
    model = load_model(folder).requires_grad_(False)
    found: Methods = {}
    for split in SPLITS:
        explained = explain(model, sequences, split)
        found[f"{split}: content alone"] = explained.content
        for credit in ("key", "query") if split == "scores" else ("key",) if split != "none" else ():
            for name, aggregate in AGGREGATES.items():
                label = f"{split}: {name}" + (f", {credit}" if split == "scores" else "")
                found[label] = explained.content + explained.position(
                    aggregate, credit=credit, centred=split == "scores"
                )
    return found


def keys(folder: Path, sequences: Sequences) -> Methods:
    """Keys as they stand or against their attention-weighted mean, no position."""
    explained = explain(load_model(folder).requires_grad_(False), sequences, "none")
    return {"keys as they stand": explained.content, "keys centred": explained.content + explained.centred_keys()}


def depths(rules: str) -> Callable[[Path, Sequences], Methods]:
    """Relevance of the residual stream at every depth by itself, and their mean, content alone."""

    def methods(folder: Path, sequences: Sequences) -> Methods:
        explain_with = lrp_fx.convert(load_model(folder), rules=rules)
        relevance = explain_with(
            input_ids=sequences.ids, attention_mask=sequences.mask, target=lrp_fx.targets.Class(sequences.labels)
        )
        rows = _tokens(relevance.depth)
        names = ["before the first block", *(f"after block {i + 1}" for i in range(len(rows) - 1))]
        return {
            "input": _tokens(relevance.per_token(None)),
            **dict(zip(names, rows, strict=True)),
            "mean over depths": rows.mean(0),
        }

    return methods


def compared(title: str, methods: Methods, plain: str, sequences: Sequences) -> tuple[Table, str]:
    """For the terminal and as markdown: mean hit and mass of each method, p of the paired test against ``plain``."""
    views = (sequences, without_last(sequences))
    values = {label: [v for view in views for v in hits_and_masses(scores, view)] for label, scores in methods.items()}
    shown = Table("choice", *COLUMNS, title=title, title_justify="left")
    rows = []
    for label, columns in values.items():
        cells = [f"{float(v.mean()):.3f}" + _p(v, base) for v, base in zip(columns, values[plain], strict=True)]
        shown.add_row(label, *cells)
        rows.append([label, *cells])
    return shown, page.table(("choice", *COLUMNS), rows)


def _p(values: Tensor, base: Tensor) -> str:
    return "" if bool((values == base).all()) else f" (p {compare(values, base).p:.1g})"


ABOUT = """\
What the choices are and what follows from the figures is in `docs/position.md`. **hit** and **mass** as in
`docs/measured/known_answers.md`; **without question**: with the last token taken off the sequence and off its causal
tokens. In these tasks the last token asks the question, reads the answer, and is always causal: whatever credits
queries, or reads relevance late in the model, credits it. p: paired Wilcoxon signed-rank test over the sequences, not
corrected for the number of comparisons.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, default=page.ROOT / "examples" / "models", help="of models")
    parser.add_argument("--count", type=int, default=500, help="sequences of each model")


def comparisons() -> list[tuple[str, str, Callable[[Path, Sequences], Methods], str]]:
    """(title, model, its methods, the plain one)."""
    linear = "Biases between tokens: linear (ALiBi, written as a function of the key's position)"
    return [
        ("Biases between tokens: bucketed (T5)", "synth_t5", biases, "as it stands, key"),
        (linear, "synth_alibi", biases, "as it stands, key"),
        ("Rotary scores", "synth_rope", rotations, "half: signed"),
        ("Content scores", "synth_rope", keys, "keys as they stand"),
        *(
            (f"Depth, {rules}", model, depths(rules), "input")
            for rules in ("attnlrp", "attnlrp-gamma")
            for model in ("synth_rope", "synth_learned", "synth_t5", "synth_alibi")
        ),
    ]


def body(options: argparse.Namespace) -> Iterator[str]:
    console, sections = Console(width=150), []
    for title, model, methods, plain in comparisons():
        sequences = load_sequences(options.folder / model, options.count)
        heading = f"{title}, {model}, {len(sequences.ids)} sequences; p against “{plain}”"
        shown, rows = compared(heading, methods(options.folder / model, sequences), plain, sequences)
        console.print(shown)
        sections.append(f"### {heading}\n\n{rows}")
        yield "\n\n".join(sections)


BENCHMARK = page.Page(
    "position_choices",
    "Choices about position that no output fixes, compared sequence by sequence",
    "position_choices.md",
    "Choices about position that no output fixes, measured",
    lambda options: ABOUT,
    body,
    add_options,
    selects=("folder", "count"),
    noise=dict.fromkeys(COLUMNS, Noise(relative=0.1, absolute=0.002)),
)
