"""Refuse: what no rule serves is named with its place, the reason and what to write, all of it in one error."""

from __future__ import annotations

from collections.abc import Iterable

from lrp_fx.analysis.provenance import CONTENT
from lrp_fx.errors import InputError, Problem, UnsupportedOperatorError
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.program import Program
from lrp_fx.ir.source import describe, module_path, source_line
from lrp_fx.rewrite.application import Application, Rewritten

#: For operations that rules serve, but not in this use of them.
_WHAT_TO_SPELL = (
    "write it as what it came near to, if it is that; else put a Recogniser that knows it into a file under "
    "lrp_fx/recognize/ (lrp-fx recognisers)"
)


def check_types(rewritten: Rewritten) -> None:
    """Refuse integers where the model computes with floats: nothing could be said of single numbers then."""
    names = {
        node: info
        for info, node in zip(rewritten.program.inputs, rewritten.program.input_nodes().values(), strict=True)
    }
    for leaf, kind in rewritten.leaves.items():
        source = next(iter(leaf.all_input_nodes), None)
        info = names.get(source) if source is not None else None
        if kind == CONTENT and info is not None and info.is_index and op_name(leaf) == "aten._to_copy":
            raise InputError(
                f"{info.name} has type {info.dtype}, but the model computes with it as floats: pass a float tensor"
            )


def refuse_underivable(applications: Iterable[Application]) -> None:
    """Raise `UnsupportedOperatorError` where relevance needs the transpose of an operation that has none, or a wrong
    one.

    (The identity rule of elementwise functions needs values only.)
    """
    problems = [
        _problem(
            a,
            f"needs a derivative: {a.why}",
            f"give {op_name(a.node)} one (torch.library.register_autograd), or {_what_to_write(a)}",
        )
        for a in applications
        if a.facts.get("derivative") is False and a.rule.kind != "elementwise"
    ]
    if problems:
        raise UnsupportedOperatorError(
            f"{len(problems)} operation(s) have no usable derivative\n" + "\n".join(map(str, problems))
        )


def refuse_untraced_derivative(a: Application) -> None:
    """Raise `UnsupportedOperatorError` for an operation of another library that differentiates where it is run and
    shows a trace none (nothing of its kernel): its relevance would vanish.
    """
    name = op_name(a.node)
    problem = _problem(
        a,
        f"needs a derivative, and {name} has none of its own that a trace could see",
        f"of a layer with quantised weights, explain lrp_fx.dequantised(model); else give {name} a derivative "
        f"(torch.library.register_autograd), or {_what_to_write(a)}",
    )
    raise UnsupportedOperatorError(f"an operation has no usable derivative\n{problem}")


def refuse_approximations(rewritten: Rewritten) -> None:
    """Raise `UnsupportedOperatorError` with every node whose rule is not exact, and what it came nearest to; or with
    the places where values leave torch.
    """
    problems = approximations(rewritten)
    if problems:
        raise UnsupportedOperatorError(
            f"{len(problems)} operation(s) have no exact relevance rule\n" + "\n".join(map(str, problems))
        )
    if rewritten.program.outside and not rewritten.ruleset.as_autograd:
        raise UnsupportedOperatorError(outside_of(rewritten.program))


def outside_of(program: Program) -> str:
    """What it means that values were taken out of torch."""
    return (
        "values of the inputs leave torch, as numbers that Python computes with or as arrays "
        f"({'; '.join(program.outside)}): what is made of them there is a constant to the explanation, and its "
        "relevance is booked as bias\n    next: compute it with torch's operations on the tensor itself"
    )


def approximations(rewritten: Rewritten) -> list[Problem]:
    """The operations that no rule serves exactly: why, the recognisers that came nearest, and what to write."""
    return [
        _problem(
            a,
            f"closest: {a.rule.name}, refused in strict mode: {a.why}",
            f"{_next_step(a)}; or convert with strict=False and read the sink",
            tuple(f"not {refusal}" for refusal in rewritten.why(a.node).nearest()),
        )
        for a in rewritten.applications.values()
        if not a.rule.exact
    ]


def _problem(a: Application, why: str, next_step: str, nearest: tuple[str, ...] = ()) -> Problem:
    where = f"{module_path(a.node) or 'model'}, {source_line(a.node)}"
    return Problem(describe(a.node), where, why, next_step, nearest)


def _next_step(a: Application) -> str:
    """A rule for an operation that none lists, else another spelling or a recogniser."""
    return _what_to_write(a) if a.how == "inferred" else _WHAT_TO_SPELL


def _what_to_write(a: Application) -> str:
    """The rule that is missing, as a line of code to start from."""
    name = op_name(a.node)
    rule = f'register(Rule(name="{name}", kind="...", law="...", cites=("...",), ops=("{name}",), surrogate=...))'
    where = "in a file under rules/, its surrogate equal in value and linear in what carries (docs/adding_a_rule.md)"
    return f"write {rule} {where}"
