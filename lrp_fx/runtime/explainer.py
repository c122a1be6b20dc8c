"""Explainer: convert once, explain many times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from lrp_fx.capture.call import ModelCall, as_call, bind
from lrp_fx.capture.checks import check_inputs, run_model
from lrp_fx.capture.outputs import closed
from lrp_fx.capture.unloaded import is_unloaded, require_weights
from lrp_fx.dictionaries.dictionary import dictionaries_of
from lrp_fx.errors import InputError
from lrp_fx.ir.devices import own_device
from lrp_fx.ir.passes import Step
from lrp_fx.preprocess.call import read_call
from lrp_fx.preprocess.forward import told
from lrp_fx.preprocess.kinds import kind_of
from lrp_fx.preprocess.open import Opened, opened
from lrp_fx.preprocess.reader import Reader
from lrp_fx.preprocess.words import named_goals, with_words
from lrp_fx.report.explained import link_of
from lrp_fx.report.relevance import Relevance
from lrp_fx.rewrite.application import Rewritten
from lrp_fx.rewrite.explanation import Explanation
from lrp_fx.rule import Ruleset
from lrp_fx.runtime.agreement import Agreement, check_outputs
from lrp_fx.runtime.alone import ALONE, compiling
from lrp_fx.runtime.between import Between
from lrp_fx.runtime.bind import ready_to_bind
from lrp_fx.runtime.compiled import Built, CompiledProgram, Statistics
from lrp_fx.runtime.compiler import NO_REQUEST, Compiler
from lrp_fx.runtime.edges import with_edges
from lrp_fx.runtime.inside import Request, arguments_of, asked_now, request_of
from lrp_fx.runtime.looking import Looks
from lrp_fx.runtime.mapping import Mapped, Maps
from lrp_fx.runtime.memory import Frugal
from lrp_fx.runtime.pipeline import Options
from lrp_fx.runtime.prepared import mapped_model
from lrp_fx.runtime.refuse import refuse_mixing, refuse_targets
from lrp_fx.runtime.run import Executable, Taking, Terms, explain, goals_of, output_shape
from lrp_fx.runtime.saving import save
from lrp_fx.runtime.settings import check_gradients, check_roles, check_settings, ruleset_of
from lrp_fx.runtime.strategies import Dynamic
from lrp_fx.runtime.writing import Writes
from lrp_fx.structure.sites import Site, find_sites
from lrp_fx.targets import At, Target, as_target


class Explainer(Maps, Looks, Writes, Frugal):
    """Explains a model: call it like the model, with a ``target``."""

    def __init__(
        self,
        model: nn.Module | Opened,
        example_inputs: Any,
        *,
        rules: str | Ruleset,
        conserve: str,
        strict: bool,
        dynamic: Dynamic,
        compile: bool,
        roles: dict[str, str] | None,
        output: str | None,
        keep_output: bool,
        checkpoint: bool,
        differentiable: bool = False,
        without: Sequence[str] = (),
        progress: bool | None = None,
        check: str = "changes",
        dictionaries: Mapping[str, Any] | None = None,
    ) -> None:
        found = model if isinstance(model, Opened) else opened(model)
        model, self._files = found.model, found.files
        check_settings(
            conserve=conserve,
            dynamic=dynamic,
            check=check,
            checkpoint=checkpoint,
            compile=compile,
            differentiable=differentiable,
            without=without,
        )
        if is_unloaded(model):
            model = ready_to_bind(model)
        self.model, self.progress, self.output = model, progress, output
        self._reader = Reader(model, found.tokenizer, found.processor)
        self.ruleset = ruleset_of(rules)
        self.conserve = (
            conserve  # what is demanded; it may be relaxed later, to read faults that graphs made for more show
        )
        self.roles = dict(roles or {})
        self._said: set[str] = set()  # the kinds of warnings that come once, and came
        self._last: dict[str, Any] | None = None  # the arguments of the last call, by name
        self._weighing: Any = None  # the same, with graphs that return relevance of parameters
        check_roles(model, self.roles)
        self._compiler = Compiler(
            model,
            Options(
                self.ruleset,
                conserve == "site",
                strict,
                dynamic,
                compile,
                output,
                keep_output,
                checkpoint,
                tuple(without),
                check == "every",
                dictionaries_of(dictionaries),
                written_out=differentiable,
                differentiable=differentiable,
            ),
        )
        if isinstance(example_inputs, dict):
            self.trace(**example_inputs)
        elif example_inputs is not None:
            several = isinstance(example_inputs, (tuple, list)) and kind_of(example_inputs) is None
            self.trace(*(example_inputs if several else (example_inputs,)))

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are fresh: they hold the model and what was asked for, and capture again."""
        return {**vars(self), "_compiler": self._compiler.options, "_last": None, "_weighing": None, "_said": set()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._compiler = Compiler(self.model, state["_compiler"])

    def __repr__(self) -> str:
        return f"Explainer({type(self.model).__name__}, rules {self.ruleset.name}, {self.statistics.captures} captures)"

    # ------------------------------------------------------------------------------------------------ inspection
    @property
    def graph(self) -> torch.fx.GraphModule:
        """The captured, canonical graph."""
        return self._entry().program.module

    @property
    def relevance_graph(self) -> torch.fx.GraphModule:
        """The flat graph that computes output, relevances and ledger (of the last target used)."""
        if self._used.built is None:
            raise InputError("no relevance graph yet: call the explainer once, or pass example_inputs to convert()")
        return self._used.built.graph.module

    @property
    def sites(self) -> list[Site]:
        """What was recognised and where: attention, normalisation, positional encodings, gates, residual sums, input
        roles.
        """
        return find_sites(self._entry().rewritten, self._entry().structure)

    @property
    def coverage(self) -> dict[str, dict[str, int]]:
        """Relevance-path nodes by rule, under ``rule``, ``inferred`` and ``unexplained``."""
        return self._entry().rewritten.coverage()

    @property
    def rewritten(self) -> Rewritten:
        """The program with the rule of every node; ``.print_readable()`` shows both, and
        ``.print_readable(blocks="once")`` each repeated block once.
        """
        return self._entry().rewritten

    def why(self, node: str) -> Explanation:
        """What a node of the graph means, under which rule, and why the recognisers asked before refused.

        node: its name in `graph`, in `sites` or in an error (``mul_3``). Raises `InputError` for a name that is none.
        """
        return self.rewritten.why(node)

    @property
    def history(self) -> tuple[Step, ...]:
        """What every pass did that made the relevance graph used last: name, nodes before and after, seconds."""
        entry = self._entry()
        built = self._used.built.history if self._used.built is not None else ()
        return (*entry.base.history, *entry.history, *built)

    def _entry(self) -> CompiledProgram:
        if self._used.current is None:
            raise InputError("nothing captured yet: call the explainer once, or pass example_inputs to convert()")
        return self._used.current

    @property
    def _used(self) -> Compiler:
        """What made the program that is shown and saved: with attention written out where nothing but its scores was
        asked for.
        """
        scores: Compiler | None = vars(self._compiler).get("with_scores")
        return scores if scores is not None and self._compiler.current is None else self._compiler

    @property
    def reader(self) -> Reader | None:
        """What turns texts, images and sounds into the model's arguments, and names into numbers; None where neither a
        tokenizer nor a processor is known.
        """
        return None if self._reader.is_empty else self._reader

    # ------------------------------------------------------------------------------------------------ running
    def trace(self, *args: Any, **inputs: Any) -> Explainer:
        """Capture and transpose for these inputs (with ``target=``, ``at=``, ``through=``) without explaining them."""
        targets = named_goals(goals_of(inputs.pop("target", None), None), self._reader)
        request = request_of(inputs.pop("at", ()), inputs.pop("through", None))
        with ALONE, compiling(self.progress):
            compiler = self._compiler.with_scores if request.reads_scores(targets) else self._compiler
            call = self._bind(args, inputs, compiler)
            (goal,) = asked_now(targets, compiler.entry(call), call)
            compiler.compiled(call, goal, request)
        return self

    @overload
    def __call__(
        self, *args: Any, targets: Sequence[Any], at: Any = (), through: Any = None, edges: Any = None, **inputs: Any
    ) -> list[Relevance]: ...
    @overload
    def __call__(
        self, *args: Any, target: Any = None, at: Any = (), through: Any = None, edges: Any = None, **inputs: Any
    ) -> Relevance: ...
    def __call__(
        self,
        *args: Any,
        target: Any = None,
        targets: Sequence[Any] | None = None,
        at: str | Sequence[str] = (),
        through: Mapping[str, Any] | None = None,
        edges: str | Sequence[str] | Between | None = None,
        **inputs: Any,
    ) -> Relevance | list[Relevance]:
        """Explain ``model(*args, **inputs)``; with a tokenizer or processor, also a text, a list of texts, a tuple of
        two (a pair), a chat (a list of messages), an image, a sound, or ``text=``, ``images=``, ``audio=`` together.

        target: None (the predicted class or next token), a class index or label, the text of a token, one of these for
            each example, a target from `lrp_fx.targets`, or a function of the output that returns one number per
            example.
        targets: several of them, for a list of results. Targets of one kind share one forward pass and one batched
            transpose.
        at: places inside the model to be read (``"heads"``, ``"residual.6"``, ``"model.layers.*.mlp"``, a node: see
            `places`); `Relevance.at` has their values, coefficients and relevance.
        through: place -> what of it relevance has to pass: True (all), numbers of features (of heads, where it has
            some), ``{axis: numbers}``, or a mask that broadcasts against the value. What takes another way is in the
            sink ``elsewhere``. Several places lie one below the other: relevance passes all of them.
        edges: places (``"heads"``, ``["attention", "mlp"]``, or a `Between`) between which relevance is followed, for
            `Relevance.edges` and `Relevance.graph`: one more graph, and a batched transpose for each place.

        Raises `InputError`, `TargetError`, `CaptureError`, `UnsupportedOperatorError` (strict) and `ConservationError`.
        """
        with own_device():
            request = request_of(at, through, edges)
            goals = named_goals(goals_of(target, targets), self._reader)
            results = self._explained(args, inputs, goals, request)
        return results if targets is not None else results[0]

    def _explained(
        self,
        args: tuple[Any, ...],
        inputs: dict[str, Any],
        goals: list[Target],
        request: Request = NO_REQUEST,
        take: Taking = None,
    ) -> list[Relevance]:
        """One result for each target; those with the same graph run together. ``take``: as in `Terms`."""
        require_weights(self.model)
        if self._compiler.options.differentiable:
            check_gradients()
        with ALONE, compiling(self.progress):
            compiler = self._compiler.with_scores if request.reads_scores(goals) else self._compiler
            call = self._bind(args, inputs, compiler)
            if not compiler.serves(call):
                outer = [goal for goal in goals if not isinstance(goal, At)]
                refuse_targets(call, outer, compiler.options.output)
            goals = asked_now(goals, compiler.entry(call), call)
            refuse_mixing(goals, compiler.entry(call), call)
            arguments = arguments_of(goals, compiler.entry(call), call)
            follow = request.follow
            followed = [compiler.compiled(call, goal, follow) for goal in goals] if follow is not None else []
            compiled = [compiler.compiled(call, goal, request) for goal in goals]
            masks = [request.arguments(entry, built.inside, call) for entry, built in compiled]
            result = call.result if self._compiler.options.every else None
            call.forget()
            self.statistics.runs += 1
        differentiable = self._compiler.options.differentiable
        made = {id(built): _executable(entry, built, differentiable=differentiable) for entry, built in compiled}

        def blame(error: Exception) -> None:
            """Is it the input that the model itself refuses?"""
            with ALONE:  # running the model sets switches of its configuration for a while
                run_model(call.model, call.bound)

        if not goals:
            return []
        executables = [made[id(built)] for _, built in compiled]
        entry = compiled[0][0]
        named = (self.conserve, self.ruleset.name, self._said, self._link(entry), take)
        terms = Terms(*named, lambda: _answer(entry, call))
        results = explain(executables, call, goals, arguments, terms, blame, masks)
        if result is not None:
            check_outputs(results, result)
        if follow is not None and follow.between is not None:
            graphs = [(_executable(*one, differentiable=differentiable), one[1].inside.stops) for one in followed]
            names = {p.name for p in compiled[0][0].places.find(request.at)} if request.at else set()
            results = with_edges(results, graphs, call, arguments, follow.between, terms, names)
        return with_words(results, self._reader, output_shape(compiled[0][0].guards, call)[-1])

    def _link(self, entry: CompiledProgram) -> str | None:
        outputs, problem = entry.program.outputs, getattr(getattr(self.model, "config", None), "problem_type", None)
        return link_of(outputs.names, outputs.explained, problem)

    def verify(self, *args: Any, **inputs: Any) -> Agreement:
        """Compare what the explainer would answer with the model as it is now, on inputs like a call's, or on the last.

        The result is printed as text, says what differs by output, and is ``ok`` if nothing does. Where something does,
        the next call captures the model again. (`lrp_fx.verify` asks whether an explanation can be trusted.)

        Raises `InputError` where nothing was explained yet, and where the model refuses the inputs.
        """
        if not args and not inputs and self._last is None:
            raise InputError("nothing explained yet: give verify() inputs, as in a call")
        require_weights(self.model)
        with ALONE, compiling(self.progress):
            bound = self._arguments(args, inputs) if args or inputs else self._last or {}
            call = as_call(self.model, bound, self.roles)
            check_inputs(call.bound, call.roles)
            return self._compiler.agreement(call)

    @property
    def statistics(self) -> Statistics:
        """How often each expensive stage ran."""
        return self._compiler.statistics

    def _bind(self, args: tuple[Any, ...], inputs: dict[str, Any], compiler: Compiler) -> ModelCall:
        bound = self._last = self._arguments(args, inputs)
        compiler.check_model()
        call = as_call(self.model, bound, self.roles)
        check_inputs(call.bound, call.roles)
        compiler.check_changes(call)
        return call

    def _arguments(self, args: tuple[Any, ...], inputs: dict[str, Any]) -> dict[str, Any]:
        """Of the model's forward, by name."""
        return bind(self.model, *read_call(self._reader, args, inputs))

    # ------------------------------------------------------------------------------------------------ saving
    def save(self, path: str | Path, *, targets: Sequence[Any] | None = None, weights: bool = True) -> None:
        """Write the relevance graph of the program used last to one file, for `lrp_fx.load`.

        targets: what the file can explain (as in a call; classes and positions stay free), by default the targets used
            so far.
        weights: False leaves the model's weights out; loading then takes the model's safetensors file.

        Raises `TargetError` for functions as targets (they are code), `InputError` before anything was captured, and
        where the model has been changed since and computes something else on the last inputs.
        """
        require_weights(self.model)
        with ALONE, compiling(self.progress):  # nobody else builds or captures meanwhile
            last = self._entry()
            if self._last is not None and not self._used.trusts(last):
                self._used.renew(as_call(self.model, self._last, self.roles))
                last = self._entry()
            goals = None if targets is None else named_goals(list(map(as_target, targets)), self._reader)
            save(self._used, last, path, goals, self._told(last), weights=weights)

    def _told(self, last: CompiledProgram) -> dict[str, Any]:
        """What a file says of the explainer beside its graphs."""
        reading = told(self._reader.forward)
        return {"conserve": self.conserve, "probabilities": self._link(last) or "", "reading": reading}

    def _mapped(self) -> Mapped:
        require_weights(self.model)
        return mapped_model(self, self._reader, self._compiler)


def _answer(entry: CompiledProgram, call: ModelCall) -> Tensor:
    """What is explained of the model's output."""
    program = entry.program
    with torch.no_grad():
        outputs = program.module(*[call.bound[i.name] for i in program.inputs])
    found: Tensor = outputs[program.outputs.explained]
    return found


def _executable(entry: CompiledProgram, built: Built, *, differentiable: bool) -> Executable:
    program = entry.program
    batch = program.batch_input[0].name if program.batch_input is not None else None
    return Executable(
        built.graph,
        built.runner,
        built.guards,
        lambda flat: closed(program.outputs.rebuild(flat)),
        batch,
        differentiable,
    )
