"""Parameters: relevance of a model's weights over many calls, added up call by call.

requires  calls like those of an explainer
ensures   graphs of its own: those that explain inputs stay as they are; at most one more tensor for each parameter
          beside what one call takes
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrp_fx.capture.quantised import quantised_layers
from lrp_fx.errors import InputError
from lrp_fx.ir.program import Program
from lrp_fx.preprocess.kinds import CHAT, kind_of
from lrp_fx.report.parameters import ParameterRelevance, Use
from lrp_fx.report.relevance import Relevance
from lrp_fx.runtime.compiled import CompiledProgram
from lrp_fx.runtime.run import Taking
from lrp_fx.structure.divisions import Division
from lrp_fx.structure.experts import find_experts
from lrp_fx.structure.head_parts import find_heads
from lrp_fx.transpose.parameters import ParameterSignature, Read

#: Explain one call, and hand over what its graph returned.
Explain = Callable[[tuple[Any, ...], dict[str, Any], Taking], Relevance]


def refuse_quantised(model: nn.Module) -> None:
    """Raise `InputError` for a model whose weights are no plain floating-point parameters."""
    name = next((n for n, _ in quantised_layers(model)), None)
    if name is not None:
        raise InputError(
            f"{name} is quantised: its weights are codes, and have no relevance of their own"
            "\n    next: lrp_fx.dequantised(model), or the model before it was quantised"
        )


def calls_of(data: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The calls that data stands for: one where it is what a call takes (a list of texts), else one for each item (a
    list of lists of texts).

    Raises `InputError` where there is none.
    """
    kind = kind_of(data)
    batches = isinstance(data, list) and kind != CHAT and all(isinstance(item, list) for item in data)
    one = isinstance(data, (Mapping, Tensor, np.ndarray)) or (kind is not None and not batches)
    if not one and not isinstance(data, Iterable):
        raise InputError(f"data is one call's inputs or an iterable of these, got a {type(data).__name__}")
    none = True
    for item in [data] if one else data:
        none = False
        if isinstance(item, Mapping) and kind_of(item) is None:
            # what a tokenizer returned may hold entries that the model does not take: read like a call's
            yield ((), dict(item)) if not hasattr(item, "convert_to_tensors") else ((item,), {})
        elif isinstance(item, tuple) and kind_of(item) is None:
            yield item, {}
        else:
            yield (item,), {}
    if none:
        raise InputError("data has no item: there is nothing to explain")


@dataclass
class Sums:
    """What was added up so far; ``named``: attribute of a program -> name of the model's parameter."""

    model: nn.Module
    absolute: bool
    relevance: dict[str, Tensor] = field(default_factory=dict)
    uses: dict[Any, Use] = field(default_factory=dict)
    examples: int = 0
    calls: int = 0
    score: float = 0.0

    def names(self, program: Program) -> dict[str, str]:
        """attribute of the program -> name of the parameter, found by identity."""
        known = {id(p): n for n, p in self.model.named_parameters()}
        held = {str(n.target): getattr(program.module, str(n.target)) for n in program.graph.find_nodes(op="get_attr")}
        return {attribute: known[id(t)] for attribute, t in held.items() if id(t) in known}

    def add(self, signature: ParameterSignature, flat: tuple[Any, ...], named: Mapping[str, str]) -> None:
        """Add what one call's graph returned."""
        relevances, totals = signature.taken(flat)
        for attribute, R in zip(signature.parameters, relevances, strict=True):
            if attribute in named:
                self._add(named[attribute], R)
        for place, total in zip(signature.reads, totals, strict=True):
            self._add_use(place, float(total), named)

    def _add(self, name: str, R: Tensor) -> None:
        R = R.abs() if self.absolute else R
        self.relevance[name] = self.relevance[name].add_(R) if name in self.relevance else R.detach()

    def _add_use(self, place: Read, total: float, named: Mapping[str, str]) -> None:
        names = tuple(named[a] for a in place.parameters if a in named)
        known = self.uses.get(place)
        if known is None:
            site = place.site
            known = Use(names, site.name, site.rule, site.module, site.source, place.layer, 0.0)
        self.uses[place] = replace(known, relevance=known.relevance + total)

    def result(self, ruleset: str, divisions: tuple[Division, ...]) -> ParameterRelevance:
        """The sums of all calls; parameters that nothing passed have zeros."""
        found = {n: self.relevance[n] if n in self.relevance else _nothing(p) for n, p in self.model.named_parameters()}
        uses = tuple(use for use in self.uses.values() if use.parameters)
        numbers = (self.examples, self.calls, self.score, ruleset, self.absolute)
        return ParameterRelevance(found, uses, *numbers, divisions)


def _nothing(parameter: nn.Parameter) -> Tensor:
    wide = parameter.dtype if parameter.dtype == torch.float64 else torch.float32
    return torch.zeros(parameter.shape, dtype=wide, device=parameter.device)


def summed(
    model: nn.Module,
    data: Any,
    target: Any,
    explain: Explain,
    serving: Callable[[], CompiledProgram],
    *,
    absolute: bool,
    divided: bool,
    ruleset: str,
) -> ParameterRelevance:
    """Relevance of parameters over all calls of ``data``; see `Explainer.parameters`.

    explain: one call with a target. serving: the program that served the last call.
    """
    sums = Sums(model, absolute)
    for args, inputs in calls_of(data):
        returned = list[tuple[Any, tuple[Any, ...]]]()
        inputs = {**inputs, "target": inputs.get("target", target)}
        result = explain(args, inputs, _into(returned))
        named = sums.names(serving().program)
        for signature, flat in returned:
            sums.add(signature, flat, named)
        sums.examples += result.score.numel()
        sums.calls += 1
        sums.score += float(result.score.double().sum())
    return sums.result(ruleset, _divisions(serving(), named) if divided else ())


def _into(returned: list[tuple[Any, tuple[Any, ...]]]) -> Taking:
    return lambda signature, flat: returned.append((signature, flat))


def _divisions(serving: CompiledProgram, named: Mapping[str, str]) -> tuple[Division, ...]:
    """What belongs to which head and which expert, by the names of the model's parameters."""
    found = (*find_heads(serving.rewritten), *find_experts(serving.rewritten))
    return tuple(replace(d, parameter=named[d.parameter]) for d in found if d.parameter in named)
