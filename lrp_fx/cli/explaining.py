"""``explain``: predictions on the terminal, as a page, a figure, JSON or a table of numbers."""

from __future__ import annotations

import json as jsons
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lrp_fx.capture.outputs import explained_name, named_leaves
from lrp_fx.cli.checks import STDOUT, Refusal
from lrp_fx.cli.inputs import model_inputs, read_places, read_target
from lrp_fx.cli.records import COLUMNS, as_dict, depths, rows_of, write_table
from lrp_fx.preprocess.open import load_model, load_processor, load_tokenizer
from lrp_fx.preprocess.reader import Reader
from lrp_fx.report.relevance import Relevance
from lrp_fx.report.view import token_names
from lrp_fx.runtime.convert import convert
from lrp_fx.targets import Span


@dataclass(frozen=True)
class Asked:
    """What the command line asks to be explained, and where it is to be written."""

    texts: list[str]
    ids: str | None
    image: Path | None
    decoder_text: str | None
    target: str | None
    contrast: tuple[str, str] | None
    span: str | None
    position: int | None
    depth: bool
    hide: str | None
    json: bool
    html: Path | None
    png: Path | None
    csv: Path | None

    @property
    def quiet(self) -> bool:
        """Does standard output take data, and no pictures?"""
        return self.json or str(self.csv) == STDOUT


def run_explain(name: str, asked: Asked, *, rules: str, conserve: str, dtype: str) -> None:
    """Explain, print and write."""
    left_out = read_places(asked.hide)
    model, tokenizer = load_model(name, dtype), load_tokenizer(name)
    reader = Reader(model, tokenizer, load_processor(name))
    inputs, goal = _question(model, reader, asked)
    explainer = convert(model, tokenizer=tokenizer, processor=reader.processor, rules=rules, conserve=conserve)
    relevance = explainer(**inputs, target=goal)
    wrote = list(_written(relevance, asked, left_out))  # before a reader of standard output may have seen enough
    if not asked.quiet:
        console = Console()
        for line in _predictions(relevance, reader):
            console.print(line, highlight=False, markup=False)
        relevance.show(console=console, hide=left_out)
        if asked.depth:
            _print_depths(console, relevance)
    for path in wrote:
        print(f"wrote {path}", file=sys.stderr if asked.quiet else sys.stdout)
    if asked.json:
        print(jsons.dumps({"model": name, **as_dict(relevance, asked.depth)}, ensure_ascii=False, indent=1))


def _question(model: Any, reader: Reader, asked: Asked) -> tuple[dict[str, Tensor], Any]:
    """The model's arguments and the target."""
    if asked.span is not None:
        return _continued(model, reader, asked.texts, asked.span)
    goal = read_target(model, reader.tokenizer, asked.target, asked.contrast, asked.position)
    inputs = model_inputs(
        model, reader, texts=asked.texts, ids=asked.ids, image=asked.image, decoder_text=asked.decoder_text
    )
    return inputs, goal


def _continued(model: Any, reader: Reader, texts: list[str], span: str) -> tuple[dict[str, Tensor], Span]:
    """One text that goes on with a span, and the span's tokens as what is explained."""
    if len(texts) != 1:
        raise Refusal("--span goes on one --text")
    if getattr(model.config, "is_encoder_decoder", False):
        return reader.inputs(texts[0], decoder_text=span), Span(_some(reader.pieces(span), span), start=0)
    main = reader.forward.main
    begun, whole = (reader.inputs(text)[main][0].tolist() for text in (texts[0], texts[0] + span))
    goes_on = whole[: len(begun)] == begun  # else the two grow together at the seam, and stand side by side
    pieces = _some(whole[len(begun) :] if goes_on else reader.pieces(span), span)
    ids = torch.tensor([[*begun, *pieces]], device=reader.forward.device)
    return {main: ids, "attention_mask": torch.ones_like(ids)}, Span(pieces, tokens_at=len(begun))


def _some(pieces: list[int], span: str) -> list[int]:
    if not pieces:
        raise Refusal(f"--span {span!r} has no token")
    return pieces


def _predictions(relevance: Relevance, reader: Reader) -> Iterator[str]:
    """What the model says to each example: the class, or the next token at the explained position."""
    found = dict(named_leaves(relevance.output))
    name = explained_name(found)
    logits = found[name] if name is not None else None
    if logits is None or logits.dim() not in (2, 3) or logits.shape[-1] < 2:
        return
    for number, target in enumerate(relevance.target):
        row = logits[number] if logits.dim() == 2 else logits[number, (target.positions or (-1,))[-1]]
        best = int(row.argmax())
        probability = float(row.float().softmax(-1)[best])
        known = reader.vocabulary([], [best], len(row)).outputs.get(best)
        which = f"example {number}: " if len(relevance.target) > 1 else ""
        if logits.dim() == 2:
            yield f"{which}predicted: {known or ''} (class {best}, probability {probability:.3f})"
        else:
            word = "" if known is None else repr(token_names([best], {best: known})[0])
            yield f"{which}next token: {word} (id {best}, probability {probability:.3f})"


def _written(relevance: Relevance, asked: Asked, left_out: Any) -> Iterator[Path]:
    """Write the files that are asked for."""
    if asked.html is not None:
        relevance.to_html(asked.html, hide=left_out)
        yield asked.html
    if asked.png is not None:
        relevance.plot(hide=left_out).savefig(asked.png, dpi=150)
        yield asked.png
    if asked.csv is not None:
        write_table(asked.csv, COLUMNS, rows_of(relevance))
        if str(asked.csv) != STDOUT:
            yield asked.csv


def _print_depths(console: Console, relevance: Relevance) -> None:
    """For each text a table: its tokens, and what each has before every block and after the last."""
    for example, name, tokens, values in depths(relevance):
        table = Table(
            title=f"example {example}, {name}", title_justify="left", box=None, pad_edge=False, header_style="dim"
        )
        table.add_column("before block")
        for number in range(len(values)):
            table.add_column("end" if number == len(values) - 1 else str(number), justify="right")
        for place, token in enumerate(tokens):
            table.add_row(token, *(f"{float(v[place]):+.3f}" for v in values))
        console.print(table)
