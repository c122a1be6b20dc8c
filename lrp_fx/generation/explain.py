"""Explain: a prompt and what a model writes after it, or is said to write, as a `Generation`.

requires  something that explains targets as an explainer does, and what reads texts for it
ensures   one capture serves every step, and as many steps as fit share one forward pass
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lrp_fx.errors import InputError, holding_warnings, warn_user
from lrp_fx.generation.generation import Generation, Piece
from lrp_fx.generation.steps import Explain, Row, rows_of
from lrp_fx.generation.writing import MEDIA, Writing, begun, following, generated, written
from lrp_fx.preprocess.forward import Forward, forward_of
from lrp_fx.preprocess.kinds import CHAT, is_message, kind_of, listed
from lrp_fx.preprocess.reader import Reader
from lrp_fx.report.vocabulary import Vocabulary
from lrp_fx.report.words import text_of

WHOLE = "all"
_NUMBERS = re.compile(r"[-+]?\d[\d.]*(?:e[-+]?\d+)?")


def generate(
    model: nn.Module, explain: Explain, reader: Reader | None, ruleset: str, prompt: Any, inputs: Mapping[str, Any]
) -> Generation | list[Generation]:
    """What `Explainer.generate` does; ``inputs``: of forward, and options of the model's ``generate``."""
    prompt = listed(prompt)
    if _is_several(prompt):
        made = [generate(model, explain, reader, ruleset, one, inputs) for one in prompt]
        return [g for one in made for g in (one if isinstance(one, list) else [one])]
    given, options = _sorted(inputs)
    start = begun(forward_of(model), reader, prompt, given, getattr(model, "generation_config", None))
    several = generated(model, start, options)
    found = [_generation(explain, reader, ruleset, start, ids) for ids in several]
    return found[0] if len(found) == 1 else found


def continuation(
    forward: Forward,
    explain: Explain,
    reader: Reader | None,
    ruleset: str,
    prompt: Any,
    text: Any,
    *,
    against: Any = None,
    spans: Any = None,
    at_once: int | None = None,
    settings: Any = None,
    inputs: Mapping[str, Any],
) -> Generation | list[Generation]:
    """What `Explainer.continuation` does; ``settings``: the model's ``generation_config``, if it has one."""
    prompt, text, against = listed(prompt), listed(text), listed(against)
    if _is_several(prompt):
        texts, others = _each(text, prompt, "text"), _each(against, prompt, "against")
        found = []
        for one, then, other in zip(prompt, texts, others, strict=True):
            options = {"against": other, "spans": spans, "at_once": at_once, "settings": settings, "inputs": inputs}
            found.append(continuation(forward, explain, reader, ruleset, one, then, **options))
        return found  # type: ignore[return-value]
    start = begun(forward, reader, prompt, inputs, settings)
    ids = following(reader, prompt, start, text)
    other = following(reader, prompt, start, against) if against is not None else None
    return _generation(explain, reader, ruleset, start, ids, other, spans, at_once)


def _is_several(prompt: Any) -> bool:
    """Is it a list of prompts (texts, chats), and not the ids or the messages of one?"""
    if not isinstance(prompt, list) or not prompt:
        return False
    return isinstance(prompt[0], str) or (kind_of(prompt[0]) == CHAT and not is_message(prompt[0]))


def _each(value: Any, prompts: Sequence[Any], name: str) -> Sequence[Any]:
    if value is None:
        return [None] * len(prompts)
    if not isinstance(value, (list, tuple)) or len(value) != len(prompts):
        raise InputError(f"{len(prompts)} prompts: {name}= takes a list with one for each")
    return value


def _sorted(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors, images and sounds are inputs of the model, all else is an option of its ``generate``."""
    tensors = {n: v for n, v in inputs.items() if isinstance(v, torch.Tensor) or n in MEDIA}
    return tensors, {n: v for n, v in inputs.items() if n not in tensors}


def _generation(
    explain: Explain,
    reader: Reader | None,
    ruleset: str,
    start: Writing,
    ids: Sequence[int],
    against: Sequence[int] | None = None,
    spans: Any = None,
    at_once: int | None = None,
) -> Generation:
    count = len(ids)
    if against is not None:
        if spans is not None:
            raise InputError("give against= or spans=: a contrast is made step by step")
        if len(against) != count:
            warn_user(
                f"the continuations have {count} and {len(against)} tokens: the first {min(count, len(against))} steps "
                "are explained, each as the difference of two logits in one place"
            )
        count = min(count, len(against))
    steps = _spans(spans, count)
    with holding_warnings() as held:
        rows, sources = rows_of(explain, start, ids, steps, against, at_once)
    _warn_once(held)
    writing = written(start, ids)
    names = _vocabulary(reader, writing, sources, against or ())
    targets = tuple(
        Piece(writing.name, writing.start + a, writing.start + b, *_named(ids[a:b], names), step=a) for a, b in steps
    )
    other = tuple(text_of([names.tokens.get(i, str(i))]) for i in against[:count]) if against is not None else ()
    return _made(rows, targets, _pieces(writing, sources, names), ruleset, other)


def _warn_once(held: Sequence[tuple[str, type[Warning]]]) -> None:
    """One warning of each kind, however many steps gave one."""
    alike: dict[str, list[tuple[str, type[Warning]]]] = {}
    for message, category in held:
        alike.setdefault(_NUMBERS.sub("#", message), []).append((message, category))
    for (message, category), *others in alike.values():
        several = f"\n    (the first of {len(others) + 1} steps of which this is true)" if others else ""
        warn_user(message + several, category)


def _made(
    rows: Sequence[Row], targets: tuple[Piece, ...], sources: tuple[Piece, ...], ruleset: str, against: tuple[str, ...]
) -> Generation:
    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    names = dict.fromkeys(n for row in rows for n in row.rest)
    return Generation(
        targets,
        sources,
        torch.stack([row.content for row in rows]).cpu(),
        torch.stack([row.position for row in rows]).cpu(),
        column([row.score for row in rows]),
        column([row.probability for row in rows]),
        column([row.entropy for row in rows]),
        {n: column([row.rest.get(n, 0.0) for row in rows]) for n in names},
        tuple(row.ledger for row in rows),
        ruleset,
        against,
    )


def _spans(spans: Any, count: int) -> list[tuple[int, int]]:
    """(first step, after the last) of each row; raises `InputError` for spans that are none of these steps."""
    if spans is None:
        return [(k, k + 1) for k in range(count)]
    if isinstance(spans, str) and spans == WHOLE:
        return [(0, count)]
    if isinstance(spans, tuple) and spans and all(isinstance(place, int) for place in spans):
        spans = [spans]
    found = []
    for span in spans if isinstance(spans, (list, tuple)) else [spans]:
        pair = (span.start or 0, count if span.stop is None else span.stop) if isinstance(span, slice) else span
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not 0 <= pair[0] < pair[1] <= count:
            raise InputError(
                f'spans= takes "{WHOLE}" or a list of (first step, after the last) within 0..{count}; got {span!r}'
            )
        found.append((int(pair[0]), int(pair[1])))
    if not found:
        raise InputError("spans= is empty: nothing is to be explained")
    return found


def _vocabulary(
    reader: Reader | None, writing: Writing, sources: Mapping[str, tuple[int, ...]], others: Sequence[int]
) -> Vocabulary:
    """What every id that occurs is called; empty where nobody knows."""
    if reader is None or reader.tokenizer is None:
        return Vocabulary()
    ids = {int(i) for name, shape in sources.items() if shape for i in writing.inputs[name][0].tolist()}
    return reader.vocabulary(ids | set(others), [])


def _named(ids: Sequence[int], names: Vocabulary) -> tuple[tuple[int, ...], tuple[str, ...]]:
    return tuple(ids), tuple(names.tokens.get(i, str(i)) for i in ids) if names.tokens else ()


def _pieces(writing: Writing, sources: Mapping[str, tuple[int, ...]], names: Vocabulary) -> tuple[Piece, ...]:
    """The columns, in the order of the sources."""
    found: list[Piece] = []
    for name, shape in sources.items():
        if not shape:
            found.append(Piece(name, 0, 1))
            continue
        for place, number in enumerate(writing.inputs[name][0].tolist()):
            step = place - writing.start if name == writing.name and place >= writing.start else None
            found.append(Piece(name, place, place + 1, *_named([number], names), step=step))
    return tuple(found)
