"""Words: names in targets before a run, and what the numbers of a result are called after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from lrp_fx.errors import warn_user
from lrp_fx.preprocess.reader import Reader
from lrp_fx.report.relevance import Relevance
from lrp_fx.report.vocabulary import Vocabulary
from lrp_fx.targets import Target, named


def named_goals(goals: Sequence[Target], reader: Reader) -> list[Target]:
    """The targets, which know what names stand for."""

    def index(name: str, size: int) -> int:
        return reader.output_index(name, size if size >= 0 else None)

    return [named(goal, index, reader.pieces) for goal in goals]


def with_words(results: Sequence[Relevance], reader: Reader, size: int) -> list[Relevance]:
    """The results of one call with what their ids, and the outputs they explain (of ``size``), are called, where the
    reader knows.
    """
    if not results:
        return []
    first, outputs = results[0], [_numbers(result.target.indices) for result in results]
    texts = [x for n, x in first.inputs.items() if n in first.content and not x.is_floating_point()]
    ids = set[int]().union(*map(_numbers, texts)) if reader.tokenizer is not None else set()
    known = reader.vocabulary(ids, set[int]().union(*outputs), size)
    if not known.tokens and not known.outputs:
        return list(results)
    for result in results:
        _warn_of_mask(result, reader)
    own = [{i: known.outputs[i] for i in sorted(numbers) if i in known.outputs} for numbers in outputs]
    return [
        replace(result, vocabulary=Vocabulary(known.tokens, names)) for result, names in zip(results, own, strict=True)
    ]


def _numbers(values: Tensor | None) -> set[int]:
    return set() if values is None else {int(i) for i in values.flatten().tolist()}


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
