"""Words: names in targets before a run, and what the numbers of a result are called after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
    found = reader.vocabulary(ids, outputs, size)
    return replace(result, vocabulary=found) if found.tokens or found.outputs else result
