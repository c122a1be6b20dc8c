"""Parameters: relevance of a model's weights, summed over examples, and by what they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.report.kept import read, write
from lrp_fx.report.tables import pandas
from lrp_fx.structure.divisions import Division

#: What relevance can be summed by.
BY = ("parameter", "row", "column", "module", "layer", "head", "expert")


@dataclass(frozen=True)
class Use:
    """One place that reads parameters, and what passed there: ``relevance``, summed over all examples.

    ``parameters``: their names; several where the operation reads what was made of several. ``name``: of the graph
    node. ``layer``: the block that it belongs to, None outside all blocks.
    """

    parameters: tuple[str, ...]
    name: str
    rule: str
    module: str
    source: str
    layer: int | None
    relevance: float


@dataclass(frozen=True)
class ParameterRelevance(Mapping[str, Tensor]):
    """Relevance of a model's parameters, as `Explainer.parameters` gives it: ``result["head.weight"]`` has the shape of
    that parameter, in units of the explained output, summed over examples and tokens. Frozen; a mapping by the names
    of ``model.named_parameters()``.

    ``R(p) = p * d <surrogate(y), c(y)> / dp`` at each operation that reads ``p``. A learned map's sum is what it
    passes from its result to its operand, so what layers hold does not add up to the score: each holds what passes it.

    ``examples``: how many were summed, ``calls``: in how many batches. ``score``: the sum of their scores.
    ``absolute``: are these sums of the absolute values of each batch? ``uses``: every place that reads a parameter
    with what passed there, a parameter that is shared one for each. A parameter that nothing passes has zeros.
    ``divisions``: which parts belong to heads and experts.
    """

    relevance: dict[str, Tensor]
    uses: tuple[Use, ...]
    examples: int
    calls: int
    score: float
    ruleset: str
    absolute: bool = False
    divisions: tuple[Division, ...] = ()

    def __getitem__(self, name: str) -> Tensor:
        return self.relevance[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.relevance)

    def __len__(self) -> int:
        return len(self.relevance)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        kind = "absolute relevance" if self.absolute else "relevance"
        held = sum(R.numel() for R in self.values())
        return (
            f"ParameterRelevance({kind} of {held:,} numbers in {len(self)} parameters, {self.examples} examples with "
            f"scores {self.score:+.4g} together, rules {self.ruleset})"
        )

    def uses_of(self, name: str) -> tuple[Use, ...]:
        """The places that read a parameter; raises `InputError` for a name that is none."""
        if name not in self:
            raise InputError(f"no parameter {name!r}\n    next: list(result) has their names")
        return tuple(use for use in self.uses if name in use.parameters)

    def with_values(self, values: Mapping[str, Tensor]) -> ParameterRelevance:
        """The same with other amounts in the place of relevance (sizes of weights, say), to be summed by the same
        parts. Raises `InputError` where a parameter lacks one of its own shape.
        """
        for name, R in self.items():
            if name not in values or values[name].shape != R.shape:
                raise InputError(
                    f"{name} needs amounts of the shape {tuple(R.shape)}\n    next: give one tensor for each parameter"
                )
        return replace(self, relevance={name: values[name] for name in self})

    def by(self, what: str) -> dict[Any, Any]:
        """Relevance summed, as numbers but for rows and columns.

        what: ``"parameter"`` and ``"module"`` (by name); ``"row"`` and ``"column"`` (by name, one number for each place
            along the first or the second axis as the model keeps them, of parameters that have it); ``"layer"`` (the
            block that reads a parameter, None for what is outside all blocks or is read in several); ``"head"`` (by
            attention and number: the parts of the maps that make its query, key and value and read its result; what
            several heads share is theirs in equal parts); ``"expert"`` (by place and number).

        Raises `InputError` for anything else, and where there are no heads or experts.
        """
        if what not in BY:
            raise InputError(f"relevance of parameters cannot be summed by {what!r}\n    next: one of {', '.join(BY)}")
        if what in ("row", "column"):
            axis = BY.index(what) - 1
            return {n: _along(R, axis) for n, R in self.items() if R.dim() > axis}
        if what in ("head", "expert"):
            return self._divided(what)
        found: dict[Any, float] = {}
        for name, R in self.items():
            key = self._layer(name) if what == "layer" else name.rpartition(".")[0] if what == "module" else name
            found[key] = found.get(key, 0.0) + float(R.double().sum())
        return dict(sorted(found.items(), key=_number)) if what == "layer" else found

    def _layer(self, name: str) -> int | None:
        layers = {use.layer for use in self.uses_of(name)}
        return layers.pop() if len(layers) == 1 else None

    def _divided(self, what: str) -> dict[tuple[str, int], float]:
        found: dict[tuple[str, int], float] = {}
        for part in (d for d in self.divisions if d.kind == what):
            along = _along(self[part.parameter], part.axis).double()
            for number, amount in enumerate((part.shares.double() @ along).tolist()):
                found[part.site, number] = found.get((part.site, number), 0.0) + amount
        if not found:
            raise InputError(
                f"no parameter of this model was found to be divided among {what}s by the flow of data\n"
                "    next: sum its rows: result.by('row')"
            )
        return found

    def to_frame(self, by: str = "parameter") -> Any:
        """A data frame (needs pandas): by parameter with module, layer, shape and number of uses, else one row for
        each key of `by` with its relevance (rows and columns: one for each place).

        Raises `InputError` where pandas is missing, and as `by` does.
        """
        if by == "parameter":
            rows = [
                {
                    "parameter": name,
                    "module": name.rpartition(".")[0],
                    "layer": self._layer(name),
                    "shape": tuple(R.shape),
                    "uses": len(self.uses_of(name)),
                    "relevance": float(R.double().sum()),
                }
                for name, R in self.items()
            ]
            return pandas().DataFrame(rows)
        table = [
            {**_named(by, key), "relevance": amount}
            for key, value in self.by(by).items()
            for key, amount in (_places(key, value) if isinstance(value, Tensor) else [(key, value)])
        ]
        return pandas().DataFrame(table)

    def save(self, path: str | Path) -> None:
        """Write it to one safetensors file, for `load`; raises `InputError` where it cannot be written."""
        write(path, self, _PARTS)

    @staticmethod
    def load(path: str | Path) -> ParameterRelevance:
        """What `save` wrote; raises `InputError` for a file that is something else, or damaged."""
        found: ParameterRelevance = read(path, ParameterRelevance, _PARTS)
        return found


_PARTS = (ParameterRelevance, Use, Division)


def _along(R: Tensor, axis: int) -> Tensor:
    """Summed over all axes but one."""
    others = [a for a in range(R.dim()) if a != axis]
    return R.sum(others) if others else R


def _number(entry: tuple[Any, Any]) -> tuple[bool, int]:
    """Layers in their order, and last what is outside."""
    return entry[0] is None, entry[0] or 0


def _places(key: str, values: Tensor) -> list[tuple[Any, float]]:
    return [((key, place), amount) for place, amount in enumerate(values.tolist())]


def _named(by: str, key: Any) -> dict[str, Any]:
    """The key of a sum as columns."""
    if by in ("row", "column"):
        return {"parameter": key[0], by: key[1]}
    return {"site": key[0], by: key[1]} if by in ("head", "expert") else {by: key}
