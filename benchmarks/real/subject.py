"""A subject: a real model with examples of its own, what is explained of them, and whether it is right about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.targets import Class, Direction, Target, rows_at

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Sense:
    """Whether outputs are sensible: what was asked, what the model said, and whether that is right."""

    asked: str
    said: str
    right: bool


@dataclass
class Subject(ABC):
    """A model, and what is asked of it.

    examples: inputs of one example each. ids: the input that holds tokens, if one does; embedding: what embeds them,
    and ``embeds`` the argument that takes embeddings in their place. lengths: numbers of tokens that costs are measured
    for. vector: explained is the output along it, not a class.
    """

    model: nn.Module
    examples: list[Inputs]
    ids: str | None = None
    embeds: str = "inputs_embeds"
    mask: str = "attention_mask"
    pad: int = 0
    lengths: tuple[int, ...] = ()
    vector: Tensor | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @abstractmethod
    def sense(self) -> Sense:
        """Asks the model."""

    def of_length(self, tokens: int) -> Inputs:
        """One example of as many tokens; where there are none, an example."""
        del tokens
        return self.examples[0]

    def rows(self, inputs: Inputs) -> list[int] | None:
        """Which row of the output is explained, for each example: the last; None where there are no rows."""
        return [int(n) - 1 for n in self.kept(inputs)] if self.ids else None

    def words(self, inputs: Inputs) -> list[str]:
        """What the tokens of one example are called, where there is a picture to show."""
        del inputs
        return []

    def kept(self, inputs: Inputs) -> Tensor:
        """How many tokens of each example are no padding, (B,)."""
        assert self.ids is not None
        return inputs[self.mask].sum(1) if self.mask in inputs else torch.tensor([inputs[self.ids].shape[1]])

    def batch(self, examples: list[Inputs]) -> Inputs:
        """Several examples as one call: tokens padded on the right, and a mask of them."""
        if self.ids is None:
            return {n: torch.cat([e[n] for e in examples]) for n in examples[0]}
        longest = max(e[self.ids].shape[1] for e in examples)
        found = {n: torch.cat([e[n] for e in examples]) for n in examples[0] if n not in (self.ids, self.mask)}
        found[self.ids] = torch.cat([_padded(e[self.ids], longest, self.pad) for e in examples])
        found[self.mask] = torch.cat([_padded(torch.ones_like(e[self.ids]), longest, 0) for e in examples])
        return found

    def output(self, inputs: Inputs) -> Tensor:
        """What is explained is read from this: (B, rows, classes) or (B, classes)."""
        given: Any = self.model(**inputs)
        return given if isinstance(given, Tensor) else given.logits

    def answers(self, inputs: Inputs) -> list[int]:
        """The class, or the token, that the model predicts for each example."""
        with torch.no_grad():
            return self._row(self.output(inputs), inputs).argmax(-1).tolist()

    def target(self, inputs: Inputs, answers: list[int] | None = None) -> Target:
        """Explained are these classes or tokens, by default the predicted ones."""
        if self.vector is not None:
            return Direction(self.vector)
        return Class(answers if answers is not None else self.answers(inputs), self.rows(inputs))

    def gradient(self, inputs: Inputs) -> Inputs:
        """Gradient x input of the predicted class or token: one forward and one backward pass of the model."""
        leaves = {n: v.clone().requires_grad_() for n, v in inputs.items() if v.is_floating_point()}
        given = {**inputs, **leaves}
        if self.ids:
            embedding: Any = self.model.get_input_embeddings()  # type: ignore[operator]
            given[self.embeds] = leaves[self.embeds] = embedding(given.pop(self.ids)).detach().requires_grad_()
        row = self._row(self.output(given), inputs)
        score = row @ self.vector if self.vector is not None else row.amax(-1)
        total: Any = score.sum()
        total.backward()
        return {n: v.detach() * v.grad for n, v in leaves.items() if v.grad is not None}

    def _row(self, output: Tensor, inputs: Inputs) -> Tensor:
        """The explained row of each example, (B, classes)."""
        rows = self.rows(inputs)
        return output if rows is None else rows_at(output, None, torch.tensor(rows))


def _padded(row: Tensor, length: int, value: int) -> Tensor:
    return nn.functional.pad(row, (0, length - row.shape[1]), value=value)
