"""Words: names in targets before a run, and what the numbers of a result are called after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lrp_fx.errors import warn_user
from lrp_fx.preprocess.reader import Reader
from lrp_fx.report.relevance import Relevance
from lrp_fx.targets import Target, named


def named_goals(goals: Sequence[Target], reader: Reader) -> list[Target]:
    """The targets, which know what names stand for."""

    def index(name: str, size: int) -> int:
        return reader.output_index(name, size if size >= 0 else None)

    return [named(goal, index, reader.pieces) for goal in goals]


def with_words(result: Relevance, reader: Reader, size: int) -> Relevance:
    """A result with what its ids and the outputs it explains (of ``size``) are called, where the reader knows."""
    texts = [x for n, x in result.inputs.items() if n in result.content and not x.is_floating_point()]
    ids = {int(i) for text in texts for i in text.flatten().tolist()} if reader.tokenizer is not None else set()
    indices = result.target.indices
    outputs = set() if indices is None else {int(i) for i in indices.flatten().tolist()}
    _warn_of_mask(result, reader)
    found = reader.vocabulary(ids, outputs, size)
    return replace(result, vocabulary=found) if found.tokens or found.outputs else result


def _warn_of_mask(result: Relevance, reader: Reader) -> None:
    """Say so where a text has a place to fill in, and another row of the output is explained: the last, by default."""
    mask: Any = getattr(reader.tokenizer, "mask_token_id", None)
    rows = result.target.positions
    if mask is None or rows is None or not reader.forward.tokens:
        return
    for x in [x for n, x in result.inputs.items() if n in result.content and x.dim() == 2 and len(x) == len(rows)]:
        places = [(row == mask).nonzero().flatten().tolist() for row in x]
        missed = [b for b, found in enumerate(places) if found and not set(found) & set(rows[b].tolist())]
        if missed:
            b = missed[0]
            warn_user(
                f"example {b} has {reader.tokenizer.mask_token} at {places[b][0]}, and row {int(rows[b][0])} of the "
                f"output is explained\n    next: say which, for example Predicted(position={places[b][0]}), or a list "
                "with one for each example"
            )
