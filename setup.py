"""What pyproject.toml cannot say: the README as a package index shows it.

There its links lead nowhere unless they are absolute. They are made so where ``[project.urls]`` names the ``Source``,
and else become plain text, with the file that they name.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent


def for_the_index(text: str, source: str | None) -> str:
    """A page with absolute links, or with none to files."""

    def link(found: re.Match[str]) -> str:
        words, file = found[1], found[2]
        return f"[{words}]({source}/blob/main/{file})" if source else f"{words} ({file})"

    named = re.sub(r"\[`([^`\]]+)`\]\(\1\)", r"`\1`", text) if source is None else text  # that say the file already
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)", link, named)


urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
readme = (ROOT / "README.md").read_text(encoding="utf-8")
setup(long_description=for_the_index(readme, urls.get("Source")), long_description_content_type="text/markdown")
