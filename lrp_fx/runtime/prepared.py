"""Prepared: what an explainer maps data sets with: its relevance graph for rows of any length, as it would be saved.

requires  a model, and rows like those that will come
ensures   the graph depends on the model, the options and these rows only, not on what was explained before; it gives
          the same numbers, to the bit, as when it is saved and loaded
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrp_fx.datasets.batches import arguments_of, planned
from lrp_fx.datasets.names import names_of
from lrp_fx.datasets.rows import Row
from lrp_fx.datasets.settings import Settings
from lrp_fx.errors import InputError, LrpError
from lrp_fx.file.contents import Contents
from lrp_fx.ir.program import DYNAMIC
from lrp_fx.preprocess.reader import Reader
from lrp_fx.runtime.alone import ALONE, compiling
from lrp_fx.runtime.compiler import Compiler
from lrp_fx.runtime.fingerprint import model_fingerprint
from lrp_fx.runtime.mapping import Mapped, Ready, goal_of
from lrp_fx.runtime.saved import SavedExplainer
from lrp_fx.runtime.saving import contents_of
from lrp_fx.targets import Target

#: Rows that the model is captured with.
_EXAMPLE = 4


def mapped_model(explainer: Any, reader: Reader, compiler: Compiler) -> Mapped:
    """How an `Explainer` of a model maps data sets."""
    options = compiler.options

    def said() -> dict[str, Any]:
        """What decides on the numbers, beside versions and settings."""
        details = {"strict": options.strict, "checkpoint": options.checkpoint, "keep_output": options.whole}
        return {
            "rules": explainer.ruleset.name,
            "conserve": explainer.conserve,
            "roles": explainer.roles,
            "output": explainer.output,
            "options": {**details, "without": list(options.without)},
            "model": model_fingerprint(explainer.model),
        }

    def ready(rows: Sequence[Row], settings: Settings) -> Ready:
        made = copy.copy(explainer)  # one that has explained nothing yet, for rows of any size
        made._compiler = Compiler(explainer.model, replace(options, compile=False, dynamic=True))
        return _ready(made, reader, rows, settings)

    return Mapped(reader, said, ready)


def _ready(explainer: Any, reader: Reader, rows: Sequence[Row], settings: Settings) -> Ready:
    """What maps rows like these: the graph that would be saved; where there is none for all sizes, each is captured.

    Raises what capturing raises, where it fails for every row of the example.
    """
    _trace(reader, rows, settings, explainer.trace)
    goal = goal_of(rows, settings)
    found = _contents(explainer, goal)
    if found is None:
        if settings.processes > 1:
            raise InputError(
                "this model is captured for every size by itself, and other processes have no model to capture\n"
                "    next: processes=1; explainer.rewritten.program.refusals says why"
            )
        return Ready(explainer, reader, lambda place: ("", {}))
    loaded = SavedExplainer(found, names_of(reader.tokenizer))
    if settings.columns.target is None:
        loaded.check_fits(goal, rows)

    def file(place: Path) -> tuple[str, dict[str, Any]]:
        explainer.save(place, targets=[goal])
        return str(place), {}

    return Ready(loaded, loaded.for_rows, file)


def _contents(explainer: Any, goal: Target) -> Contents | None:
    """The graphs for a target and any size; None where each size has its own."""
    with ALONE, compiling(explainer.progress):
        compiler: Compiler = explainer._compiler
        last = compiler.current
        if last is None or last.program.method != DYNAMIC:
            return None
        return contents_of(compiler, last, [goal], explainer._told(last))


def _trace(reader: Reader, rows: Sequence[Row], settings: Settings, trace: Callable[..., Any]) -> None:
    """By a few rows of middle length together; where one of them is at fault, by others."""
    batches = planned(rows, min(_EXAMPLE, settings.batch_size), reader.at_once)
    middle = len(batches) // 2
    tries = [*batches[middle:], *batches[:middle]]
    first: LrpError | None = None
    for batch in (*tries, *([row] for part in tries for row in part)):
        goal, inputs = arguments_of(reader, batch, settings.target)
        try:
            trace(target=goal, **inputs)
            return
        except InputError as error:  # one of the rows, it may be
            first = first or error
    assert first is not None
    raise first
