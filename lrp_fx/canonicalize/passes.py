"""The passes of canonicalisation: one spelling per idea, so that later stages need to know only one.

requires  a well-formed program
ensures   a functional graph without bookkeeping operations, no-op casts, dead code or repeated computations; outputs
          unchanged (in a float64 program the model's forced float32 islands are computed in float64 instead)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from lrp_fx.canonicalize.chosen_softmax import chosen_scores, note_roles, renormalised
from lrp_fx.canonicalize.decompositions import DECOMPOSITIONS
from lrp_fx.canonicalize.explicit import check_explicit, make_explicit
from lrp_fx.canonicalize.idle import drop_idle
from lrp_fx.canonicalize.integers import write_integers
from lrp_fx.canonicalize.joined import take_parts
from lrp_fx.canonicalize.late_division import divide_first
from lrp_fx.canonicalize.masked_exponentials import hide_exponents
from lrp_fx.canonicalize.numbers import write_numbers
from lrp_fx.canonicalize.numbers_last import put_numbers_last
from lrp_fx.canonicalize.opaque_maps import write_opaque_maps
from lrp_fx.canonicalize.precision import promote_precision
from lrp_fx.errors import LrpError
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import deduplicate, drop_dead_code, op_name, sets_strides, value_of
from lrp_fx.ir.operators import argument, has, is_foreign_composite, may_be_view, operator_of, same_operation
from lrp_fx.ir.passes import Keeps, Pass, run
from lrp_fx.ir.program import Program, check_well_formed, copy, size
from lrp_fx.ir.sizes import END
from lrp_fx.ir.traces import Traces
from lrp_fx.ir.tracing import inline_decomposed
from lrp_fx.rule import registry

aten = torch.ops.aten


def _rewrite(program: Program, edit: Callable[[fx.Graph, fx.Node], None]) -> Program:
    """Edit the graph of a program that nobody else holds."""
    graph = program.graph
    for node in list(graph.nodes):
        if node.op == "call_function":
            edit(graph, node)
    return _tidied(program)


def _tidied(program: Program) -> Program:
    """Without dead code, and its code written anew."""
    drop_dead_code(program.graph)
    program.module.recompile()
    return program


def remove_bookkeeping(program: Program) -> Program:
    """Drop assertions, identities, slices of all, casts to the type a value has, and products with the number 1."""

    def edit(graph: fx.Graph, node: fx.Node) -> None:
        if has(node, Fact.ASSERTION):
            graph.erase_node(node)
        elif (
            ((has(node, Fact.IDENTITY) or _is_times_one(node)) and not sets_strides(node))
            or _is_cast_to_self(node)
            or _is_whole(node)
        ):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            if isinstance(value_of(node), tuple):  # (value, mask) pairs of native dropout in eval mode
                for user in list(node.users):
                    user.replace_all_uses_with(source)
                    graph.erase_node(user)
            else:
                node.replace_all_uses_with(source)
            graph.erase_node(node)

    return _rewrite(program, edit)


def decompose(program: Program) -> Program:
    """Replace synonyms by one name each."""
    note_roles(program)  # what is a mask is one of weights, too

    def edit(graph: fx.Graph, node: fx.Node) -> None:
        if op_name(node) in DECOMPOSITIONS:
            DECOMPOSITIONS[op_name(node)](graph, node)
        elif (plain := same_operation(node)) is not None:
            node.target = plain

    return _rewrite(program, edit)


def open_composites(program: Program) -> Program:
    """Write composite operations that may return a view of their operand (``chunk``, ``movedim``) as simpler ones.

    Those without views stay whole: many are what rules speak of (a softmax, a normalisation, attention). Of those that
    are none of torch's (quantisers'), no rule speaks, but for rules of the user's own.
    """
    traces = Traces()

    def edit(graph: fx.Graph, node: fx.Node) -> None:
        opens = may_be_view(node) and op_name(node) not in DECOMPOSITIONS and not _is_one_of_ours(node)
        if opens or (is_foreign_composite(node) and not any(op_name(node) in r.ops for r in registry.rules.values())):
            _put(graph, node, inline_decomposed(graph, node, traces))

    return _rewrite(program, edit)


def _put(graph: fx.Graph, node: fx.Node, result: Any) -> None:
    """A result, or one for each part, in place of a call."""
    if isinstance(result, fx.Node):
        node.replace_all_uses_with(result)
    for part in list(node.users):
        part.replace_all_uses_with(result[part.args[1]])
        graph.erase_node(part)
    graph.erase_node(node)


def _is_one_of_ours(node: fx.Node) -> bool:
    """Does a later pass drop it or give it another name, or is it the name that others are given?"""
    return has(node, Fact.IDENTITY) or operator_of(node).same_as is not None or op_name(node) == "aten.reshape"


def expand_contractions(program: Program) -> Program:
    """Write einsum and its kin as the moves and matrix products they are made of, recurrent layers as their cells:
    dataflow needs to see inside.
    """

    traces = Traces()

    def edit(graph: fx.Graph, node: fx.Node) -> None:
        if has(node, Fact.FORMULA):
            _put(graph, node, inline_decomposed(graph, node, traces))

    return _rewrite(program, edit)


def _write_integers(program: Program) -> Program:
    """Let relevance pass where a model rounds to integers."""
    return _tidied(write_integers(program))


def write_explicit_arguments(program: Program) -> Program:
    """Write the arguments of every call in one form."""
    return _rewrite(program, make_explicit)


def read_parts(program: Program) -> Program:
    """Read what was joined and taken apart again where it was made."""
    return _rewrite(program, take_parts)


def numbers_last(program: Program) -> Program:
    """Let factors with a number in them stand last in their chains."""
    put_numbers_last(program.graph)
    return _tidied(program)


def share_common_subexpressions(program: Program) -> Program:
    """Compute equal expressions once: dominance speaks of graph paths, so two copies would look independent."""
    deduplicate(program.graph)
    program.module.recompile()
    return program


def write_weights(program: Program) -> Program:
    """Mask exponentials before they are any, divide weights by their sum before they meet values, and leave out what
    does nothing to them.
    """
    note_roles(program)
    return _rewrite(_rewrite(_rewrite(program, hide_exponents), divide_first), drop_idle)


def write_chosen_scores(program: Program) -> Program:
    """Put the scores of chosen weights that are divided by their sum beside the division: it is their softmax.

    No operation reads them: they are dead code unless relevance takes that way. So this pass comes last.
    """
    graph = program.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and (found := renormalised(node)) is not None and chosen_scores(node) is None:
            with graph.inserting_before(node):
                found.write(graph, node)
    program.module.recompile()
    return program


def check_canonical(program: Program) -> None:
    """Raise unless every node is functional and none is mere bookkeeping."""
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if has(node, Fact.IDENTITY | Fact.ASSERTION) and not sets_strides(node):
            raise LrpError(f"%{node.name} = {op_name(node)} should be gone after canonicalisation")
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            raise LrpError(f"%{node.name} = {node.target} mutates its argument")


def check_no_views(program: Program) -> None:
    """Raise if a view (which needs matching strides) is left."""
    for node in program.graph.nodes:
        if operator_of(node).same_as == "reshape.default":
            raise LrpError(f"%{node.name} = {node.target} needs matching strides: make it a reshape first")


def _pass(name: str, purpose: str, apply: Callable[[Program], Program], **specs: Any) -> Pass[Program]:
    """A pass of this package: every program is well formed before and after it."""
    specs = {"requires": (), "ensures": ()} | specs
    requires, ensures = (check_well_formed, *specs["requires"]), (check_well_formed, *specs["ensures"])
    return Pass(
        name, purpose, apply, specs.get("keeps", Keeps.BITS), copy=copy, requires=requires, ensures=ensures, size=size
    )


PASSES = (
    _pass(
        "write_numbers",
        "numbers that Python reads of tensors and computes on with become tensors",
        write_numbers,
        keeps=Keeps.ROUNDING,
    ),
    _pass(
        "open_composites", "composite operations that may return views become what they are made of", open_composites
    ),
    _pass(
        "write_opaque_maps",
        "kernels without a derivative that are learned linear maps become products with their matrices",
        write_opaque_maps,
        keeps=Keeps.ROUNDING,
    ),
    _pass(
        "expand_contractions",
        "einsum and its kin become moves and matrix products, recurrent layers their cells",
        expand_contractions,
    ),
    # Views become reshapes first: dropping a contiguous copy must not leave a view of strides it cannot have.
    _pass("decompose", "synonyms get one name, composite operations are written as simpler ones", decompose),
    _pass(
        "remove_bookkeeping",
        "assertions, identities, casts to the same type and products with 1 go",
        remove_bookkeeping,
        requires=(check_no_views,),
        ensures=(check_canonical,),
    ),
    _pass(
        "promote_precision",
        "in a float64 model, islands of float32 are computed in float64",
        promote_precision,
        keeps=Keeps.ROUNDING,
    ),
    _pass(
        "remove_casts",
        "casts that have become casts to the same type go",
        remove_bookkeeping,
        requires=(check_no_views,),
        ensures=(check_canonical,),
    ),
    _pass(
        "write_integers",
        "values of content that integers hold are computed in floating point",
        _write_integers,
        requires=(check_canonical,),
        ensures=(check_canonical,),
    ),
    _pass(
        "explicit_arguments",
        "arguments of every call in one form: in their places, axes named and counted from the left",
        write_explicit_arguments,
        requires=(check_canonical,),
        ensures=(check_canonical, check_explicit),
    ),
    _pass(
        "read_parts",
        "parts of what was just joined are read where they were made",
        read_parts,
        requires=(check_canonical, check_explicit),
        ensures=(check_canonical, check_explicit),
    ),
    _pass(
        "numbers_last",
        "in chains of products, factors that are a sum with a number stand last",
        numbers_last,
        keeps=Keeps.ROUNDING,
        requires=(check_canonical, check_explicit),
        ensures=(check_canonical, check_explicit),
    ),
    _pass(
        "share_common_subexpressions",
        "equal expressions are computed once, so that dominance can be read from the graph",
        share_common_subexpressions,
        requires=(check_canonical,),
        ensures=(check_canonical,),
    ),
    _pass(
        "write_weights",
        "weights that sum to one are masked before their exponential, and divided before their product",
        write_weights,
        keeps=Keeps.ROUNDING,
        requires=(check_canonical, check_explicit),
        ensures=(check_canonical, check_explicit),
    ),
    _pass(
        "write_chosen_scores",
        "the scores of chosen and renormalised softmax weights are put beside them",
        write_chosen_scores,
        requires=(check_canonical,),
        ensures=(check_canonical,),
    ),
)


def canonicalize(program: Program) -> Program:
    """All canonicalisation passes in order, on a copy."""
    return run(copy(program), PASSES)[0]


def _is_cast_to_self(node: fx.Node) -> bool:
    if not has(node, Fact.CAST) or not isinstance(node.args[0], fx.Node):
        return False
    before, after = value_of(node.args[0]), value_of(node)
    return isinstance(before, torch.Tensor) and bool(before.dtype == after.dtype and before.device == after.device)


def _is_whole(node: fx.Node) -> bool:
    """Is it ``x[:]``, whatever the sizes of a call?"""
    bounds = [argument(node, name) for name in ("start", "end", "step")] if op_name(node) == "aten.slice" else None
    return bounds is not None and bounds[0] in (None, 0) and bounds[1] in (None, END) and bounds[2] in (None, 1)


def _is_times_one(node: fx.Node) -> bool:
    """Is a value multiplied or divided by the number 1, and of the same type as before?"""
    if not has(node, Fact.SCALING) or len(node.args) != 2 or node.kwargs or not isinstance(node.args[0], fx.Node):
        return False
    one, before, after = node.args[1], value_of(node.args[0]), value_of(node)
    return (
        isinstance(one, (int, float))
        and one == 1
        and isinstance(before, torch.Tensor)
        and bool(before.dtype == after.dtype)
    )
