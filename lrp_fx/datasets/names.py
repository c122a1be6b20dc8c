"""Names: what of a tokenizer is needed where no text is read: what ids are called, and what fills up short rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Names:
    """Tokens by id, as the vocabulary writes them, and the ids that are special to it; called like a tokenizer."""

    tokens: tuple[str, ...]
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_type_id: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str | None]:
        """A name for each id, None where there is none."""
        return [self.tokens[i] if 0 <= i < len(self.tokens) else None for i in ids]


def names_of(tokenizer: Any) -> Names | None:
    """Those of a tokenizer; None where there is none, or it does not say."""
    if tokenizer is None or not hasattr(tokenizer, "convert_ids_to_tokens") or not hasattr(tokenizer, "__len__"):
        return None
    found = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    pad, end = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
    return Names(
        tuple(str(i) if token is None else str(token) for i, token in enumerate(found)),
        pad if isinstance(pad, int) else None,
        end if isinstance(end, int) else None,
        int(getattr(tokenizer, "pad_token_type_id", 0) or 0),
    )


def fingerprint(tokenizer: Any) -> str | None:
    """Of all that decides how texts become ids, as far as the tokenizer shows it; None without one."""
    if tokenizer is None:
        return None
    inner: Any = getattr(tokenizer, "backend_tokenizer", None)
    names = names_of(tokenizer)
    known = inner.to_str() if hasattr(inner, "to_str") else json.dumps(names.tokens if names is not None else ())
    return hashlib.sha256(f"{type(tokenizer).__name__}\n{known}".encode()).hexdigest()
