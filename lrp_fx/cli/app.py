"""The command line: ``lrp-fx explain``, ``inspect``, ``verify``, ``passes``, ``dump``, ``rules``, ``recognisers``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lrp_fx.cli.inputs import model_inputs, read_places, read_target, trial_inputs
from lrp_fx.cli.options import Blocks, Conserve, Dtype, Ids, Image, Model, Rules, Shown, Text
from lrp_fx.errors import LrpError
from lrp_fx.preprocess.open import load_model, load_tokenizer
from lrp_fx.recognize.recognisers import RECOGNISERS
from lrp_fx.rewrite.refuse import approximations
from lrp_fx.runtime.explainer import Explainer, convert, graph_after
from lrp_fx.runtime.pipeline import PIPELINE
from lrp_fx.structure.sites import Site

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Relevance propagation for transformers whose books close.",
)
INPUT = "input"


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Errors that name their cause become one red paragraph and exit code 1."""
    try:
        yield
    except LrpError as error:
        Console(stderr=True).print(
            f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False, soft_wrap=True
        )
        raise typer.Exit(1) from None


@app.command()
def explain(
    model: Model,
    text: Text = None,
    ids: Ids = None,
    image: Image = None,
    decoder_text: Annotated[str | None, typer.Option(help="What an encoder-decoder has written so far.")] = None,
    rules: Rules = "pa-lrp",
    target: Annotated[
        str | None, typer.Option(help="Class (number or label) or vocabulary token; default: the prediction.")
    ] = None,
    contrast: Annotated[
        tuple[str, str] | None, typer.Option(help="Two classes A B: what speaks for A rather than B.")
    ] = None,
    position: Annotated[int | None, typer.Option(help="Output position to explain (default: the last token).")] = None,
    conserve: Annotated[
        Conserve, typer.Option(help="Check the whole ledger, every site too, or nothing.")
    ] = Conserve.total,
    dtype: Dtype = "float32",
    html: Annotated[Path | None, typer.Option(help="Write a self-contained page here as well.")] = None,
    hide: Annotated[
        str | None,
        typer.Option(help="Tokens to leave out of the scale of colours: `largest`, or places such as 0,-1."),
    ] = None,
) -> None:
    """Explain one prediction: heatmap with content and position parts, and the ledger."""
    with _plain_errors():
        left_out = read_places(hide)
        loaded, tokenizer = load_model(model, dtype), load_tokenizer(model)
        goal = read_target(loaded, tokenizer, target, contrast, position)
        inputs = model_inputs(loaded, tokenizer, text=text, ids=ids, image=image, decoder_text=decoder_text)
        relevance = convert(loaded, rules=rules, conserve=conserve.value)(**inputs, target=goal)
        console = Console()
        console.print(_prediction(loaded, tokenizer, relevance.output, position), highlight=False)
        relevance.show(tokenizer, hide=left_out)
        if html is not None:
            relevance.to_html(html, tokenizer, hide=left_out)
            console.print(f"wrote {html}", highlight=False)


@app.command(name="inspect")
def inspect_model(
    model: Model,
    text: Text = None,
    ids: Ids = None,
    image: Image = None,
    rules: Rules = "pa-lrp",
    dtype: Dtype = "float32",
    why: Annotated[
        str | None, typer.Option(metavar="NODE", help="Say of one node of the graph what it is, and why not another.")
    ] = None,
    blocks: Shown = Blocks.once,
) -> None:
    """The program with its rules, what was recognised where, and how many operations each rule serves."""
    with _plain_errors():
        explainer = convert(*_loaded(model, dtype, text, ids, image), rules=rules)
        console = _wide_console()
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
        listed = explainer.rewritten.print_readable(blocks=blocks.value)
        console.print(f"\n{listed}\n", highlight=False, markup=False, soft_wrap=True)
        _print_sites(console, explainer.sites)
        _print_coverage(console, explainer)
        _print_approximations(console, explainer)


@app.command()
def verify(
    model: Model,
    text: Text = None,
    ids: Ids = None,
    image: Image = None,
    rules: Rules = "pa-lrp",
    dtype: Dtype = "float32",
) -> None:
    """Compare the graph with the model and balance every site; exit code 1 when either fails."""
    from lrp_fx.runtime.verify import verify as verify_books

    with _plain_errors():
        report = verify_books(*_loaded(model, dtype, text, ids, image), rules=rules)
        Console().print(str(report), highlight=False, markup=False, soft_wrap=True)
        if not report.ok:
            raise typer.Exit(1)


@app.command()
def dump(
    model: Model,
    until: Annotated[str, typer.Option(help="The last pass to apply: see `lrp-fx passes`.")] = PIPELINE[-1].name,
    text: Text = None,
    ids: Ids = None,
    image: Image = None,
    rules: Rules = "pa-lrp",
    dtype: Dtype = "float32",
    blocks: Shown = Blocks.all,
) -> None:
    """Print the graph as it is after a pass."""
    with _plain_errors():
        loaded, inputs = _loaded(model, dtype, text, ids, image)
        print(graph_after(loaded, inputs, until, rules=rules, blocks=blocks.value))


@app.command()
def passes() -> None:
    """The passes from a model to a relevance graph, in order."""
    table = Table("pass", "keeps", "purpose", box=None, pad_edge=False)
    for step in PIPELINE:
        table.add_row(step.name + ("*" if step.optional else ""), step.keeps.value, step.purpose)
    console = _wide_console()
    console.print(table)
    console.print("* can be left out: convert(model, without=(NAME, ...))", highlight=False)


@app.command(name="rules")
def list_rules() -> None:
    """The presets of rules."""
    from lrp_fx.runtime.explainer import rulesets

    table = Table("preset", "what it is", box=None, pad_edge=False)
    for name, about in rulesets().items():
        table.add_row(name, about)
    Console().print(table)


@app.command(name="recognisers")
def list_recognisers() -> None:
    """Who is asked what an operation means, in order; the first answer counts."""
    table = Table("recogniser", "gives", "what it recognises", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for recogniser in RECOGNISERS:
        gives = ", ".join(recogniser.kinds) if len(recogniser.kinds) < 4 else "any kind"
        table.add_row(recogniser.name, gives, escape(recogniser.purpose))
    _wide_console().print(table)


def _loaded(name: str, dtype: str, text: str | None, ids: str | None, image: Path | None) -> tuple[Any, dict[str, Any]]:
    """The model and inputs for it: those given, else made-up ones of a plausible shape."""
    model = load_model(name, dtype)
    if text is None and ids is None and image is None:
        return model, trial_inputs(model)
    return model, model_inputs(model, load_tokenizer(name), text=text, ids=ids, image=image)


def _prediction(model: Any, tokenizer: Any, output: Any, position: int | None) -> str:
    """The prediction in words: the class label or the next token at the explained position."""
    logits = getattr(output, "logits", None)
    if logits is None or logits.dim() not in (2, 3):
        return ""
    row = logits[0] if logits.dim() == 2 else logits[0, -1 if position is None else position]
    best = int(row.argmax())
    if logits.dim() == 2:
        name = (getattr(model.config, "id2label", None) or {}).get(best, "")
    else:
        name = (
            ""
            if tokenizer is None
            else repr(tokenizer.convert_ids_to_tokens([best])[0].replace("▁", " ").replace("Ġ", " "))
        )
    probability = float(row.float().softmax(-1)[best])
    return escape(
        f"predicted: {name} (class {best}, probability {probability:.3f})"
        if logits.dim() == 2
        else f"next token: {name} (id {best}, probability {probability:.3f})"
    )


def _wide_console() -> Console:
    """The terminal's width, or enough for the tables where output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def _print_sites(console: Console, sites: list[Site]) -> None:
    """One table per kind; places that differ only in numbers (layers) and share everything else are one row."""
    for kind, members in groupby(sorted(sites, key=lambda s: (s.kind != INPUT, s.kind)), key=lambda s: s.kind):
        rows: dict[tuple[str, ...], list[str]] = {}
        for site in members:
            place = ".".join("*" if part.isdecimal() else part for part in site.module.split("."))
            rows.setdefault((place, site.variant, site.rule, site.source.split(": ")[0]), []).append(site.module)
        table = Table(
            title=f"{kind}",
            title_justify="left",
            title_style="bold",
            box=None,
            pad_edge=False,
            padding=(0, 2, 0, 0),
            header_style="dim",
        )
        for heading in ("where", "how", "rule", "times", "source"):
            table.add_column(heading, overflow="fold", justify="right" if heading == "times" else "left")
        for (place, variant, rule, source), modules in rows.items():
            table.add_row(
                escape(place or ("" if kind == "input" else "model")),
                escape(variant),
                rule,
                str(len(modules)),
                escape(source),
            )
        console.print(table)
        console.print()


def _print_coverage(console: Console, explainer: Explainer) -> None:
    table = Table(
        title="coverage",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    for heading in ("how", "rule", "operations"):
        table.add_column(heading, justify="right" if heading == "operations" else "left")
    for how, rules in explainer.coverage.items():
        for rule, count in sorted(rules.items(), key=lambda kv: -kv[1]):
            table.add_row(how, rule, str(count))
    console.print(table)


def _print_approximations(console: Console, explainer: Explainer, most: int = 5) -> None:
    """The first operations that no rule serves exactly: why, what they came nearest to, and what to do."""
    problems = approximations(explainer.rewritten)
    for problem in problems[:most]:
        console.print(str(problem), highlight=False, markup=False, soft_wrap=True)
    if len(problems) > most:
        console.print(f"  and {len(problems) - most} more", highlight=False)


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
