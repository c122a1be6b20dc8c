"""Threads: one explainer called by several at once, some of them in a mode of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from benchmarks.load.model import answer, explainer, same

#: Modes that hold for the thread that enters them. (Those of the others are the default.)
MODES: dict[int, Callable[[], Any]] = {
    1: torch.inference_mode,
    3: lambda: torch.autocast("cpu", torch.bfloat16),
    5: torch.no_grad,
    6: lambda: torch.device("cpu"),
}


def _answers(explain: Any, thread: int, calls: int) -> list[Any]:
    with MODES.get(thread, contextlib.nullcontext)():
        return [answer(explain, 10_000 * (thread % 4) + n) for n in range(calls)]


def compare(threads: int, calls: int) -> tuple[int, int]:
    """How many calls were made by all threads, and how many of them differ from those made one after the other."""
    alone = explainer()
    expected = [_answers(alone, thread, calls) for thread in range(threads)]
    shared = explainer()  # that has seen nothing yet
    with ThreadPoolExecutor(threads) as pool:
        got = list(pool.map(lambda thread: _answers(shared, thread, calls), range(threads)))
    pairs = [(a, b) for x, y in zip(expected, got, strict=True) for a, b in zip(x, y, strict=True)]
    return len(pairs), sum(not same(a, b) for a, b in pairs)
