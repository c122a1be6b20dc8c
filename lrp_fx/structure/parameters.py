"""Parameters: which values of a program are a model's parameters, or are made of nothing else."""

from __future__ import annotations

from torch import fx, nn

from lrp_fx.analysis.provenance import CACHED, CONTENT
from lrp_fx.ir.graph import is_float
from lrp_fx.rewrite.application import Rewritten


def made_of_parameters(rewritten: Rewritten) -> dict[fx.Node, tuple[str, ...]]:
    """Values that are parameters, or made of them with nothing of the inputs in them but indices and masks: the
    attributes of the program that they are made of. (Where relevance ends the model's own values begin.)
    """
    program, sources = rewritten.program, rewritten.facts.sources
    made: dict[fx.Node, tuple[str, ...]] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            held = getattr(program.module, str(node.target), None)
            if isinstance(held, nn.Parameter) and (held.is_floating_point() or held.is_complex()):
                made[node] = (str(node.target),)
        elif node.op == "call_function" and is_float(node) and node not in rewritten.applications:
            operands = [a for a in node.all_input_nodes if is_float(a)]
            parts = [a for a in operands if a in made and a not in rewritten.leaves]
            others = [a for a in operands if a not in parts]
            if parts and not any({CONTENT, CACHED} & sources.get(a, frozenset()) for a in others):
                made[node] = tuple(dict.fromkeys(name for a in parts for name in made[a]))
    return made
