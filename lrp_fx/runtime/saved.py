"""Load: relevance graphs from a file, explained with as by the explainer that was saved."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch import fx

from lrp_fx.capture.arguments import flatten
from lrp_fx.capture.checks import check_inputs
from lrp_fx.datasets.rows import Row
from lrp_fx.datasets.settings import Settings
from lrp_fx.errors import InputError, TargetError
from lrp_fx.file.container import checksum
from lrp_fx.file.contents import Contents
from lrp_fx.file.read import read
from lrp_fx.generation.explain import continuation
from lrp_fx.generation.generation import Generation
from lrp_fx.guards.guard import Arguments, guard_of, refusal
from lrp_fx.guards.inputs import PlainGuard, TensorGuard
from lrp_fx.ir.devices import own_device
from lrp_fx.ir.program import Input
from lrp_fx.preprocess.call import read_call
from lrp_fx.preprocess.forward import Forward, restored
from lrp_fx.preprocess.reader import Reader
from lrp_fx.preprocess.words import named_goals, with_words
from lrp_fx.report.relevance import Relevance
from lrp_fx.runtime.mapping import Mapped, Maps, Ready, goal_of
from lrp_fx.runtime.run import Executable, Running, Terms, explain, goals_of, output_shape, target_arguments
from lrp_fx.targets import Target, check_classes


def load(
    path: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    operators: Sequence[str] = (),
    tokenizer: Any = None,
    processor: Any = None,
) -> SavedExplainer:
    """Read a relevance graph that `Explainer.save` wrote; call it like the explainer, with one of the targets it was
    saved for.

    weights: the model's safetensors file (or a folder of them), for a file saved with ``weights=False``.
    device: where to run it, by default the kind of device it was made on. Fused attention is computed by a kernel of
        that kind: a graph with some runs nowhere else.
    operators: namespaces of ``torch.library`` operators that the graph may call beside torch's own; import what defines
        them first.
    tokenizer, processor: as for `lrp_fx.convert`; the labels of classes are in the file.

    Raises `InputError` if the file is none of ours, of another format, broken, or asks for what is not allowed.
    """
    with own_device():
        contents = read(path, weights=weights, device=device, operators=operators)
        found = SavedExplainer(contents, tokenizer, processor, device)
    options = {"weights": weights, "device": device, "operators": tuple(operators)}
    found._origin = str(path), checksum(path), options
    return found


class SavedExplainer(Maps):
    """Relevance graphs read from a file. ``sites``, ``coverage``, ``ruleset``, ``conserve`` and ``method`` as saved."""

    def __init__(
        self,
        contents: Contents,
        tokenizer: Any = None,
        processor: Any = None,
        device: str | torch.device | None = None,
    ) -> None:
        outputs = contents.outputs
        self._graphs = [
            (
                saved.target,
                Executable(saved.graph, Running(saved.graph.module), saved.guards, outputs.rebuild, outputs.batch),
            )
            for saved in contents.graphs
        ]
        self.sites, self.coverage = contents.sites, contents.coverage
        self.ruleset, self.conserve, self.method = contents.ruleset, contents.conserve, contents.method
        self.made_with = contents.made_with
        self._reader = Reader(self._forward(contents, device or contents.device), tokenizer, processor)
        self._said: set[str] = set()  # the kinds of warnings that come once, and came
        self._origin: tuple[str, str, dict[str, Any]] | None = None  # its file, the checksum, and how it was loaded

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles hold no graphs: their code would run when they are read."""
        raise InputError("a loaded explainer is not pickled\n    next: hand its file's path on, and load() it there")

    def __deepcopy__(self, memo: dict[int, Any]) -> SavedExplainer:
        made = object.__new__(type(self))
        vars(made).update(copy.deepcopy(vars(self), memo))
        return made

    def __repr__(self) -> str:
        return f"SavedExplainer({self.made_with.get('model', 'model')}, rules {self.ruleset})"

    def _forward(self, contents: Contents, device: str | torch.device) -> Forward:
        """What is known of the forward of the model that was saved."""
        floats = [i.dtype for i in self.inputs if i.dtype.is_floating_point]
        names = [i.name for i in self.inputs]
        return restored(contents.reading, names, next(iter(floats), torch.float32), device)

    @property
    def reader(self) -> Reader | None:
        """What turns texts, images and sounds into the graph's inputs; None where `load` was given nothing for it."""
        return None if self._reader.is_empty else self._reader

    @property
    def for_rows(self) -> Reader:
        """What makes batches of rows of numbers, whether or not it reads texts."""
        return self._reader

    @property
    def targets(self) -> list[tuple[Any, ...]]:
        """Signatures of the targets it can explain."""
        return list(dict.fromkeys(target for target, _ in self._graphs))

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The tensors that it takes."""
        return guard_of(TensorGuard, self._graphs[-1][1].guards).inputs

    @property
    def plain(self) -> dict[str, str]:
        """The values beside the tensors that it was made for, as text."""
        return dict(guard_of(PlainGuard, self._graphs[-1][1].guards).values)

    @property
    def relevance_graph(self) -> fx.GraphModule:
        """The first of the graphs, one for each target, that are good for any mask."""
        return self._served_by(self.targets[0])[-1].graph.module

    @overload
    def __call__(self, *args: Any, targets: Sequence[Any], **inputs: Any) -> list[Relevance]: ...
    @overload
    def __call__(self, *args: Any, target: Any = None, **inputs: Any) -> Relevance: ...
    def __call__(
        self, *args: Any, target: Any = None, targets: Sequence[Any] | None = None, **inputs: Any
    ) -> Relevance | list[Relevance]:
        """Explain inputs (by the names the model's forward has) as the explainer did that was saved.

        Values that are no tensors must be those that the explainer was called with. ``output`` of the result is a
        tensor, or a dict by name where the model returned several values.
        """
        with own_device():
            if asked := {"at", "through"} & inputs.keys() - {i.name for i in self.inputs}:
                raise InputError(
                    f"{min(asked)}= asks for places inside the model, and a file holds graphs for its targets only\n"
                    "    next: ask the explainer that lrp_fx.convert(model) makes"
                )
            goals = named_goals(goals_of(target, targets), self._reader)
            results = self._explained(self._arguments(args, inputs), goals)
        return results if targets is not None else results[0]

    def _arguments(self, args: tuple[Any, ...], inputs: dict[str, Any]) -> dict[str, Any]:
        """By name: a file has no forward that would order them, so that only what is read has none."""
        args, inputs = read_call(self._reader, args, inputs)
        if args:
            raise InputError(f"give the inputs by name: {', '.join(i.name for i in self.inputs)}")
        return inputs

    def continuation(
        self,
        prompt: Any,
        text: Any,
        *,
        against: Any = None,
        spans: Any = None,
        at_once: int | None = None,
        **inputs: Any,
    ) -> Generation | list[Generation]:
        """Explain each token of a text that goes on after a prompt, as `Explainer.continuation` does.

        The file has to hold the target `Class` (`Contrast` for ``against``, `Span` of each length for ``spans``).
        """
        options = {"against": against, "spans": spans, "at_once": at_once, "inputs": inputs}
        return continuation(self._reader.forward, self, self.reader, self.ruleset, prompt, text, **options)

    def _mapped(self) -> Mapped:
        if self._origin is None:
            raise InputError("map() takes an explainer, or one that load() has read")
        file, known, options = self._origin
        said = {"rules": self.ruleset, "conserve": self.conserve, "model": known}
        ready = Ready(self, self._reader, lambda place: (file, options))
        return Mapped(self._reader, lambda: said, lambda rows, settings: self._ready_for(rows, settings, ready))

    def _ready_for(self, rows: Sequence[Row], settings: Settings, ready: Ready) -> Ready:
        goal = goal_of(rows, settings)
        self._check_known(goal)
        if settings.columns.target is None:
            self.check_fits(goal, rows)
        return ready

    def check_fits(self, goal: Target, rows: Sequence[Row]) -> None:
        """Raise `TargetError` for a target of all rows that the outputs do not have, as the first row shows that can
        be read.
        """
        for row in rows:
            try:
                call = self._call(self._reader.batch([row.arguments or {}]))
                check_classes(goal, output_shape(self._executable(goal, call).guards, call))
                return
            except InputError:  # the row's own fault, which its column will say
                continue

    def parameters(self, data: Any, **options: Any) -> Any:
        """Not of a file: relevance of parameters needs the model. Raises `InputError`."""
        raise InputError(
            "a file has no graphs for the relevance of parameters\n    next: lrp_fx.convert the model, and ask its "
            "explainer"
        )

    def _explained(self, inputs: dict[str, Any], goals: list[Target]) -> list[Relevance]:
        for goal in goals:
            self._check_known(goal)
        call = self._call(inputs)
        executables = [self._executable(goal, call) for goal in goals]
        check_inputs(call.tensors, call.roles)
        arguments = [a for g, e in zip(goals, executables, strict=True) for a in target_arguments([g], e.guards, call)]
        if not goals:
            return []
        terms = Terms(self.conserve, self.ruleset, self._said, self.made_with.get("probabilities") or None)
        results = explain(executables, call, goals, arguments, terms, _blaming(call))
        return with_words(results, self._reader, output_shape(executables[0].guards, call)[-1])

    def _call(self, inputs: dict[str, Any]) -> Arguments:
        return Arguments(flatten(inputs), {i.name: i.role for i in self.inputs})

    def _check_known(self, goal: Target) -> None:
        if goal.signature not in self.targets:
            known = ", ".join(f"{s[0]}({', '.join(map(str, s[1:]))})" for s in self.targets)
            raise TargetError(
                f"{goal!r} is none of the targets that were saved ({known}): save it again with targets=[...]"
            )

    def _served_by(self, target: tuple[Any, ...]) -> list[Executable]:
        return [executable for known, executable in self._graphs if known == target]

    def _executable(self, goal: Target, call: Arguments) -> Executable:
        """The first that serves the call; where none does, the last, which takes least for granted, says why."""
        executables = self._served_by(goal.signature)
        for executable in executables:
            why = refusal(executable.guards, call)
            if why is None:
                return executable
        raise InputError(why)


def _blaming(call: Arguments) -> Callable[[Exception], None]:
    def blame(error: Exception) -> None:
        given = ", ".join(f"{n}: {v.dtype} {tuple(v.shape)} on {v.device}" for n, v in call.tensors.items())
        raise InputError(
            f"the graph cannot be computed for these inputs ({given}): {type(error).__name__}: {error}"
        ) from error

    return blame
