"""Explainer: convert once, explain many times."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from lrp_fx.capture.call import ModelCall, as_call, bind
from lrp_fx.capture.checks import check_inputs, run_model
from lrp_fx.capture.outputs import closed
from lrp_fx.errors import InputError, TargetError
from lrp_fx.file.contents import Contents, ModelOutputs, SavedGraph
from lrp_fx.file.write import write
from lrp_fx.generation.explain import continuation, generate
from lrp_fx.generation.generation import Generation
from lrp_fx.ir.devices import own_device
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.listing import check_blocks
from lrp_fx.ir.passes import Step, check_names
from lrp_fx.ir.program import ROLES
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
from lrp_fx.rule import Ruleset, registry
from lrp_fx.runtime.agreement import Agreement
from lrp_fx.runtime.alone import ALONE, compiling
from lrp_fx.runtime.compiler import Built, CompiledProgram, Compiler, Statistics
from lrp_fx.runtime.pipeline import PIPELINE, Options, State, compile_until
from lrp_fx.runtime.refuse import refuse_targets
from lrp_fx.runtime.run import Executable, Terms, explain, goals_of, output_shape, target_arguments
from lrp_fx.runtime.strategies import Dynamic
from lrp_fx.structure.sites import Site, find_sites
from lrp_fx.targets import Custom, Target, as_target, asked

CONSERVE = ("total", "site", "off")
CHECKS = ("changes", "every")


def convert(
    model: nn.Module | str | Path | Any,
    example_inputs: Any = None,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    rules: str | Ruleset = "pa-lrp",
    conserve: str = "total",
    strict: bool = False,
    dynamic: Dynamic = "auto",
    compile: bool = False,
    roles: dict[str, str] | None = None,
    output: str | None = None,
    keep_output: bool = True,
    checkpoint: bool = False,
    without: Sequence[str] = (),
    progress: bool | None = None,
    check: str = "changes",
) -> Explainer:
    """Compile a model into an explainer.

    model: any `torch.nn.Module` in eval mode. It is not modified. Or a pipeline of transformers, with what it reads by;
        or a folder or name on the hub: model (in float32), tokenizer and processor are loaded from there.
    example_inputs: keyword arguments of its forward (a dictionary), or what a call takes first, such as a text; given,
        capture happens now, otherwise on first use.
    tokenizer, processor: of transformers, or called like theirs: calls take texts, chats, images and sounds then,
        targets take names of labels and tokens, and results are drawn with words.
    rules: name of a preset (`lrp_fx.rulesets()`) or a `lrp_fx.Ruleset`.
    conserve: ``"total"`` checks that each example's ledger closes, ``"site"`` balances every site of the graph too and
        names the worst, ``"off"`` checks nothing.
    strict: refuse operations that are only approximated (`lrp_fx.UnsupportedOperatorError`).
    dynamic: True: batch and sequence sizes are symbolic, so that other sizes do not capture again. False: every size is
        captured by itself. ``"auto"``: one short example is captured for its own sizes, which is quicker, and symbolic
        sizes follow when a second size comes (or a file is saved).
    compile: run the relevance graph through `torch.compile`.
    roles: forward argument (or container of them) -> ``"content"``, ``"position"``, ``"segment"``, ``"mask"`` or
        ``"cached"`` (computed for earlier tokens, as keys and values are), where its name misleads.
    output: name of the output to explain, where the model returns several (default: ``logits``, else the first float).
    keep_output: return the model's own output with the relevance. Without it (`Relevance.output` is None), what a
        target does not read is not computed: logits at one position instead of all, the last block for one row.
    checkpoint: keep the residual stream of the forward pass only, and compute the insides of the blocks again when the
        transpose needs them: less memory for more time. Not together with ``compile``.
    without: names of optimisations to leave out (``lrp-fx passes`` lists them): which one changes a number is found so.
    progress: show, in one line on standard error, which pass runs and the seconds so far; by default on a terminal and
        in a notebook. The logger ``lrp_fx`` says at INFO what each pass did.
    check: ``"changes"`` compares what was captured with the model where the model is seen to have been changed;
        ``"every"`` in every call, by running the model on it: a change that cannot be seen (of a function in a Python
        module, of what a closure holds) is captured anew, too.
    """
    return Explainer(
        opened(model, tokenizer, processor),
        example_inputs,
        rules=rules,
        conserve=conserve,
        strict=strict,
        dynamic=dynamic,
        compile=compile,
        roles=roles,
        output=output,
        keep_output=keep_output,
        checkpoint=checkpoint,
        without=without,
        progress=progress,
        check=check,
    )


class Explainer:
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
        without: Sequence[str] = (),
        progress: bool | None = None,
        check: str = "changes",
    ) -> None:
        found = model if isinstance(model, Opened) else opened(model)
        model = found.model
        if conserve not in CONSERVE:
            raise InputError(f"conserve={conserve!r}; there are {', '.join(CONSERVE)}")
        if dynamic not in (True, False, "auto"):
            raise InputError(f"dynamic={dynamic!r}; there are True, False and 'auto'")
        if check not in CHECKS:
            raise InputError(f"check={check!r}; there are {', '.join(CHECKS)}")
        if checkpoint and compile:
            raise InputError(
                "checkpoint=True and compile=True do not go together: a compiler may merge what is computed twice"
            )
        if isinstance(without, str):
            raise InputError(f"without= takes a list of names, such as ({without!r},)")
        check_names(PIPELINE, without)
        self.model, self.progress, self.output = model, progress, output
        self._reader = Reader(model, found.tokenizer, found.processor)
        self.ruleset = _ruleset(rules)
        self.conserve = (
            conserve  # what is demanded; it may be relaxed later, to read faults that graphs made for more show
        )
        self.roles = dict(roles or {})
        self._said: set[str] = set()  # the kinds of warnings that come once, and came
        self._last: dict[str, Any] | None = None  # the arguments of the last call, by name
        takes = inspect.signature(model.forward).parameters
        strange = [
            n
            for n in self.roles
            if n.split(".")[0] not in takes and not any(p.kind is p.VAR_KEYWORD for p in takes.values())
        ]
        if strange:
            raise InputError(f"roles for {', '.join(strange)}, but forward takes {', '.join(takes)}")
        unknown = [f"{n}: {r!r}" for n, r in self.roles.items() if r not in ROLES]
        if unknown:
            raise InputError(f"unknown role for {', '.join(unknown)}; a role is one of {', '.join(ROLES)}")
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
            ),
        )
        if isinstance(example_inputs, dict):
            self.trace(**example_inputs)
        elif example_inputs is not None:
            several = isinstance(example_inputs, (tuple, list)) and kind_of(example_inputs) is None
            self.trace(*(example_inputs if several else (example_inputs,)))

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are fresh: they hold the model and what was asked for, and capture again."""
        return {**vars(self), "_compiler": self._compiler.options, "_last": None, "_said": set()}

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
        if self._compiler.built is None:
            raise InputError("no relevance graph yet: call the explainer once, or pass example_inputs to convert()")
        return self._compiler.built.graph.module

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
        built = self._compiler.built.history if self._compiler.built is not None else ()
        return (*entry.base.history, *entry.history, *built)

    def _entry(self) -> CompiledProgram:
        if self._compiler.current is None:
            raise InputError("nothing captured yet: call the explainer once, or pass example_inputs to convert()")
        return self._compiler.current

    @property
    def reader(self) -> Reader | None:
        """What turns texts, images and sounds into the model's arguments, and names into numbers; None where neither a
        tokenizer nor a processor is known.
        """
        return None if self._reader.is_empty else self._reader

    # ------------------------------------------------------------------------------------------------ running
    def trace(self, *args: Any, **inputs: Any) -> Explainer:
        """Capture and transpose for these inputs without explaining them."""
        (target,) = named_goals(goals_of(inputs.pop("target", None), None), self._reader)
        with ALONE, compiling(self.progress):
            call = self._bind(args, inputs)
            self._compiler.compiled(call, *self._asked([target], call))
        return self

    @overload
    def __call__(self, *args: Any, targets: Sequence[Any], **inputs: Any) -> list[Relevance]: ...
    @overload
    def __call__(self, *args: Any, target: Any = None, **inputs: Any) -> Relevance: ...
    def __call__(
        self, *args: Any, target: Any = None, targets: Sequence[Any] | None = None, **inputs: Any
    ) -> Relevance | list[Relevance]:
        """Explain ``model(*args, **inputs)``; with a tokenizer or processor, also a text, a list of texts, a tuple of
        two (a pair), a chat (a list of messages), an image, a sound, or ``text=``, ``images=``, ``audio=`` together.

        target: None (the predicted class or next token), a class index or label, the text of a token, one of these for
            each example, a target from `lrp_fx.targets`, or a function of the output that returns one number per
            example.
        targets: several of them, for a list of results. Targets of one kind share one forward pass and one batched
            transpose.

        Raises `InputError`, `TargetError`, `CaptureError`, `UnsupportedOperatorError` (strict) and `ConservationError`.
        """
        with own_device():
            goals = named_goals(goals_of(target, targets), self._reader)
            results = self._explained(args, inputs, goals)
        return results if targets is not None else results[0]

    def _explained(self, args: tuple[Any, ...], inputs: dict[str, Any], goals: list[Target]) -> list[Relevance]:
        """One result for each target; those with the same graph run together."""
        with ALONE, compiling(self.progress):
            call = self._bind(args, inputs)
            if not self._compiler.serves(call):
                refuse_targets(call, goals, self._compiler.options.output)
            goals = self._asked(goals, call)
            arguments = target_arguments(goals, self._compiler.entry(call).guards, call)
            compiled = [self._compiler.compiled(call, goal) for goal in goals]
            call.forget()
            self.statistics.runs += 1
        made = {id(built): _executable(entry, built) for entry, built in compiled}

        def blame(error: Exception) -> None:
            """Is it the input that the model itself refuses?"""
            with ALONE:  # running the model sets switches of its configuration for a while
                run_model(call.model, call.bound)

        if not goals:
            return []
        executables = [made[id(built)] for _, built in compiled]
        terms = Terms(self.conserve, self.ruleset.name, self._said, self._link(compiled[0][0]))
        results = explain(executables, call, goals, arguments, terms, blame)
        return with_words(results, self._reader, output_shape(compiled[0][0].guards, call)[-1])

    def _asked(self, goals: list[Target], call: ModelCall) -> list[Target]:
        """Functions as they are now, for the output of this call."""
        entry = self._compiler.entry(call)
        like = value_of(entry.program.explained_node)
        return [asked(goal, output_shape(entry.guards, call), like.dtype, like.device) for goal in goals]

    def _link(self, entry: CompiledProgram) -> str | None:
        outputs, problem = entry.program.outputs, getattr(getattr(self.model, "config", None), "problem_type", None)
        return link_of(outputs.names, outputs.explained, problem)

    # ------------------------------------------------------------------------------------------------ generation
    def generate(self, prompt: Any = None, **options: Any) -> Generation | list[Generation]:
        """Let the model write, and explain each token that it wrote (`Generation`), all of them from one forward pass.

        prompt: a text or a chat, where the explainer knows a tokenizer; ids (1, T); a dict of arguments of forward; a
            list of texts, for a list of results.
        options: tensors are further arguments of forward (``pixel_values=``), ``images=`` and ``audio=`` go to the
            processor, all else to the model's own ``generate`` (``max_new_tokens=10``, ``do_sample=False``). Where it
            returns several sequences, the result is a list.

        Raises `InputError` for a model that cannot generate, and for texts without a tokenizer.
        """
        return generate(self.model, self, self.reader, self.ruleset.name, prompt, options)

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
        """Explain each token of a text that goes on after a prompt, as if the model had written it.

        prompt: as in `generate`. text: what follows (with the space that parts them), or its ids; a list of texts for
            a list of prompts.
        against: another text (or ids): each step is then the logit of its token less that of the other text's token
            in the same place, both after the first text so far. Where both are the same a row is zero; steps that only
            one of them has are left out, with a warning.
        spans: ``"all"``, or a list of (first step, after the last): one row for each, the sum of its logits, in one
            pass.
        at_once: how many steps share a pass of the transpose (more take more memory).
        inputs: further arguments of forward.

        Raises `InputError` for texts without a tokenizer, empty texts and spans that are not there.
        """
        options = {"against": against, "spans": spans, "at_once": at_once, "inputs": inputs}
        options["settings"] = getattr(self.model, "generation_config", None)
        return continuation(self._reader.forward, self, self.reader, self.ruleset.name, prompt, text, **options)

    def verify(self, *args: Any, **inputs: Any) -> Agreement:
        """Compare what the explainer would answer with the model as it is now, on inputs like a call's, or on the last.

        The result is printed as text, says what differs by output, and is ``ok`` if nothing does. Where something does,
        the next call captures the model again. (`lrp_fx.verify` asks whether an explanation can be trusted.)

        Raises `InputError` where nothing was explained yet, and where the model refuses the inputs.
        """
        if not args and not inputs and self._last is None:
            raise InputError("nothing explained yet: give verify() inputs, as in a call")
        with ALONE, compiling(self.progress):
            bound = self._arguments(args, inputs) if args or inputs else self._last or {}
            call = as_call(self.model, bound, self.roles)
            check_inputs(call.bound, call.roles)
            return self._compiler.agreement(call)

    @property
    def statistics(self) -> Statistics:
        """How often each expensive stage ran."""
        return self._compiler.statistics

    def _bind(self, args: tuple[Any, ...], inputs: dict[str, Any]) -> ModelCall:
        bound = self._last = self._arguments(args, inputs)
        self._compiler.check_model()
        call = as_call(self.model, bound, self.roles)
        check_inputs(call.bound, call.roles)
        self._compiler.check_changes(call)
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
        where the model has been changed since.
        """
        with ALONE, compiling(self.progress):  # nobody else builds or captures meanwhile
            last = self._entry()
            if self._compiler.has_changed() or last.base in self._compiler.doubted:
                raise InputError(
                    "the model has been changed since it was explained last\n    next: explain an input once more (the "
                    "graphs are compared with it), and save then"
                )
            built = [d.target for entry in self._compiler.related(last) for d in entry.graphs.values()]
            used = list({t.signature: t for t in built if not isinstance(t, Custom)}.values())
            goals = named_goals(list(map(as_target, targets)), self._reader) if targets is not None else used
            if not goals or any(isinstance(g, Custom) for g in goals):
                raise TargetError(
                    "a file holds no code: give save(path, targets=[...]) targets from lrp_fx.targets, not functions"
                )
            entries = self._compiler.variants(self._compiler.for_any_size(last, goals))
            graphs = [(goal, self._compiler.build(entry, goal)) for entry in entries for goal in goals]
            saved = tuple(SavedGraph(goal.signature, built.graph, built.guards) for goal, built in graphs)
            write(path, self._contents(entries[-1], saved), model=self.model, weights=weights)

    def _contents(self, general: CompiledProgram, graphs: tuple[SavedGraph, ...]) -> Contents:
        """What is said of graphs that were made of one captured program; ``general``: what is good for any mask."""
        outputs, batched = general.program.outputs, general.program.batch_input
        alone = isinstance(outputs.rebuild(tuple(range(len(outputs.names)))), int)  # and not something that holds it
        return Contents(
            graphs,
            ModelOutputs(tuple(outputs.names), alone, batched[0].name if batched is not None else None),
            device=value_of(next(iter(general.program.input_nodes().values()))).device.type,
            ruleset=self.ruleset.name,
            conserve=self.conserve,
            method=general.program.method,
            sites=find_sites(general.rewritten, general.structure),
            coverage=general.rewritten.coverage(),
            made_with={
                "lrp_fx": version("lrp_fx"),
                "torch": torch.__version__,
                "model": type(self.model).__name__,
                "probabilities": self._link(general) or "",
            },
            reading=told(self._reader.forward),
        )


def _executable(entry: CompiledProgram, built: Built) -> Executable:
    program = entry.program
    batch = program.batch_input[0].name if program.batch_input is not None else None
    return Executable(
        built.graph, built.runner, built.guards, lambda flat: closed(program.outputs.rebuild(flat)), batch
    )


def graph_after(
    model: nn.Module, inputs: dict[str, Any], until: str, *, rules: str | Ruleset = "pa-lrp", blocks: str = "all"
) -> str:
    """What there is after the pass ``until``, as text: the program, the program with its rules, or the relevance graph.

    blocks: ``"once"`` for the first of each run of equal blocks, with how often it comes.

    Raises `InputError` for a name that is no pass and for other ``blocks``, and what converting raises.
    """
    check_blocks(blocks)
    if until not in [p.name for p in PIPELINE]:
        raise InputError(f"there is no pass {until!r}; there are {', '.join(p.name for p in PIPELINE)}")
    call = as_call(model, bind(model, (), inputs), {})
    check_inputs(call.bound, call.roles)
    state = State(Options(_ruleset(rules)), call, constants=call.constants, target=as_target(None))
    return compile_until(state, until)[0].print_readable(blocks)


def aggregations() -> dict[str, str]:
    """Names of the ways to sum position relevance per token, and what each does."""
    return {name: a.law for name, a in registry.aggregations.items()}


def rulesets() -> dict[str, str]:
    """Names of the presets and what each is."""
    return {name: r.about for name, r in registry.rulesets.items()}


def _ruleset(rules: str | Ruleset) -> Ruleset:
    if isinstance(rules, Ruleset):
        unknown = [name for name in rules.named() if name not in registry.rules]
        if unknown:
            raise InputError(
                f"ruleset {rules.name!r} names unknown rules: {', '.join(unknown)}; known are "
                f"{', '.join(sorted(registry.rules))}"
            )
        return rules
    if rules not in registry.rulesets:
        raise InputError(f"no ruleset {rules!r}; there are {', '.join(registry.rulesets)}")
    return registry.rulesets[rules]
