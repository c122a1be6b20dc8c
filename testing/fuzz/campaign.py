"""A run over many seeds: which laws each program is asked, what is broken, and the smallest program that shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from testing.fuzz.draw import at, shrunk
from testing.fuzz.laws import broken
from testing.fuzz.program import Program

#: Asked of every program, and asked of one program in so many (their captures or compilations take longer).
ALWAYS = ("gradient",)
EVERY = {"books": 3, "examples": 5, "spellings": 8, "runs": 15, "captures": 25}
BY_HAND = {"compiled": 200}


@dataclass(frozen=True)
class Fault:
    """A program that breaks a law, and the smallest found that breaks it too, with what is wrong with that one."""

    seed: int
    law: str
    program: Program
    wrong: str

    def __str__(self) -> str:
        return f"seed {self.seed} breaks the law of {self.law}: {self.wrong}\n\n{self.program}"


def laws_of(seed: int, *, by_hand: bool = False) -> tuple[str, ...]:
    """Which laws the program of a seed is asked; all are, by some."""
    spread = EVERY | BY_HAND if by_hand else EVERY
    return (*ALWAYS, *(law for number, (law, period) in enumerate(spread.items()) if seed % period == number % period))


def faults(
    seeds: Iterable[int], asked: tuple[str, ...] = (), *, by_hand: bool = False, whole: bool = False
) -> Iterator[list[Fault]]:
    """What is wrong with the program of each seed in turn, shrunk."""
    for seed in seeds:
        program = at(seed, whole=whole)
        found = broken(program, asked or laws_of(seed, by_hand=by_hand))
        yield [_smallest(seed, program, law) for law in found]


def _smallest(seed: int, program: Program, law: str) -> Fault:
    small = shrunk(program, lambda smaller: bool(broken(smaller, [law])))
    return Fault(seed, law, small, broken(small, [law]).get(law, ""))


def operations_of(seeds: Iterable[int]) -> Counter[str]:
    """How often each operation occurs in the programs of these seeds."""
    return Counter(step.operation for seed in seeds for step in at(seed).steps)
