"""Source: a node in words, and where it stands in the user's code."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import fx

TORCH_FOLDER = os.path.dirname(torch.__file__).replace("\\", "/") + "/"


def describe(node: fx.Node) -> str:
    """A node as one line of the graph: ``%mul_7 = aten.mul(%a, %b)``."""
    args = ", ".join(f"%{a}" if isinstance(a, fx.Node) else str(a) for a in node.args)
    return f"%{node.name} = {node.target}({args})"


def module_path(node: fx.Node) -> str:
    """Dotted path of the module that issued the node, empty for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values() if isinstance(entry, tuple)]
    return str(paths[-1]) if paths else ""


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
