"""Sizes: for which sizes of its inputs a graph holds: what was taken for granted about them while it was traced.

A size is a number, a symbol or an expression of symbols; a branch on a size that the model's forward took is a
condition on symbols. All are text in Python's syntax, so that a file can hold them; nothing is ever evaluated but whole
numbers.

requires  a program, or such texts of a file
ensures   a call of other sizes is refused by a message that names the axes, or what was decided by them;
          the output's shape is known before anything is computed
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, Self

from torch.utils._sympy.printers import PythonPrinter

from lrp_fx.errors import InputError
from lrp_fx.guards.guard import Arguments, Guard, Reader, Writer
from lrp_fx.ir.graph import value_of
from lrp_fx.ir.program import Program
from lrp_fx.ir.sizes import hint

Shapes = Mapping[str, Sequence[int]]
_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_OPERATIONS: dict[type[Any], Callable[..., Any]] = {
    **_ARITHMETIC,
    **_COMPARISONS,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"max": max, "min": min, "abs": abs}
_LONGEST = 10_000


@dataclass(frozen=True)
class Sizes:
    """``axes``: the size of each axis, by input; ``conditions``: what holds for the symbols; ``output``: the sizes of
    the explained output.
    """

    axes: dict[str, tuple[str, ...]]
    conditions: tuple[str, ...] = ()
    output: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise ValueError if one of them is more than arithmetic on whole numbers."""
        for text in (*(size for sizes in self.axes.values() for size in sizes), *self.conditions, *self.output):
            _parsed(text)

    def refusal(self, shapes: Shapes) -> str | None:
        """Why a graph of these sizes does not hold for inputs of these shapes; None if it does."""
        known: dict[str, int] = {}
        for place, size, length in self._places(shapes):
            if size.isidentifier() and known.setdefault(size, length) != length:
                return f"{place} must be as long as {self._place_of(size)}: got {length} and {known[size]}"
        for place, size, length in self._places(shapes):
            if not size.isidentifier() and _value(size, known) != length:
                return f"{place} must be {self.readable(size)}: got {length}"
        failed = next((c for c in self.conditions if not _value(c, known)), None)
        return f"made for sizes with {self.readable(failed)}" if failed is not None else None

    def output_shape(self, shapes: Shapes) -> tuple[int, ...]:
        """Shape of the explained output for inputs of these shapes, which the graph holds for."""
        known = {size: length for _, size, length in self._places(shapes) if size.isidentifier()}
        shape = tuple(_value(size, known) for size in self.output)
        if None in shape:
            raise InputError(f"the output has no {self.readable(self.output[shape.index(None)])} rows for such inputs")
        return shape

    def ones(self, shapes: Shapes) -> frozenset[str]:
        """Symbols that are 1: tracing takes for granted that none is, and leaves no condition."""
        return frozenset(size for _, size, length in self._places(shapes) if length == 1 and size.isidentifier())

    def _places(self, shapes: Shapes) -> list[tuple[str, str, int]]:
        return [
            (f"axis {i} of {name}", size, length)
            for name, sizes in self.axes.items()
            for i, (size, length) in enumerate(zip(sizes, shapes[name], strict=True))
        ]

    def _place_of(self, symbol: str) -> str:
        return next(
            f"axis {i} of {name}" for name, sizes in self.axes.items() for i, size in enumerate(sizes) if size == symbol
        )

    def readable(self, text: str) -> str:
        """With ``input.shape[axis]`` for symbols."""
        places = {
            size: f"{name}.shape[{i}]" for name, sizes in reversed(self.axes.items()) for i, size in enumerate(sizes)
        }
        return re.sub(r"[A-Za-z_]\w*", lambda word: places.get(word[0], word[0]), text)


@dataclass(frozen=True, eq=False)
class SizeGuard(Guard):
    """The sizes of the inputs, with all that the model decided by them.

    ``known``: gives them (drawing graphs of a program may decide more). ``ones``: does the graph compute what the model
    computes where these sizes are 1? Tracing takes for granted that none is, whatever the model does with such.
    ``compare``: asks the model, where there is one; a file has none.
    """

    kind = "sizes"
    known: Callable[[], Sizes]
    ones: dict[frozenset[str], bool] = field(default_factory=dict)
    compare: Callable[[Arguments], bool] | None = None

    @property
    def sizes(self) -> Sizes:
        return self.known()

    def refusal(self, call: Arguments) -> str | None:
        sizes, shapes = self.sizes, call.shapes
        why = sizes.refusal(shapes)
        if why is not None:
            return f"this graph does not hold for these sizes: {why}"
        ones = sizes.ones(shapes)
        if ones and ones not in self.ones and self.compare is not None:
            self.ones[ones] = self.compare(call)
        if not ones or self.ones.get(ones, False):
            return None
        places = ", ".join(sorted(sizes.readable(symbol) for symbol in ones))
        if ones in self.ones:
            return f"the model computes something else than this graph where {places} is 1"
        return (
            f"nobody has compared this graph with the model where {places} is 1: explain such an input before saving it"
        )

    def encode(self, write: Writer) -> dict[str, Any]:
        return {**asdict(self.sizes), "ones": [sorted(names) for names, right in self.ones.items() if right]}

    @classmethod
    def decode(cls, facts: Mapping[str, Any], read: Reader) -> Self:
        sizes = Sizes(
            {str(name): tuple(map(str, axes)) for name, axes in facts["axes"].items()},
            tuple(map(str, facts["conditions"])),
            tuple(map(str, facts["output"])),
        )
        sizes.check()
        return cls(lambda: sizes, {frozenset(map(str, names)): True for names in facts["ones"]})


class TracedSizes:
    """The sizes of a program; made again when drawing graphs of it has decided more by them."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._made: tuple[int, Sizes] | None = None
        symbolic = [
            s for node in program.input_nodes().values() for s in value_of(node).shape if not isinstance(s, int)
        ]
        self._guards: Sequence[Any] = symbolic[0].node.shape_env.guards if symbolic else ()

    def __call__(self) -> Sizes:
        if self._made is None or self._made[0] != len(self._guards):
            self._made = len(self._guards), sizes_of(self._program)
        return self._made[1]


def sizes_of(program: Program, read: Sequence[Any] | None = None) -> Sizes:
    """The sizes of a program's inputs and output, with everything that tracing it, and drawing graphs of it, has
    decided by them so far. read: the shape of another value in the place of the output's.
    """
    values = {name: value_of(node) for name, node in program.input_nodes().items()}
    symbolic = [s for value in values.values() for s in value.shape if not isinstance(s, int)]
    axes = {
        name: tuple(str(s) if isinstance(s, int) else _text(s.node.expr) for s in value.shape)
        for name, value in values.items()
    }
    output = value_of(program.explained_node).shape if read is None else read
    if not symbolic:
        return Sizes(axes, (), tuple(str(hint(s)) for s in output))
    traced = {str(s): hint(s) for s in symbolic if str(s).isidentifier()}
    environment = symbolic[0].node.shape_env
    guards = [environment.replace(guard.expr) for guard in environment.guards]
    conditions = dict.fromkeys(
        c for guard in guards if {str(s) for s in guard.free_symbols} <= set(traced) for c in _conditions(guard, traced)
    )
    rows = [_of_output(size, traced) for size in output]
    conditions |= dict.fromkeys(c for _, needed in rows for c in needed)
    return Sizes(axes, tuple(c for c in conditions if c != "True"), tuple(text for text, _ in rows))


def _of_output(size: Any, traced: Mapping[str, int]) -> tuple[str, list[str]]:
    """An output's size as text and, where it is more than arithmetic on the inputs' sizes, what makes it the traced
    number.
    """
    symbols = set() if isinstance(size, int) else {str(s) for s in size.node.expr.free_symbols}
    text = str(size) if isinstance(size, int) else _text(size.node.expr)
    if symbols <= set(traced) and _is_arithmetic(text):
        return text, []
    return str(hint(size)), _pinned(symbols & set(traced), traced)


def _conditions(guard: Any, traced: Mapping[str, int]) -> list[str]:
    """The guard as text or, where it is more than arithmetic on whole numbers, the traced value of each of its
    symbols.
    """
    text = _text(guard)
    return [text] if _is_arithmetic(text) else _pinned({str(s) for s in guard.free_symbols}, traced)


def _pinned(symbols: set[str], traced: Mapping[str, int]) -> list[str]:
    return [f"{symbol} == {traced[symbol]}" for symbol in sorted(symbols)]


def _text(expression: Any) -> str:
    return str(PythonPrinter().doprint(expression))


def _is_arithmetic(text: str) -> bool:
    try:
        _parsed(text)
    except ValueError:
        return False
    return True


def _value(text: str, known: Mapping[str, int]) -> Any:
    """The number or truth of an expression; None where it has none (divided by zero, symbols that no axis has)."""
    try:
        return _parsed(text)(known)
    except (ZeroDivisionError, KeyError):
        return None


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Callable[[Mapping[str, int]], Any]:
    """Raises ValueError for anything but arithmetic and comparisons of whole numbers."""
    if len(text) > _LONGEST:
        raise ValueError("an expression of a size is too long")
    try:
        return _compiled(ast.parse(text, mode="eval").body)
    except (SyntaxError, RecursionError) as error:
        raise ValueError(f"no expression of sizes: {text[:60]!r}") from error


def _compiled(node: ast.AST) -> Callable[[Mapping[str, int]], Any]:
    match node:
        case ast.Constant(value=int() as number):
            return lambda known: number
        case ast.Name(id=name):
            return lambda known: known[name]
        case ast.UnaryOp(op=kind, operand=only) if type(kind) in _OPERATIONS:
            return _applied(_OPERATIONS[type(kind)], only)
        case ast.BinOp(left=left, op=kind, right=right) if type(kind) in _OPERATIONS:
            return _applied(_OPERATIONS[type(kind)], left, right)
        case ast.Compare(left=left, ops=[kind], comparators=[right]) if type(kind) in _OPERATIONS:
            return _applied(_OPERATIONS[type(kind)], left, right)
        case ast.BoolOp(op=kind, values=values):
            join = all if isinstance(kind, ast.And) else any
            return _applied(lambda *truths: join(truths), *values)
        case ast.Call(func=ast.Name(id=name), args=values, keywords=[]) if name in _FUNCTIONS and values:
            return _applied(_FUNCTIONS[name], *values)
    raise ValueError(f"no expression of sizes: {ast.unparse(node)[:60]!r}")


def _applied(function: Callable[..., Any], *operands: ast.AST) -> Callable[[Mapping[str, int]], Any]:
    parts = [_compiled(operand) for operand in operands]
    return lambda known: function(*(part(known) for part in parts))
