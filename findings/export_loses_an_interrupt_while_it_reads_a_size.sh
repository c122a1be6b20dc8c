#!/usr/bin/env bash
# torch 2.13.0: an interrupt that comes while torch.export reads a symbolic size ends in an error of types, or in nothing.
#
# Sizes are read by Python code that C++ calls for each argument. What is raised in it (Ctrl-C, a handler of a signal, a
# MemoryError of Python's allocator) is caught there and kept as text: "argument 'size' failed to unpack the object at
# pos 1 with error "KeyboardInterrupt: <EMPTY MESSAGE>"" (a TypeError), or "Expected a value of type 'List[int]' ...
# Python error details: KeyboardInterrupt" (a RuntimeError). A caller that goes on after errors of an export, as one
# does to trace with fixed sizes instead, goes on after Ctrl-C too; one that knows an interrupt by its class sees none.
# Seen: of interrupts at each of the reads of one small export (a reshape to sizes of the input, a sum) most come
# through as KeyboardInterrupt; some become a TypeError, and some a RuntimeError.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q "torch==2.13.0" numpy
"$folder/venv/bin/python" -W ignore - <<'PYTHON' 2> /dev/null
from collections import Counter

import torch
from torch import nn
from torch.fx.experimental.sym_node import SymNode


class Reshape(nn.Module):
    def forward(self, x):
        rows, columns = x.shape
        return x.view(columns, rows).sum(0)


def export():
    sizes = {0: torch.export.Dim("rows"), 1: torch.export.Dim("columns")}
    return torch.export.export(Reshape(), (torch.randn(3, 5),), dynamic_shapes=(sizes,))


def interrupted(moment):
    """What the export ends in if Ctrl-C comes at this read of a size; None where there are no more."""
    reads = 0

    def is_int(self):
        nonlocal reads
        reads += 1
        if reads - 1 == moment:
            raise KeyboardInterrupt
        return read(self)

    read, SymNode.is_int = SymNode.is_int, is_int
    try:
        export()
    except BaseException as error:
        assert "KeyboardInterrupt" in (type(error).__name__ + str(error)), error
        return type(error).__name__
    finally:
        SymNode.is_int = read
    return "nothing was raised" if reads > moment else None


export()
became = Counter()
moment = 0
while (ended := interrupted(moment)) is not None:
    became[ended] += 1
    moment += 1
print(torch.__version__, dict(became))
assert became["KeyboardInterrupt"] and became["TypeError"] and became["RuntimeError"], "the behaviour has changed"
PYTHON
