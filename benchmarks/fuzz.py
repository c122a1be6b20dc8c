"""Do random programs keep the laws? Each that does not is printed, shrunk.

    python -m benchmarks fuzz --programs 5000 [--first SEED] [--laws gradient books ...]

Programs of 3 to 12 operations are drawn by their seeds from ``testing/fuzz/families``; ``testing/fuzz/laws.py``
holds the laws. The same seeds give the same programs.
"""

from __future__ import annotations

import argparse
from collections import Counter

from benchmarks.page import Command


def main(arguments: list[str] | None = None) -> int:
    from testing.fuzz.campaign import faults
    from testing.fuzz.laws import LAWS
    from testing.fuzz.operations import OPERATIONS

    parser = argparse.ArgumentParser(prog="python -m benchmarks fuzz", description=BENCHMARK.purpose)
    parser.add_argument("--programs", type=int, default=150, help="how many")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="seed of the first")
    parser.add_argument("--laws", nargs="+", choices=sorted(LAWS), default=[], help="ask these of every program")
    parser.add_argument("--all", action="store_true", help="draw the operations that are known to be faulty, too")
    options = parser.parse_args(arguments)
    seeds = range(options.first, options.first + options.programs)
    print(f"{len(seeds)} programs of {len(OPERATIONS)} operations", flush=True)
    kinds: Counter[tuple[str, tuple[str, ...]]] = Counter()
    programs = 0
    for found in faults(seeds, tuple(options.laws), by_hand=True, whole=options.all):
        programs += bool(found)
        for fault in found:
            kind = (fault.law, tuple(step.operation for step in fault.program.steps))
            kinds[kind] += 1
            if kinds[kind] == 1:  # the same again is counted only
                print(f"\n{fault}", flush=True)
    print(f"\n{len(seeds)} programs, {programs} of them broken, in {len(kinds)} ways")
    print(*(f"  {count:>4}  {law}: {', '.join(steps)}" for (law, steps), count in kinds.most_common()), sep="\n")
    return int(bool(kinds))


BENCHMARK = Command("fuzz", "random programs against the laws: gradient, books, captures, spellings", main)
