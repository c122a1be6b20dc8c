"""Options that several commands have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Conserve(StrEnum):
    """How closely the books are checked."""

    total = "total"
    site = "site"
    off = "off"


class Blocks(StrEnum):
    """How often equal blocks are printed."""

    once = "once"
    all = "all"


class Dtype(StrEnum):
    """Floating-point types that weights are loaded in."""

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"
    float16 = "float16"


FILES = "Files to write"
TARGETS = "What is explained"

Model = Annotated[str, typer.Argument(help="Folder of a saved model, or a hub name.")]
Rules = Annotated[str, typer.Option(help="Preset of rules: see `lrp-fx rules`.")]
Type = Annotated[Dtype, typer.Option(help="Floating-point type to load in.")]
Text = Annotated[str | None, typer.Option(help="Text to look at; - reads it from standard input.")]
Texts = Annotated[
    list[str] | None, typer.Option(help="Text to explain, may be repeated; - reads standard input, a text a line.")
]
Ids = Annotated[str | None, typer.Option(help="Token ids instead of a text: 1,2,3.")]
Shown = Annotated[Blocks, typer.Option(help="Print the first of each run of equal blocks and a count, or all of them.")]
Image = Annotated[Path | None, typer.Option(help="Array (.npy, used as it is) or picture.")]
Position = Annotated[
    int | None,
    typer.Option(help="Output position to explain (default: the last token).", rich_help_panel=TARGETS),
]
Target = Annotated[
    str | None,
    typer.Option(help="Class (number or label) or token; default: the prediction.", rich_help_panel=TARGETS),
]
Contrast = Annotated[
    tuple[str, str] | None,
    typer.Option(help="Two classes or tokens A B: what speaks for A rather than B.", rich_help_panel=TARGETS),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
Csv = Annotated[
    Path | None, typer.Option(help="Write a table of numbers here; - is standard output.", rich_help_panel=FILES)
]
Png = Annotated[Path | None, typer.Option(help="Draw a figure here (.png, .pdf, .svg).", rich_help_panel=FILES)]
Html = Annotated[Path | None, typer.Option(help="Write a self-contained page here.", rich_help_panel=FILES)]
