"""The registry: all rules, presets and aggregations known, and which rule a ruleset takes for an operation.

The order in which rules are registered, and so the names of their files, decide nothing: where several rules serve an
operation under one kind a ruleset says which, and where none says it is an error to register them.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import combinations
from typing import Any

from lrp_fx.aggregation import Aggregation
from lrp_fx.errors import RuleError
from lrp_fx.rule.definition import OTHERS, Order, Rule, Ruleset, names_in
from lrp_fx.rule.kinds import KINDS

#: The preset that `lrp_fx.convert` takes if it is not told; it decides what other rulesets leave open.
DEFAULT = "pa-lrp"

Registrable = Rule | Ruleset | Aggregation


class Registry:
    """All rules, presets and aggregations known, filled by importing the files in ``rules/``.

    ``source``: the module that fills it, imported when somebody first asks for what there is, or adds to it.
    """

    def __init__(self, source: str | None = None) -> None:
        self._rules: dict[str, Rule] = {}
        self._rulesets: dict[str, Ruleset] = {}
        self._aggregations: dict[str, Aggregation] = {}
        self._open = False
        self._source = source

    @property
    def rules(self) -> dict[str, Rule]:
        """Every rule by its name."""
        self._fill()
        return self._rules

    @property
    def rulesets(self) -> dict[str, Ruleset]:
        """Every preset, and every ruleset that was registered, by its name."""
        self._fill()
        return self._rulesets

    @property
    def aggregations(self) -> dict[str, Aggregation]:
        """Every way to sum position by token, by its name."""
        self._fill()
        return self._aggregations

    def _fill(self) -> None:
        if self._source is not None:
            importlib.import_module(self._source)  # while it is imported, it finds itself, and goes on

    def add(self, *entries: Registrable) -> None:
        """Make entries known, all or none of them."""
        for entry in entries:
            if entry.name in self._table(entry):
                raise RuleError(f"{entry.name} is registered twice")
        for entry in entries:
            self._table(entry)[entry.name] = entry
        if not self._open:
            try:
                self.check()
            except RuleError:
                self.remove(*entries)
                raise

    def remove(self, *entries: Registrable) -> None:
        for entry in entries:
            self._table(entry).pop(entry.name, None)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Files that name each other's rules: what is added inside the block is checked at its end."""
        self._open = True
        try:
            yield
        finally:
            self._open = False
        self.check()

    def _table(self, entry: Registrable) -> dict[str, Any]:
        if isinstance(entry, Rule):
            return self.rules
        return self.rulesets if isinstance(entry, Ruleset) else self.aggregations

    def choice(self, ruleset: Ruleset) -> Choice:
        """The rules that a ruleset takes."""
        default = self.rulesets.get(DEFAULT)
        return Choice(self.rules, ruleset, default or ruleset, self._others())

    def _others(self) -> dict[str, list[Rule]]:
        """The rules that no ruleset names, by kind; one that lists no operation serves only where it is named."""
        named = {name for ruleset in self.rulesets.values() for name in ruleset.named()}
        rest = [r for r in self.rules.values() if r.name not in named and "*" not in r.ops and r.kind != "leaf"]
        return {kind: [r for r in rest if r.kind == kind] for kind in KINDS}

    def check(self) -> None:
        """Raise `RuleError` where a ruleset names an unknown rule, or where nothing says which of two rules to take."""
        for ruleset in self.rulesets.values():
            if unknown := sorted(set(ruleset.named()) - set(self.rules)):
                raise RuleError(
                    f"ruleset {ruleset.name!r} names rules that are not registered: {', '.join(unknown)}; "
                    "register them with it or before it"
                )
        if DEFAULT not in self.rulesets:
            return
        choice = self.choice(self.rulesets[DEFAULT])
        for kind, rules in self._others().items():
            for a, b in combinations(rules, 2):
                for op in sorted(set(a.ops) & set(b.ops)):
                    first = choice.candidates(kind, op)[0]
                    if first in (a, b):
                        raise RuleError(_no_order(a, b, op))


def _no_order(a: Rule, b: Rule, op: str) -> str:
    return (
        f"the rules {a.name} and {b.name} both serve {op} under the kind {a.kind}, and no ruleset says which is to be "
        f"taken\n  next: name one of them under this kind in a ruleset registered with it "
        f'(Ruleset(..., kinds={{"{a.kind}": "{a.name}"}}): it then serves where a ruleset names it), put it into the '
        f"default order in rules/presets.py, or take {op} out of the ops of one"
    )


@dataclass(frozen=True)
class Choice:
    """The rules that a ruleset takes: its own order first, then that of the default preset."""

    rules: dict[str, Rule]
    ruleset: Ruleset
    default: Ruleset
    others: dict[str, list[Rule]]
    _known: dict[Any, list[Any]] = field(default_factory=dict, repr=False, compare=False)

    def kinds_of(self, op: str) -> list[str]:
        """Kinds under which a rule that may be taken lists this operation by name, in the order of `KINDS`."""
        known = self._known.get(op)
        if known is None:
            ordered = ((kind, self._ordered(kind, self._orders(kind))) for kind in KINDS)
            known = self._known[op] = [kind for kind, rules in ordered if any(op in rule.ops for rule in rules)]
        return known

    def candidates(self, kind: str, op: str, place: str = "") -> list[Rule]:
        """Rules that serve an operation under a kind at a module path, the one to take first."""
        key = (kind, op, place if self.ruleset.sites else "")
        known = self._known.get(key)
        if known is None:
            ordered = self._ordered(kind, self._orders(kind, place))
            known = self._known[key] = [rule for rule in ordered if rule.serves(op)]
        return known

    def _orders(self, kind: str, place: str | None = None) -> Iterator[Order]:
        """Orders of a kind in turn: of the sites at ``place`` (None: of all sites), the ruleset, the default preset."""
        for pattern, kinds in self.ruleset.sites.items():
            if kind in kinds and (place is None or fnmatch(place, pattern)):
                yield kinds[kind]
        for ruleset in (self.ruleset, self.default):
            if kind in ruleset.kinds:
                yield ruleset.kinds[kind]

    def _ordered(self, kind: str, orders: Iterable[Order]) -> list[Rule]:
        """Each rule once, at its first place."""
        found: dict[str, Rule] = {}
        for name in (name for order in orders for name in names_in(order)):
            for rule in self.others[kind] if name == OTHERS else [self.rules[name]]:
                found.setdefault(rule.name, rule)
        return list(found.values())


registry = Registry("lrp_fx.rules")


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
