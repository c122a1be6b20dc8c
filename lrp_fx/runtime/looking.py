"""Looking: what explainers tell of the inside of a model beside relevance: its places, its parameters, and what the
model would answer with other values in it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from torch import nn

from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.unloaded import require_weights
from lrp_fx.ir.devices import own_device
from lrp_fx.preprocess.reader import Reader
from lrp_fx.preprocess.words import named_goals
from lrp_fx.report.parameters import ParameterRelevance
from lrp_fx.report.relevance import Relevance
from lrp_fx.rule import Ruleset
from lrp_fx.runtime.alone import ALONE, compiling
from lrp_fx.runtime.compiled import CompiledProgram
from lrp_fx.runtime.compiler import Compiler
from lrp_fx.runtime.inside import Request
from lrp_fx.runtime.parameters import refuse_quantised, summed
from lrp_fx.runtime.patch import patched
from lrp_fx.runtime.run import Taking, goals_of
from lrp_fx.structure.places import Place


class _Looking(Protocol):
    """What is asked of an explainer."""

    model: nn.Module
    ruleset: Ruleset
    conserve: str
    progress: bool | None
    _compiler: Compiler
    _reader: Reader
    _said: set[str]
    _weighing: Any  # the same, with graphs that return relevance of parameters

    def _entry(self) -> CompiledProgram: ...
    @property
    def _bind(self) -> Callable[..., ModelCall]: ...
    @property
    def _explained(self) -> Callable[..., list[Relevance]]: ...


class Looks:
    """An explainer that tells of the inside of its model."""

    @property
    def places(self: _Looking) -> list[Place]:
        """What can be asked for inside the model by the name of its kind: heads, neurons, the residual stream, ...
        (Paths of modules and names of nodes can be, too.)
        """
        return list(self._entry().places)

    def parameters(
        self: _Looking, data: Any, *, target: Any = None, absolute: bool = False, divided: bool = True
    ) -> ParameterRelevance:
        """Relevance of the model's parameters, summed over examples: what pruning, merging and quantisation ask for.

        data: what one call takes (a dict of arguments, a tensor, a text or a list of texts where a tokenizer is known),
            or an iterable of these, one batch after the other. A dict may have its own ``target``.
        target: as in a call, for every batch.
        absolute: sum the absolute values that each batch gives, for a ranking; else the values themselves.
        divided: find out which parts belong to which head and expert, for `by`. It runs attention on drawn values once,
            which takes a while for large models.

        The result has a tensor of each parameter's own shape and type (float32 at least), in units of the explained
        output. The graphs for it are made and kept apart from those of calls.

        Raises as a call does, and `InputError` for quantised models and where data is empty.
        """
        require_weights(self.model)
        refuse_quantised(self.model)
        if self._weighing is None:
            made: Any = copy.copy(self)
            made._compiler = Compiler(self.model, replace(self._compiler.options, parameters=True))
            made._said = self._said
            self._weighing = made
        own = self._weighing
        own.conserve = self.conserve

        def explain(args: tuple[Any, ...], inputs: dict[str, Any], take: Taking) -> Relevance:
            with own_device():
                goals = named_goals(goals_of(inputs.pop("target"), None), own._reader)
                found: Relevance = own._explained(args, inputs, goals, take=take)[0]
                return found

        return summed(
            self.model,
            data,
            target,
            explain,
            own._entry,
            absolute=absolute,
            divided=divided,
            ruleset=self.ruleset.name,
        )

    def patched(self: _Looking, *args: Any, values: Any, **inputs: Any) -> Any:
        """The output of ``model(*args, **inputs)`` where values inside it are others: what a head, a neuron or the
        residual stream at a token does to the answer, by running the model (activation patching).

        values: place (as in ``at=``) -> its new value: a number, a tensor that broadcasts against it, examples first
            (``relevance.at[...].value`` of another input), or a function of it that returns one of these. Several
            places are patched together; a list of such dictionaries gives a list of outputs, and what none of them
            touches is computed once. (Many patches of one place: repeat the input, with another value for each row.)

        Raises `InputError` for places and shapes that are not there, and what a call raises.
        """
        require_weights(self.model)
        with own_device():
            with ALONE, compiling(self.progress):
                given = values if isinstance(values, (list, tuple)) else [values]
                names = [str(name) for one in given if isinstance(one, dict) for name in one]
                wanted = Request(tuple(names)).reads_scores([])
                compiler = self._compiler.with_scores if wanted else self._compiler
                call = self._bind(args, inputs, compiler)
                entry = compiler.entry(call)
                call.forget()
            found = patched(entry, call, values)
        return found if isinstance(values, (list, tuple)) else found[0]
