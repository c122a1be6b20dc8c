"""What cancellation among tokens says of a picture: ``python -m benchmarks cancellation [--count N] [--write]``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import lrp_fx
from benchmarks.compare import Noise
from benchmarks.page import ROOT, Page, table
from lrp_fx.report.tokens import AGAINST_LIMIT, TOKEN_CANCELLATION_LIMIT
from testing.scoring import hits_and_masses, load_model, load_sequences

PRESETS = ("pa-lrp", "pa-lrp-gamma", "pa-lrp-path", "pa-lrp-path-gamma", "attnlrp")
#: The last begins where the warning does.
BOUNDS = (1.0, 1.5, 2.5, TOKEN_CANCELLATION_LIMIT, float("inf"))
BINS = [f"{low:g} to {high:g}" for low, high in pairwise(BOUNDS[:-1])] + [f"above {BOUNDS[-2]:g}"]
HEADINGS = ("model", "preset", *BINS, f"one against, {AGAINST_LIMIT:.0%}", "median share of the largest")

ABOUT = """\
Models whose truly causal tokens are known (see [known answers](known_answers.md)), first held-out sequences. They are
sorted by their cancellation among tokens (`ledger.token_cancellation`, signed), and each cell says how many there are,
their hit rate and mass: with k causal tokens the share of them among the k highest, and the share of positive relevance
on them.

The last columns: sequences whose largest token speaks against the sum of all and has so much of the absolute amounts;
and the median share of the largest token, whatever its sign.

Where tokens cancel, `pa-lrp`, its gamma form and `attnlrp` miss the causes more often, up to all of them; the path rule
does less so. That one token takes most, with the sum, says nothing: where one token is the cause it is so.
"""


def rows_of(folder: Path, count: int) -> Iterator[list[str]]:
    model, sequences = load_model(folder), load_sequences(folder, count)
    target = lrp_fx.targets.Class(sequences.labels)
    for preset in PRESETS:
        relevance = lrp_fx.convert(model, rules=preset)(
            input_ids=sequences.ids, attention_mask=sequences.mask, target=target
        )
        ledger, scores = relevance.ledger, relevance.tokens
        assert isinstance(scores, Tensor)
        found = torch.stack(hits_and_masses(scores, sequences))
        ratio = ledger.token_cancellation
        inside = [(ratio >= low) & (ratio < high) for low, high in pairwise(BOUNDS)]
        largest = [t for t in ledger.largest_tokens if t is not None]
        inside.append(torch.tensor([t.against and abs(t.share) >= AGAINST_LIMIT for t in largest]))
        share = float(np.median([abs(t.share) for t in largest]))
        yield [folder.name, preset, *(_cell(found[:, which]) for which in inside), f"{share:.2f}"]


def _cell(found: Tensor) -> str:
    hit, mass = found.mean(1).tolist() if found.shape[1] else (0.0, 0.0)
    return f"{found.shape[1]}: {hit:.2f}, {mass:.2f}" if found.shape[1] else ""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=300, help="sequences of each model")


def body(options: argparse.Namespace) -> Iterator[str]:
    rows: list[list[str]] = []
    for folder in sorted(p.parent for p in (ROOT / "examples" / "models").glob("*/eval.npz")):
        if "gt_full" in np.load(folder / "eval.npz", allow_pickle=True):
            for row in rows_of(folder, options.count):
                rows.append(row)
                print(*row, sep=" | ", flush=True)
            yield table(HEADINGS, rows)


BENCHMARK = Page(
    "cancellation",
    "How often the known causes are found where tokens cancel, and where one token takes most",
    "cancellation.md",
    "Tokens that cancel",
    lambda options: ABOUT,
    body,
    add_options,
    selects=("count",),
    noise=dict.fromkeys(HEADINGS[2:], Noise(relative=0.05, absolute=0.05)),
)
