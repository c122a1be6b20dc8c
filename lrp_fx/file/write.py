"""Write: the relevance graphs of a program to one file, which runs without the model's source and without
transformers.

The file is a zip of ``manifest.json`` (versions, inputs, sites, coverage, the graphs with their bills, and how the
masks are made that some of them do without) and ``weights.safetensors``. Nothing in it is code, and nothing is pickled.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn

from lrp_fx.file import tensors as storage
from lrp_fx.file.encode import encode, encode_graph
from lrp_fx.guards.masks import Assumptions, Constants
from lrp_fx.guards.sizes import Sizes
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.program import Program
from lrp_fx.structure.sites import Site
from lrp_fx.transpose.signature import GraphSignature

FORMAT = 4
MANIFEST, WEIGHTS = "manifest.json", "weights.safetensors"
#: Signature of a target -> its relevance graph, and what that returns.
Graphs = Mapping[tuple[Any, ...], tuple[fx.GraphModule, GraphSignature]]


@dataclass(frozen=True, eq=False)
class Variant:
    """The graphs for calls in which masks are what is ``assumed`` of them; None: for any."""

    assumed: Assumptions | None
    graphs: Graphs

    def serves(self, constants: Constants, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        return self.assumed is None or (self.assumed.constants == constants and self.assumed.hold_for(shapes))


@dataclass(frozen=True)
class Description:
    """What a file says of the explainer that it was made from."""

    ruleset: str
    conserve: str
    sites: list[Site]
    coverage: dict[str, dict[str, int]]
    method: str
    made_with: dict[str, str]
    sizes: Sizes
    ones: list[set[str]]
    plain: dict[str, str]


def write(
    path: str | Path,
    program: Program,
    variants: Sequence[Variant],
    about: Description,
    *,
    model: nn.Module,
    weights: bool,
    held: Mapping[str, Tensor] | None,
) -> None:
    """Write graphs that were made from one program, the last ones good for any mask; ``held``: the inputs that a record
    of one call is good for.
    """
    tensors: dict[str, Tensor] = {}
    masks = [v.assumed.made.module for v in variants if v.assumed is not None]
    for module in [*masks, *(module for v in variants for module, _ in v.graphs.values())]:
        tensors |= {str(n.target): getattr(module, str(n.target)) for n in module.graph.nodes if n.op == "get_attr"}
    referenced = {} if weights else storage.references(tensors, model)
    kept = {n: t for n, t in tensors.items() if n not in referenced} | {
        f"held_{i}": t for i, t in enumerate((held or {}).values())
    }
    blob, places = storage.pack(kept)
    manifest = {
        "format": FORMAT,
        "made_with": about.made_with,
        "ruleset": about.ruleset,
        "conserve": about.conserve,
        "method": about.method,
        "coverage": about.coverage,
        "sites": encode(about.sites),
        "inputs": encode(program.inputs),
        "sizes": {**asdict(about.sizes), "ones": [sorted(names) for names in about.ones]},
        "plain": about.plain,
        "device": value_of(next(iter(program.input_nodes().values()))).device.type,
        "held": list(held or {}),
        "outputs": {
            "names": list(program.outputs.names),
            "explained": program.outputs.explained,
            "alone": _is_alone(program),
        },
        "tensors": places,
        "references": referenced,
        "differentiable": [n for n, t in tensors.items() if t.requires_grad],
        "variants": [
            {
                "assumed": _encoded(v.assumed) if v.assumed is not None else None,
                "graphs": [
                    {"target": encode(key), "nodes": encode_graph(module.graph), "signature": encode(signature)}
                    for key, (module, signature) in v.graphs.items()
                ],
            }
            for v in variants
        ],
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr(MANIFEST, json.dumps(manifest), zipfile.ZIP_DEFLATED)
        file.writestr(WEIGHTS, blob)


def _encoded(assumed: Assumptions) -> dict[str, Any]:
    made = assumed.made
    facts = {
        "inputs": made.inputs,
        "types": encode(made.types),
        "axes": {n: list(axes) for n, axes in made.axes.items()},
    }
    return {
        "constants": encode(assumed.constants),
        "patterns": list(assumed.patterns),
        "nodes": encode_graph(made.module.graph),
        **facts,
    }


def _is_alone(program: Program) -> bool:
    """Does the model return a tensor, and not something that holds tensors?"""
    return isinstance(program.outputs.rebuild(tuple(range(len(program.outputs.names)))), int)
