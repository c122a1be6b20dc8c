"""The documentation site: what mkdocs is told beside `mkdocs.yml` (its hooks).

Pages are read in the repository too, where they link to files that are no pages (`../rules`, `../CONTRIBUTING.md`). The
site has no such files: there the link's text is enough, as code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Links that lead out of the documentation, as their text."""
    docs = Path(config["docs_dir"]).resolve()
    here = (docs / page.file.src_uri).parent

    def kept(found: re.Match[str]) -> str:
        target = (here / found[2]).resolve()
        inside = target.is_relative_to(docs) and not target.is_dir()
        return found[0] if inside else found[1]

    return _LINK.sub(kept, markdown)
