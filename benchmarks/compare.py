"""Does a page still say what its command finds? Two texts of a page, paragraph by paragraph and row by row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")
#: Stands in for a column's heading: of the figures in the text around the tables, and of all other columns.
TEXT, OTHERS = "text", "*"


@dataclass(frozen=True)
class Noise:
    """How far a figure may be off: by ``relative`` of the larger one or by ``absolute``, whichever is more."""

    relative: float = 0.0
    absolute: float = 0.0

    def covers(self, a: float, b: float) -> bool:
        return abs(a - b) <= max(self.relative * max(abs(a), abs(b)), self.absolute)


EXACT, ANY = Noise(), Noise(relative=float("inf"))
Row = tuple[str, ...]


@dataclass
class Table:
    """``title``: what it stands under; ``before``: the paragraph in front of it, without its figures."""

    title: str
    before: str
    headings: Row
    rows: list[Row] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, Row]:
        return self.title, self.before, self.headings

    def __str__(self) -> str:
        return self.title.lstrip("# ")


@dataclass
class Parts:
    """A page: its titles and paragraphs in order, each on one line, and its tables."""

    prose: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def parse(text: str) -> Parts:
    """The parts of a page; line breaks inside a paragraph do not matter."""
    parts, title = Parts(), ""
    for block in filter(None, re.split(r"\n\s*\n", text.strip())):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            before = NUMBER.sub("#", parts.prose[-1]) if parts.prose else ""
            headings, _, *rows = [tuple(c.strip() for c in line.strip().strip("|").split(" | ")) for line in lines]
            parts.tables.append(Table(title, before, headings, rows))
            continue
        parts.prose.append(" ".join(block.split()))
        title = parts.prose[-1] if lines[0].startswith("#") else title
    return parts


def differences(old: str, new: str, noise: Mapping[str, Noise], *, whole: bool = True) -> list[str]:
    """What would change on the page, beyond noise, one line each; unless ``whole``, what was not measured may stay."""
    before, after = parse(old), parse(new)
    return [*_prose(before.prose, after.prose, noise, whole), *_tables(before.tables, after.tables, noise, whole)]


def _prose(old: Sequence[str], new: Sequence[str], noise: Mapping[str, Noise], whole: bool) -> Iterator[str]:
    allowed = noise.get(TEXT, EXACT)
    yield from (f"not on the page: {line[:110]}" for line in new if not any(same(o, line, allowed) for o in old))
    if whole:
        yield from (f"only on the page: {line[:110]}" for line in old if not any(same(line, n, allowed) for n in new))


def _tables(old: Sequence[Table], new: Sequence[Table], noise: Mapping[str, Noise], whole: bool) -> Iterator[str]:
    before, after = {t.key: t for t in old}, {t.key: t for t in new}
    yield from (
        f"no such table on the page: {t}, {' | '.join(t.headings)}" for k, t in after.items() if k not in before
    )
    if whole:
        yield from (f"only on the page: {t}, a table" for k, t in before.items() if k not in after)
    for key in before.keys() & after.keys():
        yield from _rows(before[key], after[key], noise, whole)


def _rows(old: Table, new: Table, noise: Mapping[str, Noise], whole: bool) -> Iterator[str]:
    count = _columns_that_name(old.rows, new.rows)
    before, after = {r[:count]: r for r in old.rows}, {r[:count]: r for r in new.rows}
    for key, row in after.items():
        if key not in before:
            yield f"{old}: no row {', '.join(key)} on the page"
            continue
        for heading, a, b in zip(old.headings, before[key], row, strict=False):
            if not same(a, b, noise.get(heading, noise.get(OTHERS, EXACT))):
                yield f"{old}: {', '.join(key)}, {heading}: {a or 'nothing'} on the page, {b or 'nothing'} now"
    if whole:
        yield from (f"{old}: row {', '.join(key)} is only on the page" for key in before if key not in after)


def _columns_that_name(*tables: Sequence[Row]) -> int:
    """The fewest first columns that tell every row of each table from its others."""
    widest = max((len(row) for rows in tables for row in rows), default=1)
    for count in range(1, widest):
        if all(len({row[:count] for row in rows}) == len(rows) for rows in tables):
            return count
    return widest


def same(a: str, b: str, noise: Noise) -> bool:
    """Equal but for figures, and those within noise."""
    if NUMBER.sub("#", a) != NUMBER.sub("#", b):
        return False
    pairs = zip(NUMBER.findall(a), NUMBER.findall(b), strict=True)
    return all(x == y or noise.covers(float(x), float(y)) for x, y in pairs)
