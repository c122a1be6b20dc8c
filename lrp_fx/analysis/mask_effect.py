"""Mask effect: what a mask says, found by running the program: a token that is hidden reaches no other token.

One token of the middle is changed, and rows of the output that belong to other tokens are compared: with a mask that
says the same of all tokens, and with one that says something else of the changed token alone. Where the change is
seen with the first and not with the second, the mask hides what the second says.

requires  a captured program whose weights have values
ensures   an answer only where a change was seen: a model that mixes no tokens tells nothing
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from lrp_fx.analysis.sources import POSITION
from lrp_fx.errors import raise_if_out_of_memory
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.program import CONTENT_ROLE, MASK_ROLE, Input, Program
from lrp_fx.ir.sizes import hint

#: What a mask says: where it is true (or 1) it keeps tokens, or hides them, or hides where it is very low.
KEEPS, HIDES, LOW = "keeps", "hides", "low"
#: It is a number for each example, and hides what stands behind so many tokens.
LENGTHS = "lengths"
#: It hides no token from the others: it says something else of tokens.
NO_PADDING = "no padding"
#: A change that is this much smaller than one that is seen is none.
_UNSEEN = 1e-3
#: (what stands everywhere, what stands in the place of the token that is changed): tables have different first rows.
_TOKENS = ((2, 3), (0, 1))


def sense_of_lengths(program: Program, module: fx.GraphModule, name: str) -> str | None:
    """`LENGTHS` where numbers (B,) hide the tokens behind so many, found by running; None where they do not."""
    nodes = dict(zip(program.inputs, module.graph.find_nodes(op="placeholder"), strict=True))
    info = next(i for i in nodes if i.name == name)
    output = value_of(program.explained_node)
    if output.dim() < 3 or hint(output.shape[1]) < 3 or _has_no_values(module):
        return None
    tokens = hint(output.shape[1])
    for token in _TOKENS:
        trial = _Trial(program, module, nodes, info, tokens, 1, token)
        seen = [trial.effect(length, length) for length in (tokens, tokens // 2 + 1, tokens // 2)]
        everywhere, just, behind = (found[0] if found is not None else 0.0 for found in seen)
        if None not in seen and min(everywhere, just) > 0 and behind <= _UNSEEN * min(everywhere, just):
            return LENGTHS
    return None


def axis_of_tokens(value: Tensor) -> int:
    """The axis of a mask that runs over tokens: its last, or the one before where it is a column for each example."""
    return -2 if value.dim() > 2 and hint(value.shape[-1]) == 1 else -1


def tokens_of(value: Tensor) -> int:
    """How many tokens a mask speaks of; 0 for a number."""
    return hint(value.shape[axis_of_tokens(value)]) if value.dim() else 0


def sense_by_running(program: Program, module: fx.GraphModule, name: str) -> str | None:
    """`KEEPS`, `HIDES`, `LOW` or `NO_PADDING`; None where no change is seen, or the program cannot be run."""
    nodes = dict(zip(program.inputs, module.graph.find_nodes(op="placeholder"), strict=True))
    info, node = next((i, n) for i, n in nodes.items() if i.name == name)
    output = value_of(program.explained_node)
    tokens = tokens_of(value_of(node))
    if tokens < 2 or output.dim() < 3 or hint(output.shape[1]) != tokens or _has_no_values(module):
        return None
    for others, token in ((others, token) for others in (1, 0) for token in _TOKENS):
        trial = _Trial(program, module, nodes, info, tokens, others, token)
        seen = [(sense, trial.effect(*numbers)) for sense, numbers in _settings(info)]
        for sense, effect in seen:
            if effect is not None and effect[0] > 0 and effect[1] <= _UNSEEN * effect[0]:
                return sense
        effects = {number for _, effect in seen if effect is not None for number in effect}
        if len(effects) > 1:  # one number: the program does not read the mask, or is the record of one
            return NO_PADDING
    return None


def _settings(info: Input) -> Iterator[tuple[str, tuple[float, float]]]:
    """(what the mask says, (of all tokens, of the changed one))."""
    yield KEEPS, (1, 0)
    yield HIDES, (0, 1)
    if info.dtype.is_floating_point:
        yield LOW, (0, torch.finfo(info.dtype).min)


def _has_no_values(module: fx.GraphModule) -> bool:
    held = (getattr(module, str(n.target)) for n in module.graph.nodes if n.op == "get_attr")
    return any(isinstance(t, Tensor) and t.is_meta for t in held)


class _Trial:
    """Runs of a program whose inputs say the same of all tokens. ``others``: what stands in other masks."""

    def __init__(
        self,
        program: Program,
        module: fx.GraphModule,
        nodes: dict[Input, fx.Node],
        mask: Input,
        tokens: int,
        others: float,
        token: tuple[int, int],
    ) -> None:
        self.program, self.module, self.nodes, self.mask = program, module, nodes, mask
        self.tokens, self.others, self.token = tokens, others, token

    def effect(self, everywhere: float, there: float) -> tuple[float, float] | None:
        """How much of a change of one token is seen at others: with one number in all of the mask, and with another in
        the place of that token.
        """
        try:
            return self._seen(everywhere, everywhere), self._seen(everywhere, there)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:  # the program takes no such values
            raise_if_out_of_memory(error)
            return None

    def _seen(self, everywhere: float, there: float) -> float:
        before, after = (self._run(everywhere, there, changed=changed) for changed in (False, True))
        change = (after - before).abs().flatten(2).amax(2)
        change[:, self.tokens // 2] = 0
        return float(change.nan_to_num(0, 0, 0).max())

    def _run(self, everywhere: float, there: float, *, changed: bool) -> Tensor:
        given = [self._value(info, value_of(node), everywhere, there, changed) for info, node in self.nodes.items()]
        with torch.no_grad():
            result: Any = self.module(*given)[self.program.outputs.explained]
        return result.double() if not result.is_complex() else torch.view_as_real(result).double()

    def _value(self, info: Input, like: Tensor, everywhere: float, there: float, changed: bool) -> Tensor:
        shape = [hint(s) for s in like.shape]
        if info == self.mask:
            value = torch.full(shape, everywhere, dtype=like.dtype)
            if len(shape) > 1:  # else there is a number for each example
                value.select(axis_of_tokens(value), self.tokens // 2).fill_(there)
        elif info.role == CONTENT_ROLE:
            value = self._content(info, shape, like.dtype)
            if changed and len(shape) > 1 and shape[1] == self.tokens:
                value[:, self.tokens // 2] = self.token[1] if info.is_index else -value[:, self.tokens // 2]
        elif info.role == POSITION and info.is_index and like.dtype != torch.bool and shape:
            value = torch.arange(shape[-1]).expand(shape).to(like.dtype)
        else:
            value = torch.full(shape, self.others if info.role == MASK_ROLE else 0, dtype=like.dtype)
        return value.to(like.device)

    def _content(self, info: Input, shape: list[int], dtype: torch.dtype) -> Tensor:
        if info.is_index:
            return torch.full(shape, self.token[0], dtype=dtype)
        return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
