"""Put: dictionaries written into a program, each between an activation and all that reads it.

requires  a canonical program with its facts, and the places of the dictionaries
ensures   the program's outputs as they were, to the bit: what reads an activation reads ``reconstructed(x, x_hat)``,
          which is ``x``, and whose relevance goes to ``x_hat``; encoder and decoder are part of the graph, canonical as
          all of it, their weights its attributes, and the latents of each carry its place's name (`LATENTS`)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

import lrp_fx.kernels.reconstructed  # noqa: F401  (makes the operation)
from lrp_fx.analysis.provenance import CONTENT, Facts
from lrp_fx.canonicalize.passes import canonicalize
from lrp_fx.dictionaries.dictionary import Dictionary
from lrp_fx.dictionaries.parts import Parts, inlined, traced
from lrp_fx.errors import InputError
from lrp_fx.ir.facts import Fact
from lrp_fx.ir.graph import output_node, value_of
from lrp_fx.ir.operators import has, operand_of
from lrp_fx.ir.program import Program, copy_graph
from lrp_fx.rewrite.assign import rewrite
from lrp_fx.rule import Registry, Ruleset
from lrp_fx.structure.places import LATENTS, Places
from lrp_fx.structure.structure import find_structure


@dataclass(frozen=True)
class _Put:
    """A dictionary and the nodes that it reconstructs and reads."""

    name: str
    dictionary: Dictionary
    node: fx.Node
    reads: fx.Node


def put_dictionaries(
    program: Program, facts: Facts, dictionaries: Mapping[str, Dictionary], ruleset: Ruleset, registry: Registry
) -> Program:
    """The program with dictionaries at their places. Raises `InputError` for places that there are not, for two at one
    place, and for a dictionary that does not fit its place.
    """
    rewritten = rewrite(program, facts, ruleset, registry)
    places = Places(rewritten, find_structure(rewritten))
    puts = [_found(places, name, each) for name, each in dictionaries.items()]
    _require_apart(puts)
    _require_earlier(program, puts)
    module, env = copy_graph(program)
    order = {node: i for i, node in enumerate(program.graph.nodes)}
    latents = {put.name: _put(module, put, env) for put in sorted(puts, key=lambda put: order[put.node])}
    # An extra output of the graph while it is made canonical: what takes the place of latents is theirs then.
    _return_too(module.graph, latents.values())
    result = canonicalize(replace(program, module=module))
    for name, node in zip(latents, _take_back(result.graph, len(latents)), strict=True):
        node.meta[LATENTS] = name
    result.module.recompile()
    return result


def require_dependence(program: Program, facts: Facts) -> None:
    """Raise `InputError` for a dictionary whose result is a constant: relevance could not get to what it reads."""
    for node in program.graph.nodes:
        if has(node, Fact.RECONSTRUCTION) and CONTENT not in facts.sources[operand_of(node, 1)]:
            raise InputError(
                f"the dictionary at %{operand_of(node).name} reconstructs nothing of what it reads: its result is a "
                "constant\n    next: decode has to compute with the latents that it is given, encode with what it reads"
            )


def _found(places: Places, name: str, dictionary: Dictionary) -> _Put:
    node = places.one(name).node
    reads = places.one(dictionary.reads).node if dictionary.reads is not None else node
    return _Put(f"{name}.{LATENTS}", dictionary, node, reads)


def _require_apart(puts: Sequence[_Put]) -> None:
    names: dict[fx.Node, str] = {}
    for put in puts:
        first = names.setdefault(put.node, put.name)
        if first != put.name:
            a, b = (n.removesuffix(f".{LATENTS}") for n in (first, put.name))
            raise InputError(
                f"two dictionaries at one value: {a!r} and {b!r} are both %{put.node.name}"
                "\n    next: put one of them there, or make one dictionary of them"
            )


def _require_earlier(program: Program, puts: Iterable[_Put]) -> None:
    """A dictionary reads what is computed before what it reconstructs."""
    order = {node: i for i, node in enumerate(program.graph.nodes)}
    for put in puts:
        if order[put.reads] > order[put.node]:
            raise InputError(
                f"the dictionary at {put.name.removesuffix(f'.{LATENTS}')!r} reads {put.dictionary.reads!r} "
                f"(%{put.reads.name}), which is computed after %{put.node.name}\n    next: reads= takes a place before "
                "the one that is reconstructed"
            )


def _put(module: fx.GraphModule, put: _Put, env: dict[fx.Node, fx.Node]) -> fx.Node:
    """One dictionary behind its activation; the latents."""
    graph, x = module.graph, env[put.node]
    # `env` follows: a later dictionary that reads this activation reads what everybody reads.
    read = env[put.reads]
    parts: Parts = traced(put.name, put.dictionary, put.node, value_of(read))
    with graph.inserting_after(x):
        anchor = graph.call_function(torch.ops.lrp_fx.reconstructed.default, (x, x))
    x.replace_all_uses_with(anchor, delete_user_cb=lambda user: user is not anchor)
    with graph.inserting_before(anchor):
        latents, x_hat = inlined(module, parts, read, put.node)
    anchor.args = (x, x_hat)
    anchor.meta = {**x.meta}
    env[put.node] = anchor
    return latents


def _return_too(graph: fx.Graph, nodes: Iterable[fx.Node]) -> None:
    output = output_node(graph)
    output.args = ((*output.args[0], *nodes),)  # type: ignore[misc]


def _take_back(graph: fx.Graph, count: int) -> list[fx.Node]:
    output = output_node(graph)
    flat: tuple[fx.Node, ...] = tuple(output.args[0])  # type: ignore[arg-type]
    output.args = (flat[: len(flat) - count],)
    return list(flat[len(flat) - count :])
