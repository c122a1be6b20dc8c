"""The API reference: how docstrings of the package are shown (an extension of griffe, named in `mkdocs.yml`).

Arguments are written as lines ``name: what it is``; the site shows them as a list.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ARGUMENT = re.compile(r"^(\*{0,2}[a-z_]+(?:, [a-z_]+)*): ", re.MULTILINE)
_FIELD = re.compile(r"^(``\w+``)(?=\s)", re.MULTILINE)


class Lists(griffe.Extension):
    """Arguments of functions and fields of classes as list items."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value, fields=obj.is_class)


def listed(text: str, *, fields: bool = False) -> str:
    """The docstring with its lines ``name: ...`` as items, whose further lines are indented as they were."""
    mark = r"\n* **\1**: " if not fields else r"\n* \1: "
    text = _ARGUMENT.sub(mark, text)
    return _FIELD.sub(r"\n* \1", text) if fields else text
