"""What is measured of a model of the rack, each in a process of its own: ``measure(what, name, ...)``."""

from __future__ import annotations

import copy
import dataclasses
import os
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lrp_fx
from benchmarks.real.rack import build
from benchmarks.real.subject import Inputs, Subject
from benchmarks.turns import by_turns

#: Rounds of turns by the number of tokens: long texts take minutes each.
ROUNDS = {16: 5, 128: 3, 512: 3, 2048: 1}


def measure(what: str, name: str, *arguments: str) -> Any:
    """`sense`, `costs` (tokens), `memory` (of whom, tokens) or `books` of a model."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    subject = build(name)
    kinds: dict[str, Callable[..., Any]] = {"sense": sense, "costs": costs, "memory": memory, "books": books}
    return kinds[what](subject, *arguments)


def sense(subject: Subject) -> dict[str, Any]:
    """Are its outputs sensible, and how many numbers are its weights?"""
    numbers = sum(p.numel() for p in subject.model.parameters())
    return {**dataclasses.asdict(subject.sense()), "parameters": numbers}


# ------------------------------------------------------------------------------------------------ costs
def _example(subject: Subject, tokens: str) -> Inputs:
    return subject.of_length(int(tokens))


def costs(subject: Subject, tokens: str) -> list[float]:
    """CPU seconds: of gradient x input, of the first call, and the median ratio of later calls to gradient x input."""
    inputs = _example(subject, tokens)
    target = subject.target(inputs)
    explain = lrp_fx.convert(subject.model, **subject.options)
    start = time.process_time()
    explain(**inputs, target=target)
    first = time.process_time() - start
    rounds = ROUNDS.get(int(tokens), 3)
    seconds, ratio = by_turns(
        lambda: subject.gradient(inputs),
        lambda: explain(**inputs, target=target),
        rounds,
        before=int(rounds > 1),
    )
    return [seconds, first, ratio]


def memory(subject: Subject, whom: str, tokens: str) -> list[float]:
    """MiB that the process takes at most beyond the loaded model: in the first call, and in the second."""
    inputs = _example(subject, tokens)
    target = subject.target(inputs)
    held = _now()
    explain = lrp_fx.convert(subject.model, **subject.options)
    run = (lambda: subject.gradient(inputs)) if whom == "gradient" else (lambda: explain(**inputs, target=target))
    return [_peak(run) - held, _peak(run) - held]


def _now() -> float:
    """MiB that the process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _peak(run: Any) -> float:
    """MiB that the process has at most during a call."""
    Path("/proc/self/clear_refs").write_text("5")
    run()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


# ------------------------------------------------------------------------------------------------ books
def books(subject: Subject) -> dict[str, Any]:
    """Every preset: five examples alone, four of them as a batch, in half precision, with blocks computed again, and a
    file. All in one process, which captures the model once.
    """
    answers = [subject.answers(e) for e in subject.examples]
    half = _in_half(subject)
    found: dict[str, Any] = {}
    for preset in lrp_fx.rulesets():
        try:
            found[preset] = _under(subject, half, answers, preset)
        except (lrp_fx.LrpError, RuntimeError) as error:  # said on the page; other presets go on
            found[preset] = {"failed": str(error).strip()[:300]}
    return found


def _under(subject: Subject, half: Subject, answers: list[list[int]], preset: str) -> dict[str, Any]:
    """All that is looked at under one preset."""

    def convert(of: Subject, **options: Any) -> lrp_fx.Explainer:
        return lrp_fx.convert(of.model, rules=preset, dynamic=True, **of.options, **options)

    def alone(explainer: Any, of: Subject) -> list[lrp_fx.Relevance]:
        return [explainer(**e, target=of.target(e, a)) for e, a in zip(of.examples, answers, strict=True)]

    explainer = convert(subject)
    told = alone(explainer, subject)
    rows = [_picture(subject, r, 0) for r in told]
    batch = subject.batch(subject.examples[:4])
    target = subject.target(batch, [a for (a,) in answers[:4]])
    narrow = alone(convert(half, conserve="off"), half)
    return {
        **_shares(subject, told),
        "padded": _padded(subject, explainer(**batch, target=target), batch, rows),
        "saved": _saved(explainer, batch, target),
        "checkpoint": _off(rows, alone(convert(subject, checkpoint=True), subject), subject),
        "half_error": max(float(r.ledger.error[0]) for r in narrow),
        "half": _off(rows, narrow, subject),
    }


def _shares(subject: Subject, told: list[lrp_fx.Relevance]) -> dict[str, Any]:
    """Each example's shares of the score; what its tokens got, and how far they cancel."""
    found: dict[str, Any] = {
        "shares": [{n: float(v[0]) for n, v in r.ledger.shares().items()} for r in told],
        "error": max(float(r.ledger.error[0]) for r in told),
        "cancellation": statistics.median(float(r.ledger.cancellation[0]) for r in told),
    }
    if subject.ids:
        rows = [_tokens(r)[0] for r in told]
        found["first"] = [float(row[0] / row.abs().sum()) for row in rows]
        found["token_cancellation"] = [float(r.ledger.token_cancellation[0]) for r in told]
        largest = [r.ledger.largest_tokens[0] for r in told]
        found["against"] = sum(most is not None and most.against for most in largest)
        found["words"], found["got"] = subject.words(subject.examples[0]), rows[0].tolist()
    return found


def _tokens(relevance: lrp_fx.Relevance) -> Tensor:
    """(B, T): content and signed position of the one input of tokens."""
    tokens = relevance.tokens
    assert isinstance(tokens, Tensor)
    return tokens.double()


def _picture(subject: Subject, relevance: lrp_fx.Relevance, row: int, kept: int | None = None) -> Tensor:
    """All that inputs of one example got, in one row: tokens that are no padding, and floating inputs."""
    parts = [_tokens(relevance)[row, :kept]] if subject.ids else []
    return torch.cat(
        [*parts, *(R[row].double().flatten() for n, R in sorted(relevance.content.items()) if n != subject.ids)]
    )


def _off(rows: list[Tensor], others: list[lrp_fx.Relevance], subject: Subject) -> float:
    """How far other pictures are from these, at most, relative to their size."""
    return max(
        float((_picture(subject, other, 0) - row).norm() / row.norm()) for row, other in zip(rows, others, strict=True)
    )


def _padded(subject: Subject, relevance: lrp_fx.Relevance, batch: Inputs, rows: list[Tensor]) -> float:
    """How far pictures in a batch are from those alone; infinite where padding got something."""
    kept = subject.kept(batch).tolist() if subject.ids else [None] * len(relevance)
    off = [
        float((_picture(subject, relevance, i, n) - row).norm() / row.norm())
        for i, (n, row) in enumerate(zip(kept, rows, strict=False))
    ]
    if subject.ids:
        tokens = _tokens(relevance)
        off += [float("inf") for i, n in enumerate(kept) if bool(tokens[i, n:].any())]
    return max(off)


def _saved(explainer: lrp_fx.Explainer, batch: Inputs, target: Any) -> bool:
    """Does a file explain to the bit what the explainer does?"""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        explainer.save(Path(folder) / "graph.lrp")
        loaded = lrp_fx.load(Path(folder) / "graph.lrp")
        ours, theirs = (e(**batch, target=target) for e in (explainer, loaded))
    same = [torch.equal(R, theirs.content[n]) for n, R in ours.content.items()]
    sites = zip(ours.position, theirs.position, strict=True)
    same += [torch.equal(R, b.parts[n]) for a, b in sites for n, R in a.parts.items()]
    return all(same) and torch.equal(ours.score, theirs.score)


def _in_half(subject: Subject) -> Subject:
    """The same in bfloat16; what is explained of it are the answers of the model in float32."""
    model = copy.deepcopy(subject.model).to(torch.bfloat16)
    examples = [{n: _half(v) for n, v in e.items()} for e in subject.examples]
    vector = None if subject.vector is None else _half(subject.vector)
    return dataclasses.replace(subject, model=model, examples=examples, vector=vector)


def _half(value: Tensor) -> Tensor:
    return value.to(torch.bfloat16) if value.is_floating_point() else value
