"""Small tasks whose truth is known, for tokens and for position: what they are, and sequences of them.

A sequence is ``[BOS] c_1 ... c_n [END]``; the answer is read at the last token. In two tasks only the number of certain
tokens counts, in the others it matters where they stand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PAD, BOS, END, MARK, A, B = range(6)
#: Tokens that say nothing in most tasks, and are the answers in others.
VALUES = range(6, 16)
VOCABULARY = VALUES.stop
LENGTHS = (8, 16)


@dataclass(frozen=True)
class Task:
    """``draw``: number of content tokens, generator -> (tokens, which of them cause the label, label).

    ``positional``: does the answer depend on where tokens stand? ``architecture``: what learns it, in ``steps`` of
    ``batch`` sequences, of each of the ``lengths`` in turn (long ones are not learned at once by all).
    """

    name: str
    about: str
    classes: int
    positional: bool
    architecture: str
    draw: Callable[[int, torch.Generator], tuple[list[int], list[int], int]]
    steps: int = 4000
    batch: int = 64
    lengths: tuple[tuple[int, int], ...] = (LENGTHS,)


def _fillers(n: int, g: torch.Generator) -> list[int]:
    return (torch.randint(len(VALUES), (n,), generator=g) + VALUES.start).tolist()  # type: ignore[no-any-return]


def _places(n: int, k: int, g: torch.Generator) -> list[int]:
    return torch.randperm(n, generator=g)[:k].tolist()  # type: ignore[no-any-return]


def _number(low: int, high: int, g: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=g))


def _count(n: int, g: torch.Generator) -> tuple[list[int], list[int], int]:
    tokens, k = _fillers(n, g), _number(1, 5, g)
    where = _places(n, k, g)
    for i in where:
        tokens[i] = A
    return tokens, where, k - 1


def _majority(n: int, g: torch.Generator) -> tuple[list[int], list[int], int]:
    tokens, k = _fillers(n, g), _number(1, 3, g) * 2 + 1
    where, of_a = _places(n, k, g), _number(0, k, g)
    for number, i in enumerate(where):
        tokens[i] = A if number < of_a else B
    return tokens, where, int(2 * of_a > k)


def _first(n: int, g: torch.Generator) -> tuple[list[int], list[int], int]:
    tokens, (a, b) = _fillers(n, g), _places(n, 2, g)
    tokens[a], tokens[b] = A, B
    return tokens, [a, b], int(a < b)


def _neighbour(n: int, g: torch.Generator) -> tuple[list[int], list[int], int]:
    tokens, i = _fillers(n, g), _number(0, n - 2, g)
    tokens[i] = MARK
    return tokens, [i, i + 1], tokens[i + 1] - VALUES.start


def _induction(n: int, g: torch.Generator) -> tuple[list[int], list[int], int]:
    """The last token stands once before, and not in front of itself."""
    tokens, i = _fillers(n, g), _number(0, n - 3, g)
    asked = tokens[i]
    others = [v for v in VALUES if v != asked]
    tokens = [others[int(torch.randint(len(others), (1,), generator=g))] if t == asked else t for t in tokens]
    tokens[i] = tokens[n - 1] = asked
    return tokens, [i, i + 1, n - 1], tokens[i + 1] - VALUES.start


def _depth(n: int, g: torch.Generator) -> tuple[list[int], list[int], int]:
    """Brackets A and B, of which ``depth`` are open where MARK stands. Those behind it are drawn, and say nothing."""
    depth, behind = _number(0, 3, g), _number(0, 2, g)
    closed = _number(int(depth == 0), (5 - depth) // 2, g)
    tokens, where = _fillers(n, g), sorted(_places(n, 2 * closed + depth + 1 + behind, g))
    before, mark = where[: 2 * closed + depth], where[2 * closed + depth]
    opened, open_now = 0, 0
    for i in before:
        if opened < closed + depth and (open_now in (0, opened - closed) or _number(0, 1, g)):
            tokens[i], opened, open_now = A, opened + 1, open_now + 1
        else:
            tokens[i], open_now = B, open_now - 1
    for i in where[len(before) + 1 :]:
        tokens[i] = (A, B)[_number(0, 1, g)]
    tokens[mark] = MARK
    return tokens, [*before, mark], depth


TASKS = {
    t.name: t
    for t in (
        Task("count", "how many A are there?", 5, False, "gpt2", _count),
        Task("majority", "are there more A than B?", 2, False, "llama", _majority),
        Task("first", "does A come before B?", 2, True, "gpt2", _first),
        Task("neighbour", "which value stands behind MARK?", len(VALUES), True, "llama", _neighbour),
        Task(
            "induction",
            "what stood behind the last token before?",
            len(VALUES),
            True,
            "llama",
            _induction,
            steps=9000,
            batch=128,
            lengths=((4, 5), (4, 8), (4, 12), (6, 16), LENGTHS, LENGTHS),
        ),
        Task("depth", "how many brackets A ... B are open at MARK?", 4, True, "gpt2", _depth),
    )
}


def sequences(task: Task, count: int, seed: int, lengths: tuple[int, int] = LENGTHS) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` (N, T), ``labels`` (N,), and ``gt_full`` (N, T): the tokens that matter.

    lengths: of what stands between the first token and the last, at least and at most.
    """
    g = torch.Generator().manual_seed(seed)
    width = lengths[1] + 2
    ids, causal = torch.full((count, width), PAD), torch.zeros(count, width, dtype=torch.bool)
    labels = torch.zeros(count, dtype=torch.int64)
    for row in range(count):
        tokens, where, labels[row] = task.draw(_number(*lengths, g), g)
        ids[row, : len(tokens) + 2] = torch.tensor([BOS, *tokens, END])
        causal[row, torch.tensor(where) + 1] = True
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels, "gt_full": causal}
