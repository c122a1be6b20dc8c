"""``inspect``, ``verify``, ``dump``, ``size``: what a model's graph is, what it needs, whether it can be trusted."""

from __future__ import annotations

import json as jsons
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from lrp_fx.cli.inputs import model_inputs, sized_inputs, trial_inputs
from lrp_fx.cli.listing import print_approximations, print_coverage, print_sites, wide_console
from lrp_fx.preprocess.open import load_model, load_processor, load_tokenizer
from lrp_fx.preprocess.reader import Reader
from lrp_fx.runtime.convert import convert
from lrp_fx.runtime.dump import graph_after
from lrp_fx.runtime.pipeline import PIPELINE
from lrp_fx.runtime.verify import Report
from lrp_fx.runtime.verify import verify as verify_books


def _loaded(name: str, dtype: str, text: str | None, ids: str | None, image: Path | None) -> tuple[Any, dict[str, Any]]:
    """The model and inputs for it: those given, else made-up ones of a plausible shape."""
    model = load_model(name, dtype)
    if text is None and ids is None and image is None:
        return model, trial_inputs(model)
    reader = Reader(model, load_tokenizer(name), load_processor(name))
    return model, model_inputs(model, reader, texts=[text] if text else None, ids=ids, image=image)


def run_inspect(
    model: str,
    text: str | None,
    ids: str | None,
    image: Path | None,
    *,
    rules: str,
    dtype: str,
    why: str | None,
    blocks: str,
) -> None:
    """Print the program, or all about one node of it."""
    explainer = convert(*_loaded(model, dtype, text, ids, image), rules=rules)
    console = wide_console()
    if why is not None:
        console.print(str(explainer.why(why)), highlight=False, markup=False, soft_wrap=True)
        return
    program = explainer.rewritten.program
    console.print(
        f"[bold]{escape(model)}[/]  {type(explainer.model).__name__}, rules {rules}, capture {program.method}",
        highlight=False,
    )
    for refusal in program.refusals:
        console.print(f"  not {refusal}", highlight=False, markup=False)
    listed = explainer.rewritten.print_readable(blocks=blocks)
    console.print(f"\n{listed}\n", highlight=False, markup=False, soft_wrap=True)
    print_sites(console, explainer.sites)
    print_coverage(console, explainer)
    print_approximations(console, explainer)


def run_verify(
    model: str, text: str | None, ids: str | None, image: Path | None, *, rules: str, dtype: str, json: bool
) -> bool:
    """Print what was compared; does everything agree?"""
    report = verify_books(*_loaded(model, dtype, text, ids, image), rules=rules)
    if json:
        print(jsons.dumps(_told(report), indent=1))
    else:
        Console().print(str(report), highlight=False, markup=False, soft_wrap=True)
    return report.ok


def _told(report: Report) -> dict[str, Any]:
    names = ("ok", "forward_difference", "bitwise", "ledger_error", "cancellation", "token_cancellation", "failure")
    found = {name: getattr(report, name) for name in names}
    worst = [{"site": s.name, "rule": s.rule, "source": s.source, "error": s.error} for s in report.worst_sites]
    return {**found, "coverage": {how: dict(rules) for how, rules in report.coverage.items()}, "worst_sites": worst}


def run_size(name: str, tokens: int, batch: int, *, checkpoint: bool, rules: str, dtype: str, json: bool) -> None:
    """Print what an explanation needs of memory."""
    explainer = convert(load_model(name, dtype, weights=False), rules=rules, checkpoint=checkpoint)
    found = explainer.size(**sized_inputs(explainer.model, tokens, batch))
    if json:
        print(jsons.dumps({"model": name, "dtype": dtype, **found.to_dict()}, indent=1))
    else:
        Console().print(str(found), highlight=False, markup=False, soft_wrap=True)


def run_dump(
    model: str,
    text: str | None,
    ids: str | None,
    image: Path | None,
    *,
    rules: str,
    dtype: str,
    until: str | None,
    blocks: str,
) -> None:
    """Print the graph after a pass."""
    loaded, inputs = _loaded(model, dtype, text, ids, image)
    print(graph_after(loaded, inputs, until or PIPELINE[-1].name, rules=rules, blocks=blocks))
