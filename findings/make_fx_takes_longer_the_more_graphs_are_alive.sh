#!/usr/bin/env bash
# torch 2.13.0: tracing a function of one tensor with make_fx takes several times as long where thousands of graph
# modules are alive, though it has nothing to do with them.
#
# Every trace puts methods of its own on nn.Module and takes them off again, four changes of a class. Python tells each
# subclass of a class of every change, and every GraphModule is an instance of a class made for it alone. A process that
# keeps many graphs (a compiler, a test session) pays for each of them in each trace. Nor does the note by which a patch
# is to be told from the method work: it is written as `_Patcher__fx_already_patched`, since its class has the compiler
# of Python rename it, and asked for as `__fx_already_patched`.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q "torch==2.13.0" numpy
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import time

import torch
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx


def milliseconds() -> float:
    """The least of several: what else runs on the machine adds to the others."""
    found = []
    for _ in range(30):
        begun = time.process_time()
        make_fx(lambda x: x * 2)(torch.ones(3))
        found.append((time.process_time() - begun) * 1e3)
    return min(found)


milliseconds()
few = milliseconds()
graph = fx.symbolic_trace(nn.Identity()).graph
kept = [fx.GraphModule(nn.Module(), graph) for _ in range(5000)]
many = milliseconds()
print(f"a trace: {few:.2f} ms, with 5,000 graph modules alive {many:.2f} ms")
assert many > 2 * few, "the behaviour has changed"

seen = []


def looks(x):
    seen.append({n for n in vars(nn.Module.__call__) if "fx_already_patched" in n})
    return x * 2


make_fx(looks)(torch.ones(3))
print("the method that is put on nn.Module is marked", seen[-1])
assert seen[-1] == {"_Patcher__fx_already_patched"}, "the behaviour has changed"
PYTHON
