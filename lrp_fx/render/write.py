"""Write: text into a file, or one sentence that says why not."""

from __future__ import annotations

from pathlib import Path

from lrp_fx.errors import InputError


def write_text(path: str | Path, text: str) -> None:
    """Write text (UTF-8) to a path; raises `InputError` where that cannot be."""
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path} could not be written: {error.strerror or error}\n    next: give a path in a folder that is there "
            "and may be written to"
        ) from None
