"""Mutations: files damaged at random in every part; each is refused, or explains to the bit as it did.

``python -m benchmarks mutations --mutations 10000``: files of small models of its own, or ``--files`` with the inputs
that are kept beside each (``NAME.pt``: a dictionary of tensors, written by `torch.save`).
"""

from __future__ import annotations

import argparse
import random
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lrp_fx
from benchmarks.page import Command
from testing.architectures import BY_NAME

#: What ends a damaged file: refused with the library's own error, or the same numbers.
REFUSED, SAME = "refused", "the same relevance"
_MARKS = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"manifest.json", b"weights.safetensors", b"SHA256SUMS", b'{"')


@dataclass(frozen=True)
class Subject:
    """A file, the inputs that it is tried with, and what it explains when it is whole (scores and content)."""

    path: Path
    inputs: dict[str, Tensor]
    expected: tuple[Tensor, ...]


def explained(path: Path, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    relevance = lrp_fx.load(path)(**inputs)
    return (relevance.score, relevance.tokens, *relevance.content.values(), *relevance.ledger.sinks.values())


def subject(path: Path, inputs: dict[str, Tensor]) -> Subject:
    return Subject(path, inputs, explained(path, inputs))


# ------------------------------------------------------------------------------------------------ damage
def _place(data: bytes, draw: random.Random) -> int:
    """Anywhere, or near what tells the parts of an archive apart: headers are small, and matter most."""
    if draw.random() < 0.5:
        return draw.randrange(len(data))
    mark = draw.choice(_MARKS)
    found = [i for i in range(len(data)) if data.startswith(mark, i)] if len(data) < 1 << 16 else [data.rfind(mark)]
    return min(max(draw.choice(found or [0]) + draw.randrange(-8, 48), 0), len(data) - 1)


def _flipped(data: bytes, at: int, draw: random.Random) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def _overwritten(data: bytes, at: int, draw: random.Random) -> bytes:
    run = draw.randbytes(draw.choice((1, 2, 4, 8, 64)))
    return data[:at] + run[: len(data) - at] + data[at + len(run) :]


def _filled(data: bytes, at: int, draw: random.Random) -> bytes:
    run = draw.choice((b"\x00", b"\xff")) * draw.choice((1, 2, 4, 8, 512))
    return data[:at] + run[: len(data) - at] + data[at + len(run) :]


def _removed(data: bytes, at: int, draw: random.Random) -> bytes:
    return data[:at] + data[at + draw.choice((1, 2, 16, 512)) :]


def _inserted(data: bytes, at: int, draw: random.Random) -> bytes:
    return data[:at] + draw.randbytes(draw.choice((1, 2, 16, 512))) + data[at:]


def _cut(data: bytes, at: int, draw: random.Random) -> bytes:
    del draw
    return data[:at]


def _repeated(data: bytes, at: int, draw: random.Random) -> bytes:
    return data[: at + draw.choice((1, 16, 512))] + data[at:]


def _swapped(data: bytes, at: int, draw: random.Random) -> bytes:
    size, other = draw.choice((1, 4, 64)), draw.randrange(len(data))
    first, second = sorted((at, other))
    if second + size > len(data) or first + size > second:
        return data
    a, b = data[first : first + size], data[second : second + size]
    return data[:first] + b + data[first + size : second] + a + data[second + size :]


DAMAGES: dict[str, Callable[[bytes, int, random.Random], bytes]] = {
    "a bit flipped": _flipped,
    "bytes overwritten": _overwritten,
    "bytes filled": _filled,
    "bytes removed": _removed,
    "bytes inserted": _inserted,
    "cut short": _cut,
    "bytes repeated": _repeated,
    "bytes swapped": _swapped,
}


# ------------------------------------------------------------------------------------------------ trials
def outcome(damaged: Path, whole: Subject) -> str:
    """`REFUSED`, `SAME`, or what is wrong."""
    try:
        found = explained(damaged, whole.inputs)
    except lrp_fx.InputError:
        return REFUSED
    except Exception as error:  # this is what is looked for
        return f"{type(error).__name__}: {error}"
    same = len(found) == len(whole.expected) and all(map(torch.equal, found, whole.expected))
    return SAME if same else "another number"


def trials(subjects: list[Subject], count: int, seed: int, folder: Path) -> Iterator[tuple[int, str, str]]:
    """Number, kind of damage, and outcome of each mutation; up to three damages in one file."""
    wholes = [s.path.read_bytes() for s in subjects]
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        which = number % len(subjects)
        data, kinds = wholes[which], draw.choices(list(DAMAGES), k=draw.choice((1, 1, 1, 2, 3)))
        for kind in kinds:
            if data:
                data = DAMAGES[kind](data, _place(data, draw), draw)
        damaged = folder / "damaged.lrp"
        damaged.write_bytes(data)
        yield number, " and ".join(kinds), outcome(damaged, subjects[which])


def own_subjects(folder: Path) -> list[Subject]:
    """Files of a small decoder (which has a graph for masks of ones, too) and a small encoder."""
    made = []
    for name in ("llama", "bert"):
        inputs: dict[str, Any] = BY_NAME[name].inputs()
        explain = lrp_fx.convert(BY_NAME[name].build("sdpa"), inputs)
        explain.save(folder / f"{name}.lrp")
        made.append(subject(folder / f"{name}.lrp", inputs))
    return made


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks mutations", description=__doc__)
    parser.add_argument("--files", type=Path, nargs="*", help="files that Explainer.save wrote, with NAME.pt beside")
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = [subject(f, torch.load(f.with_suffix(".pt"))) for f in options.files or ()]
        found: Counter[str] = Counter()
        for number, kind, result in trials(given or own_subjects(folder), options.mutations, options.seed, folder):
            found[result if result in (REFUSED, SAME) else "wrong"] += 1
            if result not in (REFUSED, SAME):
                print(f"mutation {number} ({kind}): {result}", flush=True)
    print(", ".join(f"{count} {what}" for what, count in found.items()))
    return int(bool(found["wrong"]))


BENCHMARK = Command("mutations", "files damaged at random: each is refused, or explains to the bit as it did", main)
