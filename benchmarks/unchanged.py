"""Is relevance what it was? This tree against a commit of its history, to the bit.

    python -m benchmarks unchanged --against COMMIT [NAME ...]

Architectures with random weights and the shipped models are explained by both, each in a process of its own: without
and with padding, and with every site balanced. Output, score, relevance of every leaf, and the sinks are compared.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.history import unpacked
from benchmarks.page import ROOT, Command


def main(arguments: list[str] | None = None) -> int:
    """Prints one line for each model; 1 where anything differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks unchanged", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="architectures and folders of examples/models; all by default")
    parser.add_argument("--against", default="90f4218", help="a commit of this repository")
    parser.add_argument(
        "--record", type=Path, help="explain and write the tensors to this file (used for each of the two trees)"
    )
    options = parser.parse_args(arguments)
    if options.record:
        torch.save(dict(_explained(options.names)), options.record)
        return 0
    with tempfile.TemporaryDirectory() as folder, unpacked(options.against) as before:
        found = [_recorded(tree, Path(folder) / f"{i}.pt", options.names) for i, tree in enumerate((before, ROOT))]
    same = [
        _compare(name, found[0].get(name, {}), found[1].get(name, {})) for name in dict.fromkeys([*found[0], *found[1]])
    ]
    return int(not all(same))


def _recorded(tree: Path, file: Path, names: list[str]) -> dict[str, dict[str, Tensor]]:
    """What the lrp_fx of a tree says; the models are this tree's."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; from benchmarks.unchanged import main; sys.exit(main(sys.argv[3:]))"
    )
    environment = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-P", "-c", code, str(tree), str(ROOT), "--record", str(file), *names]
    if tree != ROOT:
        command[3] = code.replace("from benchmarks", "import lrp_fx; sys.path.remove(sys.argv[1]); from benchmarks")
    subprocess.run(command, cwd=file.parent, env=environment, check=True)
    tensors: dict[str, dict[str, Tensor]] = torch.load(file)
    return tensors


def _compare(name: str, before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    unlike = [
        k
        for k in dict.fromkeys([*before, *after])
        if k not in before or k not in after or not _same(before[k], after[k])
    ]
    notes = [f"{k}: {_difference(before.get(k), after.get(k))}" for k in unlike]
    print(
        f"{name:<24}{len(before):>4} tensors  " + ("the same to the bit" if not unlike else f"{len(unlike)} differ"),
        *notes[:6],
        sep="\n      ",
        flush=True,
    )
    return not unlike


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())


def _difference(a: Tensor | None, b: Tensor | None) -> str:
    if a is None or b is None:
        return "only after" if a is None else "only before"
    if a.shape != b.shape:
        return f"shape {tuple(a.shape)}, now {tuple(b.shape)}"
    return (
        f"{float((a.double() - b.double()).abs().max() / a.double().abs().max().clamp_min(1e-300)):.1e} of the largest"
    )


# ------------------------------------------------------------------------------------------------ in each tree
def _explained(names: list[str]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name, build, inputs, target in _models():
        if not names or name in names:
            found = {}
            for how, options, given in _calls(inputs):
                found |= {f"{how} {key}": value for key, value in _parts(build(), options, given, target)}
            yield name, found
            print(f"  {name}", file=sys.stderr, flush=True)


def _models() -> Iterator[tuple[str, Any, dict[str, Tensor], Any]]:
    """(name, how to build it, inputs, target)."""
    import transformers

    from testing.architectures import ARCHITECTURES

    for a in ARCHITECTURES:
        target = (lambda scores: scores.diagonal()) if a.name == "clip" else None
        yield a.name, lambda a=a: a.build("sdpa" if a.fused else "eager"), a.inputs(), target
    for folder in sorted(config.parent for config in (ROOT / "examples" / "models").glob("*/config.json")):
        declared = transformers.AutoConfig.from_pretrained(folder).architectures[0]
        cls = getattr(transformers, declared)
        model = cls.from_pretrained(folder)
        if hasattr(model.config, "image_size"):
            size = model.config.image_size
            inputs = {
                "pixel_values": torch.randn(
                    2, model.config.num_channels, size, size, generator=torch.Generator().manual_seed(0)
                )
            }
        else:
            ids = torch.randint(
                3, min(60, model.config.vocab_size), (2, 12), generator=torch.Generator().manual_seed(0)
            )
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        yield folder.name, lambda cls=cls, folder=folder: cls.from_pretrained(folder).eval(), inputs, None


def _calls(inputs: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Tensor]]]]:
    """(name, options of convert, inputs of each call)."""
    padded = dict(inputs)
    if "attention_mask" in inputs:
        padded["attention_mask"] = inputs["attention_mask"].clone()
        padded["attention_mask"][0, -3:] = 0
    yield "default", {}, [inputs, padded] if "attention_mask" in inputs else [inputs]
    yield "site", {"conserve": "site", "rules": "pa-lrp-gamma"}, [inputs]


def _parts(
    model: Any, options: dict[str, Any], calls: list[dict[str, Tensor]], target: Any
) -> Iterator[tuple[str, Tensor]]:
    import lrp_fx

    explainer = lrp_fx.convert(model, **options)
    for number, inputs in enumerate(calls):
        relevance = explainer(**inputs, target=target)
        flat = [t for t in torch.utils._pytree.tree_leaves(relevance.output) if isinstance(t, Tensor)]
        named = {f"output {i}": t for i, t in enumerate(flat)} | {"score": relevance.score}
        named |= {f"content {k}": v for k, v in relevance.content.items()}
        named |= {f"position {i}": p.relevance for i, p in enumerate(relevance.position)}
        named |= {f"learned {i}": v for i, v in enumerate(relevance.learned.values())} | {
            f"segment {i}": v for i, v in enumerate(relevance.segment.values())
        }
        named |= {f"sink {k}": v for k, v in relevance.ledger.sinks.items()}
        for key, value in named.items():
            yield f"call {number} {key}", value.detach().clone()


BENCHMARK = Command(
    "unchanged", "Is relevance what it was, to the bit? This tree against a commit of its history", main
)
