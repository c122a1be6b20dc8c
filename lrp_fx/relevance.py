"""The result of an explanation: relevance of content and position, per token, and the books."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrp_fx.conservation import Ledger
from lrp_fx.errors import InputError

#: How a position leaf's relevance is summed to one number per token; see `PositionSite.per_token`.
Aggregation = Callable[[Tensor, tuple[int, ...]], Tensor]


def _signed(R: Tensor, others: tuple[int, ...]) -> Tensor:
    return R.sum(others) if others else R


def _positive(R: Tensor, others: tuple[int, ...]) -> Tensor:
    return _signed(R.clamp(min=0), others)


def _absolute(R: Tensor, others: tuple[int, ...]) -> Tensor:
    return _signed(R, others).abs()


AGGREGATIONS: dict[str, Aggregation] = {"signed": _signed, "positive": _positive, "absolute": _absolute}


@dataclass(frozen=True)
class PositionSite:
    """One place where position meets content, and the relevance it received.

    ``relevance``: the leaf's own shape, with the batch first where it has one. ``token_axes``: axes of it that run over
    tokens: one where position is added to or rotates tokens, two where it is a bias between pairs of tokens (query, key).
    ``owners``: for each token axis, the input whose tokens it counts, None where it counts something else (patches).
    """

    name: str
    module: str
    source: str
    relevance: Tensor
    token_axes: tuple[int, ...]
    owners: tuple[str | None, ...]
    rule: str

    @property
    def is_pairwise(self) -> bool:
        return len(self.token_axes) == 2

    def per_token(self, position: str = "signed", credit: str = "key") -> Tensor | None:
        """(B, T): this leaf's relevance per token; pairwise leaves are credited to the key's (or ``"query"``'s) token.

        ``signed`` sums, ``positive`` sums positive entries (PA-LRP eq. 11), ``absolute`` takes the absolute value of the
        sum over features. None when the leaf has no token axis. Only ``signed`` conserves.
        """
        if not self.token_axes:
            return None
        axis = self.token_axes[self._credited(credit)]
        others = tuple(i for i in range(1, self.relevance.dim()) if i != axis)
        return AGGREGATIONS[position](self.relevance, others)


    def owner(self, credit: str = "key") -> str | None:
        """The input to whose tokens this leaf's relevance is credited."""
        return self.owners[self._credited(credit)] if self.owners else None

    def _credited(self, credit: str) -> int:
        return -1 if credit == "key" else 0


@dataclass(frozen=True)
class Relevance:
    """What an explainer returns.

    ``score`` (B,): the explained quantity. ``output``: the model's own output, untouched. ``content``: input name ->
    (B, T) for index inputs, the input's own shape for floating inputs. ``position``: one entry per injection.
    ``learned``, ``segment``: raw relevance of learned tokens and segment embeddings, by leaf name.
    """

    score: Tensor
    output: Any
    content: dict[str, Tensor]
    position: list[PositionSite]
    learned: dict[str, Tensor]
    segment: dict[str, Tensor]
    ledger: Ledger
    inputs: dict[str, Tensor]
    target: str
    ruleset: str

    @property
    def tokens(self) -> Tensor | dict[str, Tensor]:
        """Content and position credited to tokens, signed: (B, T), or a dict where there are several token inputs."""
        return self.per_token()

    def per_token(self, position: str | None = "signed", *, content: bool = True, credit: str = "key") -> Tensor | dict[str, Tensor]:
        """Relevance per token: content, plus position aggregated as ``signed``, ``positive``, ``absolute`` or not at all.

        Returns (B, T), or a dict by input name where several inputs have tokens. Only ``signed`` adds up to the ledger.
        """
        if position is not None and position not in AGGREGATIONS:
            raise InputError(f"unknown aggregation {position!r}; there are {', '.join(AGGREGATIONS)} and None")
        result = {n: (R.clone() if content else torch.zeros_like(R)) for n, R in self.content.items() if R.dim() == 2}
        if not result:
            raise InputError("this model has no token input; use .content (in the input's own shape) or .heatmap()")
        for site in self.position if position is not None else ():
            share, name = site.per_token(position or "signed", credit), site.owner(credit)
            if share is not None and name in result:
                result[name] = result[name] + share.to(result[name].dtype)
        return next(iter(result.values())) if len(result) == 1 else result

    def heatmap(self, name: str | None = None) -> Tensor:
        """Relevance of a floating input summed over its channels: (B, H, W) for images (B, C, H, W), (B, T) for sequences of vectors."""
        floats = {n: R for n, R in self.content.items() if R.dim() > 2 or (n in self.inputs and self.inputs[n].is_floating_point())}
        if not floats or (name is not None and name not in floats):
            raise InputError(f"no floating input {name or ''} to draw; inputs are {', '.join(self.content)}")
        R = floats[name] if name is not None else next(iter(floats.values()))
        return R.sum(1) if R.dim() == 4 else R.sum(-1) if R.dim() == 3 else R

    def show(self, tokenizer: Any = None) -> None:
        """Print the token heatmap, with content and position parts, and the ledger to the terminal."""
        from lrp_fx.render import show

        show(self, tokenizer)

    def to_html(self, path: Any = None, tokenizer: Any = None) -> str:
        """The same as a self-contained HTML page; written to ``path`` if one is given."""
        from lrp_fx.render import to_html

        return to_html(self, path, tokenizer)

    def _repr_html_(self) -> str:
        from lrp_fx.render import fragment

        return fragment(self)

    def plot(self, tokenizer: Any = None) -> Any:
        """A matplotlib figure: bars per token, or the heatmap of an image."""
        from lrp_fx.render import plot

        return plot(self, tokenizer)
