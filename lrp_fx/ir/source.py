"""Source: a node in words, and where it stands in the user's code."""

from __future__ import annotations

import os
import re
from typing import Any

import torch
from torch import fx

#: How torch.export calls an item of a slice of a list (of one that begins at its end, only the list knows which).
_SLICED = re.compile(r"slice\((None|\d+), (None|-?\d+), (None|\d+)\)\.(\d+)")
#: What it writes where an operation was issued in no module.
_NOWHERE = "_empty_nn_module_stack"
TORCH_FOLDER = os.path.dirname(torch.__file__).replace("\\", "/") + "/"


def describe(node: fx.Node) -> str:
    """A node as one line of the graph: ``%mul_7 = aten.mul(%a, %b)``."""
    args = ", ".join(f"%{a}" if isinstance(a, fx.Node) else str(a) for a in node.args)
    return f"%{node.name} = {node.target}({args})"


def modules_of(node: fx.Node) -> list[tuple[str, str]]:
    """(what torch calls it, dotted path) of the modules that a node was issued in, outermost first; the model itself
    has the path ``""``.
    """
    stack = node.meta.get("nn_module_stack") or {}
    entries = [(str(k), str(v[0])) for k, v in stack.items() if isinstance(v, tuple)]
    return [(key, _SLICED.sub(_item, path)) for key, path in entries if not path.startswith(_NOWHERE)]


def module_path(node: fx.Node) -> str:
    """Dotted path of the module that issued the node, empty for the model itself."""
    found = modules_of(node)
    return found[-1][1] if found else ""


def _item(found: re.Match[str]) -> str:
    """``slice(1, None, 2).1`` as the place in the list, 3."""
    start, step, number = (None if found[i] == "None" else int(found[i]) for i in (1, 3, 4))
    return str((start or 0) + (1 if step is None else step) * (number or 0))


def source_line(node: fx.Node) -> str:
    """``file.py:123: code`` of the innermost frame outside torch that export recorded, or ``unknown source``."""
    trace: Any = node.meta.get("stack_trace")
    lines = [line.strip() for line in trace.splitlines() if line.strip()] if trace else []
    frames = [i for i, line in enumerate(lines) if line.startswith("File ")]
    if not frames:
        return "unknown source"
    frames = [i for i in frames if TORCH_FOLDER not in lines[i].replace("\\", "/")] or frames
    parts = lines[frames[-1]].split('"')
    file = parts[1].replace("\\", "/").rsplit("/", 1)[-1]
    number = parts[2].split("line ")[-1].split(",")[0]
    code = lines[frames[-1] + 1] if frames[-1] + 1 < len(lines) else ""
    return f"{file}:{number}" + (f": {code}" if code else "")
