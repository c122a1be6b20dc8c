"""The command line: explain, generate, evaluate, run, inspect, verify, dump, size, rules, passes, recognisers.

Only what the help needs is imported here; each command imports the rest when it runs.
"""

from __future__ import annotations

import contextlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from lrp_fx import __version__
from lrp_fx.cli.checks import (
    Refusal,
    check_figure,
    check_one_data,
    check_readable,
    check_transformers,
    check_writable,
    one_of,
    texts_of,
    whole_text,
)
from lrp_fx.cli.options import (
    TARGETS,
    Blocks,
    Conserve,
    Contrast,
    Csv,
    Dtype,
    Html,
    Ids,
    Image,
    Json,
    Model,
    Png,
    Position,
    Rules,
    Shown,
    Target,
    Text,
    Texts,
    Type,
)
from lrp_fx.cli.plain import plain_errors
from lrp_fx.cli.running import run

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Relevance propagation for transformers whose books close.",
)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    found = [f"lrp-fx {__version__}"]
    for package in ("torch", "transformers"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    typer.echo(", ".join(found))
    raise typer.Exit


@app.callback()
def _options(
    shown: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print versions and stop.")
    ] = False,
) -> None:
    pass


@app.command()
def explain(
    model: Model,
    text: Texts = None,
    ids: Ids = None,
    image: Image = None,
    decoder_text: Annotated[str | None, typer.Option(help="What an encoder-decoder has written so far.")] = None,
    rules: Rules = "pa-lrp",
    target: Target = None,
    contrast: Contrast = None,
    span: Annotated[
        str | None,
        typer.Option(help="What the model writes next: explain all of its tokens together.", rich_help_panel=TARGETS),
    ] = None,
    position: Position = None,
    conserve: Annotated[
        Conserve, typer.Option(help="Check the whole ledger, every site too, or nothing.")
    ] = Conserve.total,
    dtype: Type = Dtype.float32,
    depth: Annotated[
        bool, typer.Option("--depth", help="Relevance of each token before every block, as well.")
    ] = False,
    hide: Annotated[
        str | None,
        typer.Option(help="Tokens to leave out of the scale of colours: `largest`, or places such as 0,-1."),
    ] = None,
    json: Json = False,
    html: Html = None,
    png: Png = None,
    csv: Csv = None,
) -> None:
    """Explain predictions: heatmaps with content and position parts, and the ledger."""
    with plain_errors():
        check_writable(html, "--html")
        check_figure(png)
        check_writable(csv, "--csv")
        check_readable(image, "--image")
        one_of(target=target, contrast=contrast, span=span)
        one_of(text=text, ids=ids, image=image)
        if not (text or ids or image):
            raise Refusal("nothing to explain: give --text, --ids or --image")
        check_one_data(json, csv)
        check_transformers()
        texts = texts_of(text)
        from lrp_fx.cli.explaining import Asked, run_explain

        asked = Asked(
            texts, ids, image, decoder_text, target, contrast, span, position, depth, hide, json, html, png, csv
        )
        run_explain(model, asked, rules=rules, conserve=conserve.value, dtype=dtype.value)


@app.command()
def generate(
    model: Model,
    text: Annotated[str, typer.Option(help="The beginning; - reads it from standard input.")],
    then: Annotated[
        str | None, typer.Option(help="Explain this continuation, instead of what the model writes.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="What speaks for --then rather than for this, step by step.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="How much the model writes [default: 10].")] = None,
    words: Annotated[bool, typer.Option("--words", help="By words instead of tokens.")] = False,
    hops: Annotated[
        int | None, typer.Option(min=1, help="Hand relevance of written tokens on to what these were written from.")
    ] = None,
    rules: Rules = "pa-lrp",
    dtype: Type = Dtype.float32,
    json: Json = False,
    html: Html = None,
    png: Png = None,
    csv: Csv = None,
) -> None:
    """Explain what a model writes, token by token."""
    with plain_errors():
        check_writable(html, "--html")
        check_figure(png)
        check_writable(csv, "--csv")
        one_of(then=then, max_new_tokens=max_new_tokens)
        if against is not None and then is None:
            raise Refusal("--against goes with --then")
        if [text, then, against].count("-") > 1:
            raise Refusal("standard input is one text")
        check_one_data(json, csv)
        check_transformers()
        from lrp_fx.cli.generating import Wanted, run_generate

        first, second, other = whole_text(text), whole_text(then), whole_text(against)
        wanted = Wanted(first or "", second, other, max_new_tokens or 10, words, hops, json, html, png, csv)
        run_generate(model, wanted, rules=rules, dtype=dtype.value)


@app.command()
def evaluate(
    model: Model,
    data: Annotated[
        Path,
        typer.Argument(
            help="Texts or images: .jsonl (text or image, and target), or a text a line; - is standard input."
        ),
    ],
    metrics: Annotated[
        str, typer.Option(help="Names with commas: abpc, auac, comprehensiveness, sufficiency, loo, ... ")
    ] = "abpc,auac,comprehensiveness,sufficiency",
    fill: Annotated[
        str, typer.Option(help="In the place of a token: mask, unk, pad, drop, a token, or an id; auto: the first.")
    ] = "auto",
    against: Annotated[list[str] | None, typer.Option(help="Preset to compare with, may be repeated.")] = None,
    target: Target = None,
    count: Annotated[int | None, typer.Option(min=1, help="The first texts only.")] = None,
    rules: Rules = "pa-lrp",
    dtype: Type = Dtype.float32,
    seed: Annotated[int, typer.Option(help="Of the random order.")] = 0,
    json: Json = False,
    csv: Csv = None,
) -> None:
    """Measure how well explanations fit the model, beside other rules, a random order and the place alone."""
    with plain_errors():
        check_readable(data, "DATA")
        check_writable(csv, "--csv")
        check_one_data(json, csv)
        check_transformers()
        from lrp_fx.cli.evaluating import Measured, run_evaluate

        asked = Measured(metrics, fill, tuple(against or ()), target, count, seed, json, csv)
        run_evaluate(model, data, asked, rules=rules, dtype=dtype.value)


app.command()(run)


@app.command(name="inspect")
def inspect_model(
    model: Model,
    text: Text = None,
    ids: Ids = None,
    image: Image = None,
    rules: Rules = "pa-lrp",
    dtype: Type = Dtype.float32,
    why: Annotated[
        str | None, typer.Option(metavar="NODE", help="Say of one node of the graph what it is, and why not another.")
    ] = None,
    blocks: Shown = Blocks.once,
) -> None:
    """The program with its rules, what was recognised where, and how many operations each rule serves."""
    with plain_errors():
        text = _looked_at(text, ids, image)
        from lrp_fx.cli.inspecting import run_inspect

        run_inspect(model, text, ids, image, rules=rules, dtype=dtype.value, why=why, blocks=blocks.value)


@app.command()
def verify(
    model: Model,
    text: Text = None,
    ids: Ids = None,
    image: Image = None,
    rules: Rules = "pa-lrp",
    dtype: Type = Dtype.float32,
    json: Json = False,
) -> None:
    """Compare the graph with the model and balance every site; exit code 1 when either fails."""
    with plain_errors():
        text = _looked_at(text, ids, image)
        from lrp_fx.cli.inspecting import run_verify

        if not run_verify(model, text, ids, image, rules=rules, dtype=dtype.value, json=json):
            raise typer.Exit(1)


@app.command()
def dump(
    model: Model,
    until: Annotated[str | None, typer.Option(help="The last pass to apply: see `lrp-fx passes`.")] = None,
    text: Text = None,
    ids: Ids = None,
    image: Image = None,
    rules: Rules = "pa-lrp",
    dtype: Type = Dtype.float32,
    blocks: Shown = Blocks.all,
) -> None:
    """Print the graph as it is after a pass (by default the last)."""
    with plain_errors():
        text = _looked_at(text, ids, image)
        from lrp_fx.cli.inspecting import run_dump

        run_dump(model, text, ids, image, rules=rules, dtype=dtype.value, until=until, blocks=blocks.value)


@app.command()
def size(
    model: Model,
    tokens: Annotated[int, typer.Option(min=1, help="Length of the text, where the model reads one.")] = 512,
    batch: Annotated[int, typer.Option(min=1, help="How many examples at once.")] = 1,
    checkpoint: Annotated[
        bool, typer.Option("--checkpoint", help="As convert(checkpoint=True): blocks are computed again, not kept.")
    ] = False,
    rules: Rules = "pa-lrp",
    dtype: Type = Dtype.float32,
    json: Json = False,
) -> None:
    """What an explanation needs of memory, told without the weights and without running it."""
    with plain_errors():
        check_transformers()
        from lrp_fx.cli.inspecting import run_size

        run_size(model, tokens, batch, checkpoint=checkpoint, rules=rules, dtype=dtype.value, json=json)


@app.command()
def passes() -> None:
    """The passes from a model to a relevance graph, in order."""
    from lrp_fx.cli.listing import print_passes

    print_passes()


@app.command(name="rules")
def list_rules() -> None:
    """The presets of rules."""
    from lrp_fx.cli.listing import print_rules

    print_rules()


@app.command(name="recognisers")
def list_recognisers() -> None:
    """Who is asked what an operation means, in order; the first answer counts."""
    from lrp_fx.cli.listing import print_recognisers

    print_recognisers()


def _looked_at(text: str | None, ids: str | None, image: Path | None) -> str | None:
    """The text given, after what can be refused at once was refused."""
    check_readable(image, "--image")
    one_of(text=text, ids=ids, image=image)
    check_transformers()
    return whole_text(text)
