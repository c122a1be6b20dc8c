"""Read: a relevance graph read from a file that `lrp_fx.file.write` wrote, checked before anything of it runs."""

from __future__ import annotations

import json
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.capture.arguments import flatten
from lrp_fx.capture.checks import check_inputs
from lrp_fx.errors import InputError, TargetError
from lrp_fx.file import tensors as storage
from lrp_fx.file.encode import FAMILIES, Decoder, decode_graph
from lrp_fx.file.write import FORMAT, MANIFEST, WEIGHTS, Variant
from lrp_fx.guards.masks import Assumptions, MaskGraph, constant_masks
from lrp_fx.guards.sizes import Sizes
from lrp_fx.ir.program import Input
from lrp_fx.report.decode import read_statement, settle
from lrp_fx.report.relevance import Relevance
from lrp_fx.structure.sites import Site
from lrp_fx.targets import as_target
from lrp_fx.transpose.signature import GraphSignature


def load(
    path: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    operators: Sequence[str] = (),
) -> SavedExplainer:
    """Read a relevance graph that `Explainer.save` wrote; call it like the explainer, with one of the targets it was
    saved for.

    weights: the model's safetensors file (or a folder of them), for a file saved with ``weights=False``.
    device: where to run it, by default the kind of device it was made on. Fused attention is computed by a kernel of
        that
        kind: a graph with some runs nowhere else.
    operators: namespaces of ``torch.library`` operators that the graph may call beside torch's own; import what defines
        them first.

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
        return SavedExplainer(manifest, tensors, torch.device(device or manifest["device"]), FAMILIES | set(operators))
    except (
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
    ) as error:
        raise InputError(f"{path} is broken: {type(error).__name__}: {error}") from error


def _open(path: str | Path) -> tuple[dict[str, Any], bytes]:
    if not Path(path).exists():
        raise InputError(f"no file {path}")
    try:
        with zipfile.ZipFile(path) as file:
            manifest, blob = json.loads(file.read(MANIFEST)), file.read(WEIGHTS)
    except (zipfile.BadZipFile, zlib.error, OSError, KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no relevance graph written by Explainer.save ({error})") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise InputError(
            f"{path} has format {found}, this version of lrp_fx reads format {FORMAT}: save it again from the model"
        )
    _warn_of_version(manifest.get("made_with"))
    return manifest, blob


def _warn_of_version(made_with: Any) -> None:
    """Another torch has the same operators, or the file is refused; that they compute the same to the bit nobody
    promises.
    """
    made = str(made_with.get("torch")) if isinstance(made_with, dict) else ""
    if made.split(".")[:2] != torch.__version__.split(".")[:2]:
        warnings.warn(
            f"the relevance graph was made with torch {made}, and this is {torch.__version__}: numbers may differ in "
            "rounding",
            stacklevel=4,
        )


def _sizes(found: dict[str, Any], inputs: Sequence[Input]) -> tuple[Sizes, list[set[str]]]:
    """What the graph's sizes are, checked; and which of them may be 1."""
    sizes = Sizes(
        {i.name: tuple(map(str, found["axes"][i.name])) for i in inputs},
        tuple(map(str, found["conditions"])),
        tuple(map(str, found["output"])),
    )
    sizes.check()
    if any(len(sizes.axes[i.name]) != len(i.shape) for i in inputs):
        raise ValueError("sizes of other inputs than its own")
    return sizes, [set(map(str, names)) for names in found["ones"]]


def _decoded(found: dict[str, Any], module: fx.GraphModule, device: torch.device, read: Decoder) -> Assumptions:
    """What is assumed of masks, checked: of each it is said what it is, and each input has a name and a type."""
    made = MaskGraph(
        module,
        dict(found["inputs"]),
        read(found["types"]),
        {n: tuple(map(str, axes)) for n, axes in found["axes"].items()},
        device,
    )
    placeholders = {n.name for n in module.graph.find_nodes(op="placeholder")}
    if (
        len(made.masks) != len(found["patterns"])
        or not placeholders == made.inputs.keys() == made.types.keys()
        or not {m.name for m in made.masks} <= made.axes.keys()
    ):
        raise ValueError("masks of which it does not say what they are")
    return Assumptions(made, read(found["constants"]), tuple(map(str, found["patterns"])))


def _check_kernels(manifest: dict[str, Any], device: torch.device) -> None:
    """Refuse another kind of device than the one whose fused attention the graphs call."""
    graphs = [graph for variant in manifest["variants"] for graph in variant["graphs"]]
    fused = any(
        str(node["target"]).startswith("aten._scaled_dot_product") for graph in graphs for node in graph["nodes"]
    )
    if fused and device.type != manifest["device"]:
        raise InputError(
            f"the file calls the fused attention of {manifest['device']}, which {device.type} does not have: explain "
            f"the model on {device.type} and save it there"
        )


class SavedExplainer:
    """A relevance graph read from a file. ``targets``: signatures it can explain; ``sites``, ``coverage``, ``ruleset``
    as saved.
    """

    def __init__(
        self, manifest: dict[str, Any], tensors: dict[str, Tensor], device: torch.device, families: frozenset[str]
    ) -> None:
        read = Decoder(device)
        self._device = device
        _check_kernels(manifest, device)
        self.inputs: tuple[Input, ...] = read(manifest["inputs"])
        self._sizes, self._ones = _sizes(manifest["sizes"], self.inputs)
        self.plain: dict[str, str] = {str(n): str(v) for n, v in manifest["plain"].items()}
        self.sites: list[Site] = read(manifest["sites"])
        self.coverage: dict[str, dict[str, int]] = manifest["coverage"]
        self.ruleset, self.conserve, self.method = manifest["ruleset"], manifest["conserve"], manifest["method"]
        self.made_with: dict[str, str] = manifest["made_with"]
        asked = set(
            manifest["differentiable"]
        )  # torch's matmul folds its operands, and rounds, by whether a weight may be asked for a gradient
        tensors = {n: t.to(device).detach().requires_grad_(n in asked) for n, t in tensors.items()}
        self._held = {name: tensors.pop(f"held_{i}") for i, name in enumerate(manifest["held"])}
        self._outputs = manifest["outputs"]

        def module(nodes: list[dict[str, Any]]) -> fx.GraphModule:
            used = {item["target"] for item in nodes if item["op"] == "get_attr"}
            return decode_graph(
                nodes, {n: t for n, t in tensors.items() if n in used}, families=families, device=device
            )

        self._variants = [
            Variant(
                _decoded(variant["assumed"], module(variant["assumed"]["nodes"]), device, read)
                if variant["assumed"] is not None
                else None,
                {
                    read(graph["target"]): (module(graph["nodes"]), read(graph["signature"]))
                    for graph in variant["graphs"]
                },
            )
            for variant in manifest["variants"]
        ]
        if (
            not self._variants
            or self._variants[-1].assumed is not None
            or any(v.graphs.keys() != self._variants[-1].graphs.keys() for v in self._variants)
        ):
            raise ValueError("no graph for some masks")

    @property
    def targets(self) -> list[tuple[Any, ...]]:
        return list(self._variants[-1].graphs)

    @property
    def relevance_graph(self) -> fx.GraphModule:
        """The first of the graphs, one for each target, that are good for any mask."""
        return next(iter(self._variants[-1].graphs.values()))[0]

    def __call__(self, *, target: Any = None, **inputs: Any) -> Relevance:
        """Explain inputs (by the names the model's forward has) as the explainer did that was saved.

        Values that are no tensors must be those that the explainer was called with. ``output`` of the result is a
        tensor, or a dict by name where the model returned several values.
        """
        goal = as_target(target)
        if goal.signature not in self.targets:
            known = ", ".join(f"{s[0]}({', '.join(map(str, s[1:]))})" for s in self.targets)
            raise TargetError(
                f"{goal!r} is none of the targets that were saved ({known}): save it again with targets=[...]"
            )
        bound = self._bind(inputs)
        shapes = {n: tuple(v.shape) for n, v in bound.items()}
        constants = constant_masks(bound, {i.name: i.role for i in self.inputs})
        module, signature = next(v.graphs[goal.signature] for v in self._variants if v.serves(constants, shapes))
        shape = self._sizes.output_shape(shapes)
        arguments = goal.arguments(shape, bound[self.inputs[0].name].device) if goal.example_arguments() else {}
        try:  # autocast is part of what was traced, and would be applied a second time
            with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
                flat = module(*[bound[i.name] for i in self.inputs], *arguments.values())
        except (RuntimeError, IndexError) as error:
            given = ", ".join(f"{n}: {v.dtype} {tuple(v.shape)} on {v.device}" for n, v in bound.items())
            raise InputError(
                f"the graph cannot be computed for these inputs ({given}): {type(error).__name__}: {error}"
            ) from error
        return self._result(signature, flat, bound, repr(goal))

    def _result(
        self, signature: GraphSignature, flat: tuple[Any, ...], bound: dict[str, Tensor], target: str
    ) -> Relevance:
        output: Any = None
        if signature.outputs:
            output = flat[0] if self._outputs["alone"] else dict(zip(self._outputs["names"], flat, strict=False))
        statement = read_statement(signature, flat, bound)
        return settle(
            statement,
            conserve=self.conserve,
            score=flat[signature.outputs],
            output=output,
            inputs=bound,
            target=target,
            ruleset=self.ruleset,
        )

    def _bind(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """The tensors, checked: all of them, of the type, number of axes and fixed sizes that the graph was made
        for.
        """
        flat = flatten(inputs)
        given = {n: v for n, v in flat.items() if isinstance(v, Tensor)}
        plain = {n: repr(v) for n, v in flat.items() if n not in given and (v is not None or n in self.plain)}
        if plain != self.plain:
            raise InputError(f"this graph was made for {_listed(self.plain)} beside its tensors; got {_listed(plain)}")
        names = [i.name for i in self.inputs]
        if set(given) != set(names):
            raise InputError(f"this graph was made for {', '.join(names)}; got {', '.join(given) or 'no tensor'}")
        check_inputs(given, {i.name: i.role for i in self.inputs})
        for info in self.inputs:
            value = given[info.name]
            if value.dtype != info.dtype or not info.admits(value.shape):
                sizes = ", ".join("any" if d else str(s) for d, s in zip(info.dynamic, info.shape, strict=True))
                raise InputError(
                    f"{info.name} must be {info.dtype} of shape ({sizes}); got {value.dtype} {tuple(value.shape)}"
                )
        self._check_sizes({n: v.shape for n, v in given.items()})
        other = [n for n, held in self._held.items() if not torch.equal(held, given[n])]
        if other:
            raise InputError(
                "this graph is the record of one call and holds for its values only; other values were given for "
                f"{', '.join(other)}"
            )
        return given

    def _check_sizes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        refusal = self._sizes.refusal(shapes)
        if refusal is not None:
            raise InputError(f"this graph does not hold for these sizes: {refusal}")
        ones = self._sizes.ones(shapes)
        if ones and ones not in self._ones:
            places = ", ".join(sorted(self._sizes.readable(symbol) for symbol in ones))
            raise InputError(
                f"nobody has compared this graph with the model where {places} is 1: explain such an input before "
                "saving it"
            )


def _listed(plain: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value[:60]}" for name, value in plain.items()) or "no other values"
