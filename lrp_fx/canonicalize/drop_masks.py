"""Drop masks: attention to everything, or to everything before, without a mask written out query by key.

Where nothing is padded, a mask says nothing, and the fused kernels need none: memory then grows with the length and not
with its square. What a mask says depends on sizes, and on the mask inputs of a call where these hold one number
everywhere. A few small sizes tell what it may be; the sizes of a call are computed once, before that is relied on (a
window of 512 tokens is a causal mask for 500 tokens, and none for 600).

requires  a canonical program; for some mask inputs, one number that they hold everywhere
ensures   the same outputs for the calls that the guard admits
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor, fx

from lrp_fx.guards.guard import Constants
from lrp_fx.guards.masks import MaskGraph, MaskGuard, Shapes, kinds, mask_graph
from lrp_fx.ir.graph import op_name, value_of
from lrp_fx.ir.operators import argument
from lrp_fx.ir.program import Program, copy_graph
from lrp_fx.ir.sizes import same_shape

_PROBES = (1, 2, 3, 6, 11)
_SDPA = "aten.scaled_dot_product_attention"


def drop_full_masks(program: Program, constants: Constants) -> tuple[Program, MaskGuard | None]:
    """The program for calls in which the masks hold these numbers, and what that assumes; the same object, and None,
    where it changes nothing.
    """
    masks = _Masks(program, constants)
    module, env = copy_graph(program)
    used: dict[fx.Node, str] = {}
    for node in program.graph.nodes:
        if op_name(node) == _SDPA:
            used |= _without_mask(node, env[node], masks)
        elif op_name(node) == "aten.add" and constants:
            used |= _without_zeros(node, env, masks)
    if not used:
        return program, None
    for old in reversed(
        list(program.graph.nodes)
    ):  # not what nobody read before either: scores of chosen weights wait for relevance
        if old.users and not env[old].users and old.op in ("call_function", "get_attr"):
            module.graph.erase_node(env[old])
    module.recompile()
    return replace(program, module=module), MaskGuard(mask_graph(program, list(used)), constants, tuple(used.values()))


def _without_mask(node: fx.Node, new: fx.Node, masks: _Masks) -> dict[fx.Node, str]:
    """Fused attention without its mask, if that says nothing or that attention is causal."""
    mask, dropout, causal = (argument(node, name) for name in ("attn_mask", "dropout_p", "is_causal"))
    if not isinstance(mask, fx.Node) or causal or (pattern := masks.pattern(mask)) is None:
        return {}
    new.args = (
        *(new.args[i] if i < len(new.args) else new.kwargs[n] for i, n in enumerate(("query", "key", "value"))),
        None,
        dropout,
        pattern == "causal",
    )
    new.kwargs = {n: a for n, a in new.kwargs.items() if n in ("scale", "enable_gqa")}
    return {mask: pattern}


def _without_zeros(node: fx.Node, env: dict[fx.Node, fx.Node], masks: _Masks) -> dict[fx.Node, str]:
    """Scores without a mask that adds nothing to them."""
    for scores, mask in (node.args[:2], node.args[1::-1]):
        if (
            not isinstance(scores, fx.Node)
            or not isinstance(mask, fx.Node)
            or node.kwargs
            or not masks.reads_a_mask(mask)
        ):
            continue
        alike = same_shape(value_of(scores), value_of(node)) and value_of(scores).dtype == value_of(node).dtype
        if alike and masks.pattern(mask) == "all":
            env[node].replace_all_uses_with(env[scores])
            env[node] = env[scores]
            return {mask: "all"}
    return {}


class _Masks:
    """What the masks in a program may be, found once each."""

    def __init__(self, program: Program, constants: Constants) -> None:
        self.program, self.constants = program, constants
        self.known: dict[fx.Node, str | None] = {}
        inputs, names = program.input_nodes(), {name for name, _ in constants}
        self.readers = _dependents(program, {node for name, node in inputs.items() if name in names})
        self.open = _dependents(program, {node for name, node in inputs.items() if name not in names})

    def reads_a_mask(self, node: fx.Node) -> bool:
        """Is it made of constant masks, and of nothing that is not known?"""
        value = value_of(node)
        return (
            node in self.readers and node not in self.open and isinstance(value, Tensor) and value.is_floating_point()
        )

    def pattern(self, node: fx.Node) -> str | None:
        """``all``, ``causal`` or None: what a mask is for a few small sizes, if it depends on sizes and constants
        alone.
        """
        if node not in self.known:
            self.known[node] = None if node in self.open else self._found(mask_graph(self.program, [node]))
        return self.known[node]

    def _found(self, made: MaskGraph) -> str | None:
        found = [kinds(made, made.masks[0], self.constants, shapes) for shapes in _probes(self.program)]
        return next((kind for kind in ("all", "causal") if all(kind in k for k in found)), None)


def _dependents(program: Program, inputs: set[fx.Node]) -> set[fx.Node]:
    """All that is computed from the values of inputs (not from their sizes), with the inputs."""
    found = set(inputs)
    for node in program.graph.nodes:
        if op_name(node) != "aten.sym_size" and any(a in found for a in node.all_input_nodes):
            found.add(node)
    return found


def _probes(program: Program) -> Iterator[Shapes]:
    """Small shapes for the inputs: every symbol its own size, those of first axes (batches) small."""
    shapes = {name: value_of(node).shape for name, node in program.input_nodes().items()}
    first = {str(s[0]) for s in shapes.values() if len(s)}
    symbols = list(dict.fromkeys(str(size) for shape in shapes.values() for size in shape))
    others = [s for s in symbols if s not in first]
    for tokens in _PROBES:
        sizes = dict.fromkeys(first, 2) | {symbol: tokens + 3 * i for i, symbol in enumerate(others)}
        yield {name: tuple(s if isinstance(s, int) else sizes[str(s)] for s in shape) for name, shape in shapes.items()}
