"""Checks: what can be refused before anything is loaded. Files that cannot be read or written, packages that are not
there, options that do not go together.

Nothing here needs torch. A refusal is a `Refusal`, which the command line prints in one line.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

_FIGURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")
STDIN = STDOUT = "-"


class Refusal(Exception):
    """What was asked for cannot be done; the text says why."""


def check_writable(path: Path | None, option: str, suffixes: tuple[str, ...] = ()) -> None:
    """Raise `Refusal` for a path that cannot be written, before hours of work are lost."""
    if path is None or str(path) == STDOUT:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise Refusal(f"{option} {path}: the name has to end in one of {', '.join(suffixes)}")
    if path.is_dir():
        raise Refusal(f"{option} {path}: that is a folder")
    if not path.parent.is_dir():
        raise Refusal(f"{option} {path}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise Refusal(f"{option} {path}: it cannot be written")


def check_figure(path: Path | None, option: str = "--png") -> None:
    """The same for a figure, which takes matplotlib, too."""
    if path is None:
        return
    if str(path) == STDOUT:
        raise Refusal(f"{option} takes the name of a file")
    check_writable(path, option, _FIGURES)
    if importlib.util.find_spec("matplotlib") is None:
        raise Refusal(f'{option} draws with matplotlib: pip install "lrp-fx[plot]"')


def check_one_data(json: bool, csv: Path | None) -> None:
    """Raise `Refusal` where two kinds of data would be printed into each other."""
    if json and csv is not None and str(csv) == STDOUT:
        raise Refusal("--json and --csv - both take standard output")


def check_readable(path: Path | None, option: str) -> None:
    """Raise `Refusal` for a file that is not there or cannot be read."""
    if path is None or str(path) == STDIN:
        return
    if not path.is_file():
        raise Refusal(f"{option} {path}: there is no file {path}")
    if not os.access(path, os.R_OK):
        raise Refusal(f"{option} {path}: it cannot be read")


def check_transformers() -> None:
    """Raise `Refusal` where models cannot be loaded."""
    if importlib.util.find_spec("transformers") is None:
        raise Refusal('models are loaded with transformers: pip install "lrp-fx[hf]"')


def one_of(**given: object) -> None:
    """Raise `Refusal` where two of these options are given."""
    found = [f"--{name.replace('_', '-')}" for name, value in given.items() if value not in (None, [], ())]
    if len(found) > 1:
        raise Refusal(f"give {' or '.join(found)}, not both")


def texts_of(given: list[str] | None) -> list[str]:
    """The texts given, those of standard input in the place of ``-``: one a line, empty lines left out."""
    found: list[str] = []
    for text in given or []:
        if text != STDIN:
            found.append(text)
            continue
        if sys.stdin.isatty():
            print("reading texts from standard input, one a line; end with Ctrl-D", file=sys.stderr)
        found += [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if given and not found:
        raise Refusal("standard input holds no text")
    return found


def whole_text(given: str | None) -> str | None:
    """A text as it is given, or all of standard input in the place of ``-``."""
    if given != STDIN:
        return given
    text = sys.stdin.read().strip("\n")
    if not text:
        raise Refusal("standard input holds no text")
    return text
