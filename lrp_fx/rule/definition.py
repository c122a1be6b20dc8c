"""Rules and rulesets: what says how relevance passes an operation, and which rule is taken where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lrp_fx.errors import RuleError
from lrp_fx.rule.call import Call
from lrp_fx.rule.kinds import KINDS

Surrogate = Callable[[Call], Any]
#: One rule's name, or several in the order in which they are asked.
Order = str | tuple[str, ...]


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
    ``samples``    calls that all laws are checked on: at least one of each operation in ``ops``.
    ``calls``      further calls, held to all laws but the reference, which does not spell them out.
    ``unsampled``  operations of ``ops`` that neither has, and why.
    ``weights``    for fused attention: `Call` -> the attention weights written out, (..., queries, keys).
    ``start``      `Call` -> what the operation gives where all that carries relevance is nothing, if a product with it
                   is to hand this part to its other factor (`Call.bases`).
    ``based``      what the surrogate reads in `Call.bases`: nothing (""), what operations with a ``start`` give
                   ("start"), or also constant parts, such as masks among scores ("constants"). A product that is based
                   is told the numbers in its factors, too (`Call.facts`).
    ``exact``      False when the rule approximates: strict mode refuses it.
    ``frozen``     True when the result carries no relevance at all.
    ``chain``      for an operation that holds a product: operand -> number of factors of the chain that ends in it, and
                   the facts of the call -> number of factors that its result has. (Other kinds say it by themselves.)
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
    calls: Callable[[], list[Call]] = list
    unsampled: Mapping[str, str] = field(default_factory=dict)
    weights: Callable[[Call], Tensor] | None = None
    start: Callable[[Call], Tensor] | None = None
    based: str = ""
    exact: bool = True
    frozen: bool = False
    chain: Callable[[Mapping[int, int], Mapping[str, Any]], int] | None = None
    frozen_operands: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RuleError(f"rule {self.name}: unknown kind {self.kind!r}; kinds are {', '.join(KINDS)}")
        if self.based not in ("", "start", "constants"):
            raise RuleError(f"rule {self.name}: based is {self.based!r}, not 'start' or 'constants'")
        if not self.law or not self.cites:
            raise RuleError(f"rule {self.name} needs a law and a citation")

    def serves(self, op: str) -> bool:
        """May it be given an operation of this name (``aten.mul``)?"""
        return op in self.ops or self.ops == ("*",)

    @property
    def is_shipped(self) -> bool:
        """Is it one of this package's, whose code nobody changes while it runs?"""
        functions = [self.surrogate, *([self.audit] if self.audit is not None else [])]
        return all(getattr(f, "__module__", "").startswith("lrp_fx.rules.") for f in functions)


#: In a ruleset's order: the rules that list the operation and that no ruleset names (such as those of a new file).
OTHERS = "*"


@dataclass(frozen=True)
class Ruleset:
    """Which sources carry relevance, and which rules serve each kind.

    ``carriers``  leaf kinds that receive relevance (`lrp_fx.analysis.provenance.LEAF_KINDS`).
    ``kinds``     kind -> name of the rule that serves it, or several names: the first whose rule serves the operation
                  is taken. Where none does, and for kinds that are not named, the default preset decides.
    ``leaves``    kind of injection (`lrp_fx.structure.injections`) -> name of the leaf rule that reads its relevance.
    ``sites``     module-path patterns (`fnmatch`) -> the same as ``kinds``, for chosen sites; the first match wins.
    ``as_autograd``  is relevance gradient x input? Then what the model's code detaches (``detach()``, ``no_grad``) gets
                  none, and a value that all examples share has one coefficient, of all their scores. Else what is
                  detached gets its own: the function is the same.
    """

    name: str
    carriers: frozenset[str]
    kinds: Mapping[str, Order] = field(default_factory=dict)
    leaves: Mapping[str, str] = field(default_factory=dict)
    sites: Mapping[str, Mapping[str, Order]] = field(default_factory=dict)
    about: str = ""
    as_autograd: bool = False

    def __post_init__(self) -> None:
        named = [*self.kinds, *(kind for kinds in self.sites.values() for kind in kinds)]
        if unknown := [kind for kind in named if kind not in KINDS]:
            raise RuleError(
                f"ruleset {self.name}: unknown kinds {', '.join(map(repr, unknown))}; kinds are {', '.join(KINDS)}"
            )

    def named(self) -> Iterator[str]:
        """Names of all rules that it names."""
        for orders in (self.kinds, *self.sites.values()):
            for order in orders.values():
                yield from (name for name in names_in(order) if name != OTHERS)
        yield from self.leaves.values()


def names_in(order: Order) -> tuple[str, ...]:
    return (order,) if isinstance(order, str) else tuple(order)
