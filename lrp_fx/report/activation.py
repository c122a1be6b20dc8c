"""Activations: values inside the model, with their coefficients and relevance."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

import torch
from torch import Tensor

from lrp_fx.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class Activation:
    """A value inside the model, examples first.

    ``value``: the activation. ``coefficient``: the relevance of each element for each unit of its value; to the first
    order, what the score would lose if the element were less by one, as the rules see it (the `gradient` preset: its
    derivative). ``axes``: what its axes stand for: ``("batch", "heads", "tokens", "features")``; ``all`` where it
    belongs to no example. ``kind``: ``heads``, ``residual``, ..., ``module`` or ``node``. ``layer``: the block that it
    belongs to, None outside all blocks. ``position``: of scores, what each pair of a query and a key gave to position,
    by rotation and by biases between tokens; None elsewhere, and where that is not known.
    """

    name: str
    value: Tensor
    coefficient: Tensor
    axes: tuple[str, ...]
    kind: str
    node: str
    module: str
    source: str
    layer: int | None
    position: Tensor | None = None

    @property
    def content(self) -> Tensor | None:
        """Of scores: what each pair of a query and a key gave to content, ``relevance - position``."""
        return None if self.position is None else self.relevance - self.position

    @property
    def relevance(self) -> Tensor:
        """Of the activation's shape: ``value * coefficient``, 0 where nothing arrived."""
        value, c = self.value, self.coefficient
        if value.dtype in (torch.float16, torch.bfloat16):  # products of halves overflow where their sum would not
            value, c = value.float(), c.float()
        if value.is_complex():
            return (torch.view_as_real(value.resolve_conj()) * torch.view_as_real(c.resolve_conj())).sum(-1)
        product = value * c
        return torch.where(c == 0, torch.zeros((), dtype=product.dtype, device=product.device), product)

    @property
    def total(self) -> Tensor:
        """(B,): all that passes here."""
        return self.by()

    def by(self, *axes: str) -> Tensor:
        """Relevance summed over all axes but the batch and these, in the order of `axes`: ``by("heads")`` is
        (B, heads). ``by("features")`` sums over tokens.

        Raises `InputError` for an axis that is not there.
        """
        strange = [a for a in axes if a not in self.axes[1:]]
        if strange:
            raise InputError(f"{self.name} has no axis {strange[0]!r}; it has {', '.join(self.axes[1:])}")
        others = [i for i, axis in enumerate(self.axes) if i and axis not in axes]
        R = self.relevance
        R = R.to(torch.float64 if R.dtype == torch.float64 else torch.float32)
        return R.sum(others) if others else R

    def __repr__(self) -> str:
        sizes = ", ".join(f"{axis} {size}" for axis, size in zip(self.axes, self.value.shape, strict=True))
        return f"Activation({self.name}: {sizes}, {self.module or 'model'})"


@dataclass(frozen=True, eq=False, repr=False)
class Activations(Mapping[str, Activation]):
    """The places that were asked for, by name, in the order in which they were."""

    named: dict[str, Activation] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Activation:
        if name in self.named:
            return self.named[name]
        alike = [n for n in self.named if n.startswith(f"{name}.")]
        if len(alike) == 1:
            return self.named[alike[0]]
        if alike:
            raise InputError(f"{name!r} is {len(alike)} places: {', '.join(alike[:6])}; .matching({name!r}) has all")
        close = get_close_matches(name, self.named, 3, 0.3)
        known = f"close names are {', '.join(close)}" if close else f"asked for: {', '.join(self.named) or 'nothing'}"
        raise InputError(f"{name!r} was not asked for; {known}\n    next: explainer(..., at=[{name!r}])")

    def __contains__(self, name: object) -> bool:
        return name in self.named

    def __iter__(self) -> Iterator[str]:
        return iter(self.named)

    def __len__(self) -> int:
        return len(self.named)

    def matching(self, name: str) -> list[Activation]:
        """Those of a kind (``"heads"``), or whose names fit a pattern (``model.layers.*.mlp``)."""
        pattern = ".*".join(re.escape(p).replace(r"\*", r"[^.]*") for p in name.split("**"))
        return [a for n, a in self.named.items() if a.kind == name or re.fullmatch(pattern, n)]

    def by(self, name: str, *axes: str) -> Tensor:
        """(places, B, ...): `Activation.by` of all that match, one after the other, where they have one shape."""
        found = self.matching(name)
        if not found:
            return self[name].by(*axes).unsqueeze(0)
        parts = [a.by(*axes) for a in found]
        if any(p.shape != parts[0].shape for p in parts):
            shapes = ", ".join(f"{a.name} {tuple(p.shape)}" for a, p in zip(found, parts, strict=True))
            raise InputError(f"{name!r}: places of several shapes cannot be put together ({shapes})")
        return torch.stack(parts)

    def __repr__(self) -> str:
        return f"Activations({', '.join(self.named)})"
