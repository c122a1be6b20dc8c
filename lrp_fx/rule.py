"""The vocabulary of rules: `Rule`, `Ruleset`, `Call`, and the primitives ``freeze``, ``share``, ``carry``, ``sink``.

A rule replaces an operation ``y = f(x_1, ..., x_k)`` by a *surrogate*, an expression equal to ``f`` in value at the
current activations and linear in the operands that carry relevance. Its transpose, which automatic differentiation
supplies, moves the coefficient ``c(y)`` to the operands; relevance is ``R(x) = x * c(x)``. What a surrogate does not
hand to an operand it declares as a ``sink``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lrp_fx.aggregation import Aggregation
from lrp_fx.ir.sizes import hint

KINDS = (
    "move",
    "linear",
    "elementwise",
    "normalise",
    "softmax",
    "attention",
    "product",
    "gate",
    "sum",
    "residual",
    "route",
    "homogeneous",
    "scan",
    "stop",
    "tangent",
    "leaf",
)


@dataclass(frozen=True)
class Call:
    """One application of an operation, with real or abstract values in place of its arguments.

    ``carriers``: positions (in flattened ``(args, kwargs)``) of the operands that carry relevance.
    ``factors``: for each carrying position, of how many factors its product chain consists (1 if it is none).
    ``masks``: positions of floating operands that only mask (0 and -inf, or the type's lowest number).
    ``facts``: what inference found out about the operation (such as its degree of homogeneity).
    ``value``: the operation's own result where the machine has it already, else None.
    """

    op: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    carriers: frozenset[int] = frozenset()
    factors: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    masks: frozenset[int] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    value: Any = None

    def flat(self) -> list[Any]:
        return pytree.tree_leaves((self.args, dict(self.kwargs)), is_leaf=lambda x: x is None)

    def with_flat(self, flat: Sequence[Any]) -> Call:
        _, spec = pytree.tree_flatten((self.args, dict(self.kwargs)), is_leaf=lambda x: x is None)
        args, kwargs = pytree.tree_unflatten(list(flat), spec)
        return replace(self, args=tuple(args), kwargs=kwargs)

    def operand(self, position: int) -> Any:
        return self.flat()[position]

    def operands(self) -> list[Tensor]:
        """The carrying operands, in order."""
        flat = self.flat()
        return [flat[i] for i in sorted(self.carriers)]

    def map(self, edit: Callable[[int, Any], Any]) -> Call:
        """The same call with every flattened argument ``a`` at position ``i`` replaced by ``edit(i, a)``."""
        return self.with_flat([edit(i, a) for i, a in enumerate(self.flat())])

    def put(self, values: Mapping[int, Any]) -> Call:
        """The same call with other arguments at the given flattened positions."""
        return self.map(lambda i, a: values.get(i, a))

    def run(self) -> Any:
        return self.op(*self.args, **self.kwargs)

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """A positional-or-keyword argument of the operation."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)


Surrogate = Callable[[Call], Any]


@dataclass(frozen=True)
class Rule:
    """One relevance rule: frozen data plus pure functions in plain torch.

    A rule of kind ``leaf`` says how relevance is read where it ends: its ``ops`` are kinds of injections, its surrogate
    gives the *substitute* of the leaf's value (``R = substitute * c``), and the rest is booked in its one sink.

    ``law``        the surrogate as a formula.
    ``cites``      keys of docs/bibliography.bib.
    ``ops``        the operations it serves (any overload), or a single ``"*"`` for any of its kind.
    ``surrogate``  `Call` -> value, equal to the operation's and linear in its carriers.
    ``sinks``      names of the sinks it may declare.
    ``remainder``  name of a sink obtained as "out minus in" (it closes the books but checks nothing by itself).
    ``audit``      `Call`, coefficient of the result -> sink name -> tensor whose sum is that sink, computed another
                   way.
    ``reference``  `Call`, relevance of the result -> relevance of each carrier: the published formula, slow and
                   literal.
    ``samples``    calls for the laws.
    ``weights``    for fused attention: `Call` -> the attention weights written out, (..., queries, keys).
    ``exact``      False when the rule approximates: strict mode refuses it.
    ``frozen``     True when the result carries no relevance at all.
    ``frozen_operands``     name of the fact that lists positions of operands to which the rule gives nothing, if there
                    are any.
    """

    name: str
    kind: str
    law: str
    cites: tuple[str, ...]
    ops: tuple[str, ...]
    surrogate: Surrogate
    sinks: tuple[str, ...] = ()
    remainder: str | None = None
    audit: Callable[[Call, Tensor], dict[str, Tensor]] | None = None
    reference: Callable[[Call, Tensor], list[Tensor]] | None = None
    samples: Callable[[], list[Call]] = list
    weights: Callable[[Call], Tensor] | None = None
    exact: bool = True
    frozen: bool = False
    frozen_operands: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"rule {self.name}: unknown kind {self.kind!r}; kinds are {', '.join(KINDS)}")
        if not self.law or not self.cites:
            raise ValueError(f"rule {self.name} needs a law and a citation")

    def serves(self, op: str) -> bool:
        return op in self.ops or self.ops == ("*",)


@dataclass(frozen=True)
class Ruleset:
    """Which sources carry relevance, and which rule serves each kind.

    ``carriers``  leaf kinds that receive relevance (`lrp_fx.analysis.provenance.LEAF_KINDS`).
    ``kinds``     kind -> name of the rule that serves it; a kind not named takes the first registered rule that
                  serves the operation.
    ``leaves``    kind of injection (`lrp_fx.structure.injections`) -> name of the leaf rule that reads its relevance.
    ``sites``     module-path patterns (`fnmatch`) -> kind -> rule name, for chosen sites; the first match wins.
    """

    name: str
    carriers: frozenset[str]
    kinds: Mapping[str, str] = field(default_factory=dict)
    leaves: Mapping[str, str] = field(default_factory=dict)
    sites: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    about: str = ""


Registrable = Rule | Ruleset | Aggregation


class Registry:
    """All rules, presets and aggregations known, filled by importing the files in ``rules/``."""

    def __init__(self) -> None:
        self.rules: dict[str, Rule] = {}
        self.rulesets: dict[str, Ruleset] = {}
        self.aggregations: dict[str, Aggregation] = {}

    def add(self, *entries: Registrable) -> None:
        for entry in entries:
            table = self._table(entry)
            if entry.name in table:
                raise ValueError(f"{entry.name} is registered twice")
            table[entry.name] = entry

    def remove(self, *entries: Registrable) -> None:
        for entry in entries:
            self._table(entry).pop(entry.name, None)

    def _table(self, entry: Registrable) -> dict[str, Any]:
        return (
            self.rules
            if isinstance(entry, Rule)
            else self.rulesets
            if isinstance(entry, Ruleset)
            else self.aggregations
        )

    def kinds_of(self, op: str) -> list[str]:
        """Kinds under which some rule lists this operation by name, in order of registration."""
        return list(dict.fromkeys(r.kind for r in self.rules.values() if op in r.ops))

    def candidates(self, kind: str, op: str) -> list[Rule]:
        """Rules of a kind that serve an operation: those that list it first, then the general ones."""
        of_kind = [r for r in self.rules.values() if r.kind == kind and r.serves(op)]
        return sorted(of_kind, key=lambda r: op not in r.ops)


registry = Registry()


def register(*entries: Registrable) -> None:
    """Make rules, rulesets or aggregations known to `lrp_fx.convert`."""
    registry.add(*entries)


@contextlib.contextmanager
def registered(*entries: Registrable) -> Iterator[None]:
    """Rules known only inside a ``with`` block (for tests and experiments)."""
    registry.add(*entries)
    try:
        yield
    finally:
        registry.remove(*entries)


# ------------------------------------------------------------------------------------------------ primitives
@dataclass
class Tape:
    """Records the sinks that a surrogate declares, and its frozen parts so that they can be replayed at other inputs.

    ``sinks``: (name, constant term broadcast to the result); ``given``: the same constants before that, as (constant,
    what it is to be multiplied by).
    """

    sinks: list[tuple[str, Tensor]] = field(default_factory=list)
    given: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)
    frozen: list[Tensor] = field(default_factory=list)
    replay: Iterator[Tensor] | None = None


_tapes: list[Tape] = []


@contextlib.contextmanager
def recording(tape: Tape) -> Iterator[Tape]:
    """Collect what the surrogates run inside declare."""
    _tapes.append(tape)
    try:
        yield tape
    finally:
        _tapes.pop()


def freeze(x: Tensor) -> Tensor:
    """The value of ``x`` as a constant: relevance does not flow into it."""
    tape = _tapes[-1] if _tapes else None
    if tape is not None and tape.replay is not None:
        return next(tape.replay)
    frozen = x.detach()
    if tape is not None:
        tape.frozen.append(frozen)
    return frozen


def sink(name: str, value: Tensor, like: Tensor, *, times: Tensor | None = None) -> Tensor:
    """A constant term of the surrogate, broadcast to the result ``like``; its relevance is booked under ``name``.

    ``times``: the term is ``value * times``; where ``value`` lacks axes, products with ``times`` alone are summed along
    them first.
    """
    given = freeze(value).to(like.dtype)
    factor = freeze(times).to(like.dtype) if times is not None else None
    constant = (given if factor is None else given * factor).expand(like.shape).detach().requires_grad_()
    if _tapes:
        _tapes[-1].sinks.append((name, constant))
        _tapes[-1].given.append((given, factor))
    return constant


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, through: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


class _Share(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.weight, None


def carry(value: Tensor, through: Tensor) -> Tensor:
    """The value of ``value`` with the transpose of ``through``: pairs an operation's own result with a surrogate."""
    result: Tensor = _Carry.apply(freeze(value), through)  # type: ignore[no-untyped-call]
    return result


def share(x: Tensor, weight: float) -> Tensor:
    """``x`` itself, with its coefficient scaled by ``weight``."""
    if weight == 1.0:
        return x
    result: Tensor = _Share.apply(x, weight)  # type: ignore[no-untyped-call]
    return result


def precise(x: Tensor) -> Tensor:
    """Half precision as float32, in which the kernels compute: the square of 400 is no float16."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def where_positive(gate: Tensor, x: Tensor) -> Tensor:
    """``x`` where ``gate`` (of the same shape) is positive or no number, else 0, also where ``x`` is infinite; linear
    in ``x``.

    As `torch.where` does it, in a third of the time on a CPU: the derivative of a threshold is this choice, in one
    vectorised pass.
    """
    if x.is_complex() or x.dtype != gate.dtype:
        return torch.where(gate <= 0, 0.0, x)
    chosen: Tensor = torch.ops.aten.threshold_backward(x, gate, 0.0)
    return chosen


def elements(x: Tensor) -> int:
    """The number of elements; where sizes are symbolic, of the example that was traced."""
    return prod(map(hint, x.shape))


def covers(prefix: str, names: str) -> tuple[str, ...]:
    """Operation names with a namespace: ``covers("aten", "add sub")`` -> ``("aten.add", "aten.sub")``."""
    return tuple(f"{prefix}.{name}" for name in names.split())


def sample(
    op: Callable[..., Any],
    *args: Any,
    carriers: Sequence[int] = (0,),
    factors: Mapping[int, int] | None = None,
    facts: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Call:
    """A call for the laws: positions in ``carriers`` carry relevance."""
    return Call(op, args, kwargs, frozenset(carriers), factors or dict.fromkeys(carriers, 1), facts=facts or {})


def identity(x: Tensor, weights: Tensor | None = None) -> Tensor:
    """The operation that a leaf rule is applied to: the leaf itself, with the attention weights its scores lead to."""
    return x


def constant_part(call: Call) -> Tensor:
    """The value an affine operation takes where its carriers are zero."""
    result: Tensor = call.map(lambda i, a: torch.zeros_like(a) if i in call.carriers else a).run()
    return result
