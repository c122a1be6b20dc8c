"""Memory against length: ``python -m benchmarks.speed.length [--write PAGE] [--model NAME] [--lengths N ...]``.

Peak memory of one explanation as `benchmarks.speed` measures it, for texts of growing length, one at a time and without
padding. What is written out query by key would show as growth with the square: twice the length, four times the memory.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from benchmarks.speed import measure
from benchmarks.speed.contenders import BASE, CONTENDERS
from benchmarks.speed.models import MODELS

LENGTHS = (1024, 2048, 4096, 8192)
NAMES = (BASE, "lrp_fx", "lrp_fx, relevance only", "lrp_fx, checkpoint")


def exponent(lengths: list[int], mib: list[float]) -> float:
    """Of the power of the length that memory grows with, by least squares in logarithms: 1 is linear, 2 a square."""
    x, y = [math.log(n) for n in lengths], [math.log(m) for m in mib]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--model", choices=list(MODELS), default="Llama-like, 256 wide, 4 layers")
    parser.add_argument("--lengths", nargs="*", type=int, default=list(LENGTHS))
    parser.add_argument("--contenders", nargs="*", choices=list(CONTENDERS), default=list(NAMES))
    options = parser.parse_args()
    cells = [(n, 1) for n in options.lengths]
    lines = [
        "# Memory against length",
        "",
        f"Written by `python -m benchmarks.speed.length --write docs/length.md`. {options.model}, random weights, "
        "float32, on a CPU: peak memory of one run in MiB, "
        "and the power of the length that it grows with (1 is linear).",
        "",
        f"| contender | {' | '.join(f'{n} tokens' for n in options.lengths)} | power |",
        "|---" * (len(cells) + 2) + "|",
    ]
    for name in options.contenders:
        rows = measure.in_child("peaks", options.model, cells, [name], 0.0)
        found = {int(row["cell"][0]): row["found"][name] for row in rows}
        known = {n: f["mib"] for n, f in found.items() if "mib" in f}
        power = f"{exponent(list(known), list(known.values())):.2f}" if len(known) > 1 else ""
        lines.append(
            f"| {name} | "
            + " | ".join(f"{known[n]:.0f}" if n in known else found[n]["why"] for n in options.lengths)
            + f" | {power} |"
        )
        print(lines[-1], flush=True)
    if options.write:
        options.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
