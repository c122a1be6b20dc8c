"""Faithfulness in images: ``python -m benchmarks images [FOLDER] [--count N]``.

FOLDER holds a vision transformer and held-out images (``examples/models/vit_mnist`` does). Patches are ranked by
explanations and controls, and blackened, or uncovered, in that order; and positive relevance is compared with where the
digit is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import lrp_fx
from benchmarks.compare import OTHERS, Noise
from benchmarks.faithful.rankings import REFERENCE, compared, spread
from benchmarks.faithful.tables import MARKS, controlled
from benchmarks.page import ROOT, Page, table
from lrp_fx.evaluation import Case, Example, Metric, Ranking, registered
from lrp_fx.evaluation.metrics.causes import mass
from lrp_fx.evaluation.rankings import RANDOM, Control, Given, random_order
from lrp_fx.evaluation.tables import Values, definitions, differences, means
from testing.scoring import load_model

HEADLINE = ("ABPC", "MoRF", "LeRF", "AUAC generation", "AUAC pruning, signed")
BLACK, STROKE = -1.0, 0.0


LOCALISATION = Metric(
    "localisation",
    "share of positive relevance on patches with a part of the digit",
    ("arras2022",),
    "higher",
    mass,
    ("causal",),
)


@dataclass(frozen=True)
class Pictures:
    """Images (N, 1, H, W) in [-1, 1], and the side of a patch."""

    model: Any
    images: Tensor
    side: int

    def patches(self, images: Tensor) -> Tensor:
        """(N, patches, pixels)."""
        return torch.nn.functional.unfold(images, self.side, stride=self.side).mT

    def whole(self, patches: Tensor) -> Tensor:
        """Images of patches."""
        return torch.nn.functional.fold(patches.mT, self.images.shape[-2:], self.side, stride=self.side)

    def predict(self, patches: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=self.whole(patches)).logits
        return logits


def load(folder: Path, count: int) -> Pictures:
    model: Any = load_model(folder)
    with np.load(folder / "eval.npz") as data:
        images = torch.from_numpy(data["images"][:count]).float().unsqueeze(1) / 127.5 - 1
    return Pictures(model.requires_grad_(False), images, int(model.config.patch_size))


def rankings() -> list[Ranking]:
    return compared()


def controls() -> list[Control]:
    presets = dict.fromkeys(str(r.rules) for r in rankings() if r.options["position"] == "signed")
    return [random_order(), *(spread(p, a) for p in presets for a in ("signed", "positive"))]


def explained(pictures: Pictures, targets: Tensor, seed: int) -> dict[str, Tensor]:
    """label -> scores (N, patches) of every image."""
    found: dict[str, Tensor] = {}
    for ranking in rankings():
        explainer = lrp_fx.convert(pictures.model, rules=ranking.rules)
        relevance = explainer(pixel_values=pictures.images, target=lrp_fx.targets.Class(targets))
        heat = relevance.heatmap(position=ranking.options["position"])
        found[ranking.label] = pictures.patches(heat.unsqueeze(1)).sum(-1)
    generator, n = torch.Generator().manual_seed(seed), next(iter(found.values())).shape[1]
    for control in controls():
        rows = [
            control.scores(Given(n, torch.arange(n), {label: scores[i] for label, scores in found.items()}, generator))
            for i in range(len(targets))
        ]
        found[control.label] = torch.stack(rows)
    return found


def measured(pictures: Pictures, targets: Tensor, scores: dict[str, Tensor]) -> tuple[Values, float]:
    """label -> metric -> values (N,), and the share of patches that hold a part of the digit."""
    patches = pictures.patches(pictures.images)
    digit = patches.amax(-1) > STROKE
    cells: dict[str, dict[str, list[float]]] = {}
    for i, target in enumerate(targets.tolist()):
        units = torch.arange(patches.shape[1])
        example = Example(patches[i], units, target, pictures.predict, BLACK)
        marked = Example(patches[i], units, target, causal=digit[i])
        metrics = [registered[name] for name in HEADLINE]
        for label, ranked in scores.items():
            case, row = Case(example, ranked[i]), cells.setdefault(label, {})
            for metric in metrics:
                row.setdefault(metric.name, []).append(metric(case))
            row.setdefault(LOCALISATION.name, []).append(LOCALISATION(Case(marked, ranked[i])))
    values = {
        label: {name: torch.tensor(row, dtype=torch.float64) for name, row in rows.items()}
        for label, rows in cells.items()
    }
    return values, float(digit.double().mean())


def about(options: argparse.Namespace) -> str:
    return f"""\
Patches of held-out digits are blackened, or uncovered, in the order of their scores; explained is the predicted class.
ABPC divided by the number of patches is SRG (Bluecher et al. 2024). The first {options.count} images of the file.

{MARKS}

Controls explain nothing: `{RANDOM}`, and position relevance that is spread evenly over the patches. `temperature 2` and
`rows shared` are attnlrp with the softmax rules of `rules/softmax_others.py`; `attnlrp-gamma` is the published setting
of ResLRP, which has no position."""


def add_options(parser: argparse.ArgumentParser) -> None:
    default = ROOT / "examples" / "models" / "vit_mnist"
    parser.add_argument("folder", nargs="?", type=Path, default=default, help="of a vision transformer")
    parser.add_argument("--count", type=int, default=200, help="images")
    parser.add_argument("--seed", type=int, default=0, help="of the random order")


def body(options: argparse.Namespace) -> Iterator[str]:
    pictures = load(options.folder, options.count)
    with torch.no_grad():
        targets = pictures.predict(pictures.patches(pictures.images)).argmax(-1)
    values, area = measured(pictures, targets, explained(pictures, targets, options.seed))
    metrics = [*(registered[name] for name in HEADLINE), LOCALISATION]
    parts = [f"## {options.folder.name}, {len(targets)} images, of which the digit covers {area:.2f} of the patches"]
    for caption, rows in (
        ("Mean ± standard error", means(values, metrics, REFERENCE)),
        (
            "Difference to the control, whose position relevance is spread evenly: mean, median (p)",
            differences(values, metrics[:1] + metrics[-1:], controlled(values)),
        ),
    ):
        parts += [f"{caption}:", table(rows[0], rows[1:])]
    heading, *lines = definitions(metrics)
    yield "\n\n".join([*parts, "## Metrics", table(heading, lines)])


BENCHMARK = Page(
    "images",
    "Do explanations of a vision transformer rank patches as it needs them, and lie where the object is?",
    "images.md",
    "Faithfulness in images",
    about,
    body,
    add_options,
    selects=("folder", "count", "seed"),
    noise={OTHERS: Noise(relative=0.1, absolute=0.002)},
)
