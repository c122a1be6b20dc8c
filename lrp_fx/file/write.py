"""Write: the relevance graphs of a program to one file, which runs without the model's source and without transformers.

The file (`lrp_fx.file.container`) has two parts: ``manifest.json`` (versions, sites, coverage, the graphs with their
signatures, and the guards that say which calls each of them serves) and ``weights.safetensors``. Nothing in it is code,
and nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn

from lrp_fx.file import tensors as storage
from lrp_fx.file.container import write_parts
from lrp_fx.file.contents import FORMAT, MANIFEST, WEIGHTS, Contents, SavedGraph
from lrp_fx.file.encode import encode, encode_graph
from lrp_fx.guards.guard import Guard
from lrp_fx.guards.kinds import encode_guard


def write(path: str | Path, contents: Contents, *, model: nn.Module, weights: bool) -> None:
    """Write the contents; without ``weights``, tensors of the model are referred to by name and fingerprint.

    Raises `InputError` where that cannot be; what was there before stays then.
    """
    writer = ManifestWriter()
    graphs = [writer.saved(graph) for graph in contents.graphs]
    storage.require_dense(writer.weights)
    referenced = {} if weights else storage.references(writer.weights, model)
    kept = {n: t for n, t in writer.weights.items() if n not in referenced} | writer.values
    blob, places = storage.pack(kept)
    manifest = {
        "format": FORMAT,
        "made_with": contents.made_with,
        "ruleset": contents.ruleset,
        "conserve": contents.conserve,
        "method": contents.method,
        "coverage": contents.coverage,
        "sites": encode(contents.sites),
        "device": contents.device,
        "reading": contents.reading,
        "outputs": asdict(contents.outputs),
        "tensors": places,
        "references": referenced,
        "differentiable": [n for n, t in writer.weights.items() if t.requires_grad],
        "guards": writer.guards,
        "graphs": graphs,
    }
    write_parts(path, {MANIFEST: json.dumps(manifest, separators=(",", ":")).encode(), WEIGHTS: blob})


class ManifestWriter:
    """Turns graphs and guards into JSON. ``weights``: the tensors that graphs read; ``values``: those that guards hold;
    ``guards``: each once, however many graphs have it.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = {}
        self.guards: list[dict[str, Any]] = []
        self._numbers: dict[Guard, int] = {}

    def value(self, value: Any) -> Any:
        return encode(value)

    def graph(self, module: fx.GraphModule) -> list[dict[str, Any]]:
        names = [str(n.target) for n in module.graph.nodes if n.op == "get_attr"]
        self.weights |= {name: getattr(module, name) for name in names}
        return encode_graph(module.graph)

    def tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Under names that no graph can have: theirs are words of Python."""
        names = {name: f"value.{len(self.values) + i}" for i, name in enumerate(tensors)}
        self.values |= {names[name]: tensor for name, tensor in tensors.items()}
        return names

    def saved(self, saved: SavedGraph) -> dict[str, Any]:
        return {
            "target": encode(saved.target),
            "guards": [self._number(guard) for guard in saved.guards],
            "nodes": self.graph(saved.graph.module),
            "signature": encode(saved.graph.signature),
        }

    def _number(self, guard: Guard) -> int:
        if guard not in self._numbers:
            self._numbers[guard] = len(self.guards)
            self.guards.append(encode_guard(guard, self))
        return self._numbers[guard]
