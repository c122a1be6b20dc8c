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


Model = Annotated[str, typer.Argument(help="Folder of a saved model, or a hub name.")]
Rules = Annotated[str, typer.Option(help="Preset of rules: see `lrp-fx rules`.")]
Dtype = Annotated[str, typer.Option(help="Floating-point type to load in.")]
Text = Annotated[str | None, typer.Option(help="Text to explain.")]
Ids = Annotated[str | None, typer.Option(help="Token ids instead of a text: 1,2,3.")]
Shown = Annotated[Blocks, typer.Option(help="Print the first of each run of equal blocks and a count, or all of them.")]
Image = Annotated[Path | None, typer.Option(help="Array (.npy, used as it is) or picture to explain.")]
