#!/usr/bin/env bash
# torch 2.13.0: torch.export (not strict) leaves other lists and dictionaries in a module than it held before.
#
# Before it traces it keeps a copy of the attributes of modules (a map over their trees), to notice and undo writes to
# them, and it puts that copy back whatever was written: the same leaves in new containers. Whoever kept the list (a
# configuration that is shared, a registry, a scheduler) writes to one that the model no longer reads, and two modules
# that shared one list no longer do. Nothing is said. Attributes that are no trees (objects, sets) stay what they were.
# Seen: after one export `module.steps is steps` is false for a list and a dictionary, and true for a set; a write to the
# list changes the model's output before the export and not after it; modules that shared a list have one each.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q "torch==2.13.0" numpy
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn


class Scaled(nn.Module):
    def __init__(self, steps, names, kinds):
        super().__init__()
        self.steps, self.names, self.kinds = steps, names, kinds

    def forward(self, x):
        return x * self.steps[0] * self.names["scale"]


steps, names, kinds = [2.0], {"scale": 1.0}, {1}
model = nn.Sequential(Scaled(steps, names, kinds), Scaled(steps, names, kinds))
x = torch.ones(2)
before = float(model(x)[0])
steps[0] = 3.0
written = float(model(x)[0])
torch.export.export(model, (x,), strict=False)
held = [(layer.steps is steps, layer.names is names, layer.kinds is kinds) for layer in model]
shared = model[0].steps is model[1].steps
steps[0] = 4.0
after = float(model(x)[0])
print(torch.__version__, before, written, after, held, shared)
assert (before, written) == (4.0, 9.0)
assert held == [(False, False, True)] * 2 and not shared and after == 9.0, "the behaviour has changed"
PYTHON
