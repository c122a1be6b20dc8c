"""Memory: what explainers do where there is little of it: they tell sizes beforehand, and take weights later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from lrp_fx.capture.call import ModelCall
from lrp_fx.capture.example import shortened
from lrp_fx.capture.unloaded import waits
from lrp_fx.errors import InputError
from lrp_fx.ir.devices import own_device
from lrp_fx.preprocess.reader import Reader
from lrp_fx.preprocess.words import named_goals
from lrp_fx.runtime.alone import ALONE, compiling
from lrp_fx.runtime.bind import bind_weights
from lrp_fx.runtime.captures import carry_over
from lrp_fx.runtime.compiler import Compiler
from lrp_fx.runtime.run import goals_of
from lrp_fx.runtime.size import Size, size_of
from lrp_fx.targets import At


class _Explaining(Protocol):
    """What is asked of an explainer."""

    model: nn.Module
    progress: bool | None
    _compiler: Compiler
    _reader: Reader
    _weighing: Any
    _files: str | None  # where the weights are that it waits for

    @property
    def _bind(self) -> Callable[..., ModelCall]: ...


class Frugal:
    """An explainer that needs no more memory than it says."""

    def bind(
        self: _Explaining, weights: Mapping[str, Tensor] | str | Path | None = None, *, strict: bool = True
    ) -> None:
        """Give a model its weights that was converted without them; calls explain from then on.

        weights: a safetensors file, a folder of shards, or their index, read a piece at a time into the memory that
            waits for it, so that the weights are in memory once; or a ``state_dict``, whose tensors are taken as they
            are where they can be. By default the folder or name that the model was opened from.
        strict: refuse names that the model does not have.

        Narrower floating types become the model's. What was captured is compared with the model, now that it has
        numbers, before it is used. Raises `InputError`, before anything is written, for tensors that are missing, or
        of other shapes, or of types that the model's do not hold; and for numbers that are not finite.
        """
        source = self._files if weights is None else weights
        if not waits(self.model):
            raise InputError("the model has its weights\n    next: explain, or convert(model) after changing them")
        if source is None:
            raise InputError(
                "bind() of a model that was not opened by name\n    next: bind(folder), with its safetensors files, or "
                "bind(state_dict)"
            )
        with ALONE, compiling(self.progress):
            bind_weights(self.model, source, strict=strict)
            carry_over(self.model)
            self._compiler, self._weighing = Compiler(self.model, self._compiler.options), None

    def size(self: _Explaining, *args: Any, target: Any = None, **inputs: Any) -> Size:
        """What explaining such inputs needs of memory, told from the relevance graph: neither the model nor the graph
        is run on them. Of inputs only shapes and types count, and whether masks hide anything.

        target: as in a call. Raises as a call does.
        """
        with own_device(), ALONE, compiling(self.progress):
            (goal,) = named_goals(goals_of(target, None), self._reader)
            if isinstance(goal, At):
                raise InputError(
                    "size() of a place inside the model as a target\n    next: give a target of the output"
                )
            compiler = Compiler(self.model, replace(self._compiler.options, dynamic=True))
            call = self._bind(args, inputs, compiler)
            short = shortened(call.bound, call.roles)
            return size_of(self.model, compiler.sized(call, replace(call, bound=short) if short else call, goal), call)
