#!/usr/bin/env bash
# torch 2.13.0: ExportedProgram.run_decompositions({}) changes what a program computes, without an error.
#
# In eval mode dropout returns its very operand, so a later write in place into the operand is seen through dropout's
# result, too. The exported program keeps this (same numbers as the model). After run_decompositions({}), which is
# documented to lower and not to change numbers, dropout is a copy made before the write: other numbers.
# Seen: model and exported program 16, 36, 64; decomposed program 8, 18, 32.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q "torch==2.13.0" numpy
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn


class Model(nn.Module):
    def forward(self, x):
        y = x + 1
        same = nn.functional.dropout(y, 0.5, training=False)
        y.mul_(2)
        return y * same


model, x = Model().eval(), torch.arange(1.0, 4.0)
with torch.no_grad():
    exported = torch.export.export(model, (x,))
    numbers = [f(x).tolist() for f in (model, exported.module(), exported.run_decompositions({}).module())]
print(torch.__version__, *numbers, sep="\n")
assert numbers == [[16.0, 36.0, 64.0], [16.0, 36.0, 64.0], [8.0, 18.0, 32.0]], "the behaviour has changed"
PYTHON
