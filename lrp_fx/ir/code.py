"""Code: a flat graph as a Python function, or run once without one.

The code of `torch.fx` is written to be read: with names of values and operations, which Python then looks up in every
call. This is written to be run: in half the time, and with operations that are looked up once. It pays from the second
run on; the first goes from node to node.

requires  a flat graph: function calls, attributes of the module, inputs, one output
ensures   the same calls in the same order; a value is let go behind the last call that reads it
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from operator import attrgetter
from typing import Any

from torch import fx

#: A call's operation, and further keyword arguments, in place of what its node says.
Instead = Mapping[fx.Node, tuple[Any, dict[str, Any]]]
#: Written as they are; everything else is a global variable.
_PLAIN = (bool, int, str, type(None))


def function_of(graph: fx.Graph, instead: Instead | None = None) -> Callable[..., Any]:
    """``function(module, *inputs)``; ``instead``: calls that are to be others.

    Raises `NotImplementedError` for nodes that a flat graph does not have.
    """
    return _Writer(graph, instead or {}).function()


def run_once(graph: fx.Graph, module: Any, inputs: Sequence[Any], instead: Instead | None = None) -> Any:
    """What ``function_of(graph, instead)(module, *inputs)`` gives."""
    others, spent, given = instead or {}, read_last(graph), iter(inputs)
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "output":
            return fx.map_arg(node.args[0], values.__getitem__)
        if node.op == "placeholder":
            values[node] = next(given, *node.args)
            continue
        if node.op == "get_attr":
            values[node] = attrgetter(str(node.target))(module)
        else:
            target, more = others.get(node) or (node.target, {})
            args, kwargs = fx.map_arg((node.args, {**node.kwargs, **more}), values.__getitem__)
            values[node] = target(*args, **kwargs)
        for read in spent.get(node, ()):
            del values[read]
    raise AssertionError("a flat graph has an output")


def read_last(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """The values that nobody reads behind a node."""
    spent: dict[fx.Node, list[fx.Node]] = {}
    seen: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        for read in node.all_input_nodes if node.users or node.op == "output" else [node, *node.all_input_nodes]:
            if read not in seen:
                seen.add(read)
                spent.setdefault(node, []).append(read)
    return spent


class _Writer:
    """``names``: of values; ``constants``: global variables, and their names by the identity of what they hold."""

    def __init__(self, graph: fx.Graph, instead: Instead) -> None:
        self.graph, self.instead = graph, instead
        self.names = {node: f"v{i}" for i, node in enumerate(graph.nodes)}
        self.constants: dict[str, Any] = {"__name__": __name__}
        self._known: dict[int, str] = {}

    def function(self) -> Callable[..., Any]:
        head, lines = ["module"], []
        last = read_last(self.graph)
        for node in self.graph.nodes:
            name = self.names[node]
            if node.op == "placeholder":
                head.append(f"{name}={self.text(node.args[0])}" if node.args else name)
            elif node.op == "output":
                lines.append(f" return {self.text(node.args[0])}")
            else:
                lines.append(" = ".join([f" {name}", self._value(node)]))
                if spent := last.get(node):
                    lines.append(" " + " = ".join([*(self.names[read] for read in spent), "None"]))
        exec(compile("\n".join([f"def forward({', '.join(head)}):", *lines]), "<flat graph>", "exec"), self.constants)
        function: Callable[..., Any] = self.constants["forward"]
        return function

    def _value(self, node: fx.Node) -> str:
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        if node.op != "call_function":
            raise NotImplementedError(f"%{node.name} is no call of a function: {node.op}")
        target, more = self.instead.get(node, (node.target, {}))
        if target is operator.getitem:
            return f"{self.text(node.args[0])}[{self.text(node.args[1])}]"
        arguments = [self.text(a) for a in node.args]
        arguments += [f"{n}={self.text(a)}" for n, a in {**node.kwargs, **more}.items()]
        return f"{self._constant(target)}({', '.join(arguments)})"

    def _attribute(self, path: str) -> str:
        text = "module"
        for part in path.split("."):
            text = f"{text}.{part}" if part.isidentifier() else f"getattr({text}, {part!r})"
        return text

    def text(self, argument: Any) -> str:
        """An argument as Python."""
        if isinstance(argument, fx.Node):
            return self.names[argument]
        if type(argument) in _PLAIN or (type(argument) is float and isfinite(argument)):
            return repr(argument)
        if isinstance(argument, slice):
            return f"slice({self.text(argument.start)}, {self.text(argument.stop)}, {self.text(argument.step)})"
        if isinstance(argument, dict):
            return "{" + ", ".join(f"{self.text(k)}: {self.text(v)}" for k, v in argument.items()) + "}"
        if isinstance(argument, list):
            return "[" + ", ".join(map(self.text, argument)) + "]"
        if isinstance(argument, tuple):
            return "(" + "".join(f"{self.text(a)}, " for a in argument) + ")"
        return self._constant(argument)

    def _constant(self, value: Any) -> str:
        name = self._known.get(id(value))
        if name is None:
            name = self._known[id(value)] = f"c{len(self._known)}"
            self.constants[name] = value  # held, so that nothing else gets its identity
        return name
