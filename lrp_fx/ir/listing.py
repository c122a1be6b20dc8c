"""A graph as text, node by node: repeated blocks every time, or once, with a comment that says how often they come."""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import chain

from torch import fx

from lrp_fx.errors import InputError
from lrp_fx.ir.graph import iter_nodes
from lrp_fx.ir.repeats import Run, find_repeats, left_out
from lrp_fx.ir.source import module_path

#: Every block is printed, or the first of each run of equal ones.
BLOCKS = ("all", "once")
_ASSIGNED = re.compile(r'\s*(\w+)(?:: "[^"]*")? = ')
_WIDTH, _NAMED = 118, 4


def check_blocks(blocks: str) -> None:
    """Raise `InputError` unless blocks can be printed so."""
    if blocks not in BLOCKS:
        raise InputError(f"blocks={blocks!r}: there are {' and '.join(map(repr, BLOCKS))}")


def listing(
    graph: fx.Graph,
    line: Callable[[fx.Node], str | None],
    blocks: str = "all",
    *,
    note: Callable[[fx.Node], str] = lambda node: "",
    indent: str = "",
) -> str:
    """A graph as text.

    line: the text of a node, None for one that has none. blocks: ``"all"``, or ``"once"`` for the first of each run of
    equal blocks, with comments that say how often it comes, for which modules, and what goes from one to the next.
    note: what has to be the same, beside operation, sizes and arguments, for two nodes to be equal. indent: that of
    comments.

    Raises `InputError` for other ``blocks``.
    """
    check_blocks(blocks)
    runs = find_repeats(graph, note) if blocks == "once" else []
    skipped = left_out(graph, runs)
    above: dict[fx.Node, list[str]] = defaultdict(list)
    below: dict[fx.Node, list[str]] = defaultdict(list)
    for run in runs:  # a run inside another comes behind it: it begins below its first comment, and ends above its last
        above[run.first[0]].append(_opening(run))
        below[run.first[-1]][:0] = _closing(run, skipped)
    lines: list[str] = []
    for node in graph.nodes:
        lines += [indent + comment for comment in above.get(node, ())]
        if node not in skipped and (text := line(node)) is not None:
            lines.append(text)
        lines += [indent + comment for comment in below.get(node, ())]
    return "\n".join(lines)


def source(module: fx.GraphModule, blocks: str = "all") -> str:
    """A module as Python source (which is for reading only where blocks are left out); see `listing`."""
    check_blocks(blocks)
    whole = str(module.print_readable(print_output=False))
    if blocks == "all":
        return whole
    head, parts = _by_node(whole, module.graph)
    shown = ""

    def line(node: fx.Node) -> str | None:
        nonlocal shown
        if node not in parts:
            return None
        place, code = parts[node]
        text = code if place == shown else place + code  # the node that it stood above may be left out
        shown = place
        return text.removesuffix("\n")

    return head + listing(module.graph, line, blocks, indent=8 * " ") + "\n"


def _by_node(whole: str, graph: fx.Graph) -> tuple[str, dict[fx.Node, tuple[str, str]]]:
    """What stands above all nodes, and of each node the comment on where it comes from, and its own line."""
    nodes: dict[str, fx.Node] = {n.name: n for n in graph.nodes}
    output = nodes["output"]
    head, place, comment = "", "", ""
    parts: dict[fx.Node, tuple[str, str]] = {}
    for text in whole.splitlines(keepends=True):
        assigned = _ASSIGNED.match(text)
        node = nodes.get(assigned[1]) if assigned else output if text.lstrip().startswith("return ") else None
        if node is not None and node not in parts:
            place, comment = comment or place, ""
            parts[node] = (place, text)
        elif not parts and "#" not in text:
            head += text
        elif not text.strip() or text.lstrip().startswith("#"):
            comment += text if text.strip() else ""
    return head, parts


# ------------------------------------------------------------------------------------------------ comments
def _opening(run: Run) -> str:
    where = _places(run, run.periods)
    return f"# {len(run.periods)} blocks of {len(run.first)} nodes{f', {where}' if where else ''}; the first of them:"


def _closing(run: Run, skipped: set[fx.Node]) -> list[str]:
    """How often the block comes again, what each reads of the one before, and what is read of them further on."""
    again = len(run.periods) - 1
    where = _places(run, run.periods[1:])
    own = ", with weights of its own" if again == 1 else ", each with weights of its own"
    handed = ", ".join(f"%{n} of the one before for %{entry}{_in(run, n, entry)}" for n, entry in run.carried.items())
    paired = ", ".join(f"%{n}" for n in run.paired)
    head = f"the same {again} time{'s' if again > 1 else ''} more{f': {where}' if where else ''}"
    return list(
        chain(
            _comment(head + (own if _weights(run.first) != _weights(run.periods[1]) else "")),
            _comment(f"each reads {handed}" if handed else "", "  "),
            _comment(f"of the blocks above each reads its own: {paired}" if paired else "", "  "),
            *(_comment(text, "  ") for text in _read_later(run, skipped)),
        )
    )


def _in(run: Run, node: fx.Node, entry: fx.Node) -> str:
    """Which nodes read what the period before hands on, where others go on reading what stands before the run."""
    pairs = [
        (n, a, b)
        for n, m in zip(run.first, run.periods[1], strict=True)
        for a, b in zip(iter_nodes(n.args, n.kwargs), iter_nodes(m.args, m.kwargs), strict=True)
    ]
    readers = [f"%{n}" for n, a, b in pairs if a is entry and b is node]
    return "" if len(readers) == sum(a is entry for _, a, _ in pairs) else f" in {' and '.join(readers)}"


def _comment(text: str, indent: str = "") -> list[str]:
    lines = textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [f"# {indent}{line}" for line in lines]


def _weights(period: tuple[fx.Node, ...]) -> set[fx.Node]:
    return {read for node in period for read in iter_nodes(node.args, node.kwargs) if read.op == "get_attr"}


def _read_later(run: Run, skipped: set[fx.Node]) -> Iterator[str]:
    """The nodes left out that printed ones read, each with the node that stands for it, by the blocks they are of."""
    found: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for i, node in enumerate(run.first):
        read = {j: p[i] for j, p in enumerate(run.periods) if j and any(user not in skipped for user in p[i].users)}
        if read:
            found[tuple(read)].append(f"{_shortened([f'%{n}' for n in read.values()])} for %{node}")
    for of, names in found.items():
        numbers = _shortened([str(j + 1) for j in of])
        last = of == (len(run.periods) - 1,)
        yield f"read below, of {'the last' if last else f'number {numbers}'}: {'; '.join(names)}"


def _places(run: Run, periods: tuple[tuple[fx.Node, ...], ...]) -> str:
    """The modules that some periods belong to, named as far as it takes to tell the periods of the run apart."""
    every = [path.split(".") for period in run.periods for node in period if (path := module_path(node))]
    shared = next((i for i, parts in enumerate(zip(*every, strict=False)) if len(set(parts)) > 1), None)
    if shared is None:
        return ""
    paths = (module_path(node).split(".") for period in periods for node in period)
    return _shortened(list(dict.fromkeys(".".join(path[: shared + 1]) for path in paths if len(path) > shared)))


def _shortened(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= _NAMED else f"{names[0]} ... {names[-1]}"
