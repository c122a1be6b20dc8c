"""Read: relevance graphs from a file that `lrp_fx.file.write` wrote, checked before anything of them runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.errors import InputError, warn_user
from lrp_fx.file import tensors as storage
from lrp_fx.file.container import opened
from lrp_fx.file.contents import FORMAT, MANIFEST, WEIGHTS, Contents, ModelOutputs, SavedGraph
from lrp_fx.file.encode import FAMILIES, Decoder, decode_graph
from lrp_fx.guards.guard import Guard, guard_of
from lrp_fx.guards.inputs import DeviceGuard
from lrp_fx.guards.kinds import check_guards, decode_guard
from lrp_fx.guards.masks import MaskGuard
from lrp_fx.transpose.signature import GraphSignature, RelevanceGraph

#: What reading a manifest that somebody has changed may run into.
_BROKEN = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    RuntimeError,
    AssertionError,
    SyntaxError,
    OverflowError,
    RecursionError,
    MemoryError,
)
#: What the manifest of any version begins with.
_FORMAT = re.compile(rb'\{"format": ?(\d+)[,}]')


def read(
    path: str | Path,
    *,
    weights: str | Path | None,
    device: str | torch.device | None,
    operators: Sequence[str],
) -> Contents:
    """What the file holds, its tensors on the device (by default the kind that it was made on).

    Raises `InputError` if the file is none of ours, of another format, broken, or asks for what is not allowed.
    """
    manifest, blob = _open(path)
    try:
        tensors = storage.unpack(blob, manifest["tensors"])
        if manifest["references"]:
            if weights is None:
                raise InputError(
                    f"{path} was saved without weights: load(path, weights=...) takes the model's safetensors file"
                )
            tensors |= storage.fetch(manifest["references"], weights)
        place = torch.device(device or manifest["device"])
        # torch's matmul folds its operands, and rounds, by whether a weight may be asked for a gradient
        asked = set(manifest["differentiable"])
        tensors = {n: t.to(place).detach().requires_grad_(n in asked) for n, t in tensors.items()}
        return _contents(manifest, ManifestReader(tensors, place, FAMILIES | set(operators)))
    except _BROKEN as error:
        raise InputError(f"{path} is broken: {type(error).__name__}: {error}") from error


def _open(path: str | Path) -> tuple[dict[str, Any], bytes]:
    with opened(path) as parts:
        early = _FORMAT.match(parts.beginning(MANIFEST, 40))
        if early is not None:  # other versions may have had other parts
            _check_format(path, int(early[1]))
        text, blob = parts.read((MANIFEST, WEIGHTS))
        manifest = json.loads(text)
    _check_format(path, manifest.get("format") if isinstance(manifest, dict) else None)
    _warn_of_version(manifest.get("made_with"))
    return manifest, blob


def _check_format(path: str | Path, found: Any) -> None:
    if found != FORMAT:
        newer = isinstance(found, int) and found > FORMAT
        step = "load it with the version that saved it, or a newer one" if newer else "save it again from the model"
        raise InputError(f"{path} has format {found}, this version of lrp_fx reads format {FORMAT}: {step}")


def _warn_of_version(made_with: Any) -> None:
    """Another torch has the same operators, or the file is refused; that they compute the same to the bit nobody
    promises.
    """
    made = str(made_with.get("torch")) if isinstance(made_with, dict) else ""
    if made.split(".")[:2] != torch.__version__.split(".")[:2]:
        warn_user(
            f"the relevance graph was made with torch {made}, and this is {torch.__version__}: numbers may differ in "
            "rounding"
        )


class ManifestReader:
    """Makes graphs and guards of JSON, each checked. ``tensors``: all that the file holds."""

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device, families: frozenset[str]) -> None:
        self.device = device
        self._tensors, self._families = tensors, families

    def value(self, value: Any) -> Any:
        return Decoder(self.device)(value)

    def graph(self, nodes: list[dict[str, Any]]) -> fx.GraphModule:
        used = {item["target"] for item in nodes if item["op"] == "get_attr"}
        tensors = {n: t for n, t in self._tensors.items() if n in used}
        return decode_graph(nodes, tensors, families=self._families, device=self.device)

    def tensors(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        return {str(name): self._tensors[place] for name, place in names.items()}

    def saved(self, graph: Mapping[str, Any], guards: Sequence[Guard]) -> SavedGraph:
        own = tuple(guards[int(number)] for number in graph["guards"])
        check_guards(own)
        why = guard_of(DeviceGuard, own).refusal_on(self.device.type)
        if why is not None:
            raise InputError(why)
        target, signature = self.value(graph["target"]), self.value(graph["signature"])
        if not isinstance(target, tuple) or not isinstance(signature, GraphSignature):
            raise ValueError("a graph that does not say what it computes")
        return SavedGraph(target, RelevanceGraph(self.graph(graph["nodes"]), signature), own)


def _contents(manifest: dict[str, Any], reader: ManifestReader) -> Contents:
    guards = [decode_guard(facts, reader) for facts in manifest["guards"]]
    graphs = tuple(reader.saved(graph, guards) for graph in manifest["graphs"])
    last = {graph.target: graph for graph in graphs}
    if not last or any(isinstance(guard, MaskGuard) for graph in last.values() for guard in graph.guards):
        raise ValueError("no graph for some masks")
    outputs = manifest["outputs"]
    return Contents(
        graphs,
        ModelOutputs(tuple(outputs["names"]), bool(outputs["alone"]), outputs["batch"]),
        device=manifest["device"],
        ruleset=manifest["ruleset"],
        conserve=manifest["conserve"],
        method=manifest["method"],
        sites=reader.value(manifest["sites"]),
        coverage=manifest["coverage"],
        made_with=manifest["made_with"],
        reading=manifest.get("reading") or {},
    )
