"""``python -m benchmarks NAME [options] [--write | --check]``: measure; write its page, or say if it would change.

Without a NAME: the list of all; ``--write`` writes the index of the pages, ``--check`` fails if it, or the text of a
page around its figures, is not as it would be written (nothing is measured).
"""

from __future__ import annotations

import sys

from benchmarks.page import Command, Page
from benchmarks.registry import INDEX, discover, index, stale


def main(arguments: list[str]) -> int:
    found = discover()
    match arguments:
        case []:
            print((__doc__ or "").strip(), "", *map(_line, found.values()), sep="\n")
            return 0
        case ["--write"]:
            INDEX.write_text(index(found), encoding="utf-8")
            return 0
        case ["--check"]:
            changed = stale(found)
            print(*changed, f"{len(changed)} would change" if changed else "as written", sep="\n")
            return int(bool(changed))
        case [name, *rest] if name in found:
            return found[name].main(rest) or 0
    print(f"no benchmark {arguments[0]}; there are: {', '.join(found)}", file=sys.stderr)
    return 2


def _line(benchmark: Page | Command) -> str:
    page = f" [{benchmark.file}]" if isinstance(benchmark, Page) else ""
    return f"  {benchmark.name:<18}{benchmark.purpose}{page}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
