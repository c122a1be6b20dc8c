#!/usr/bin/env bash
# torch 2.13.0: the result of max_pool1d lies in memory otherwise than its abstract value says, so that torch.export
# leaves out a .contiguous() that is needed, and the exported program fails where the model runs.
#
# Of a transposed value (3, 8, 5) with strides (40, 1, 8), the kernel on a CPU returns strides (40, 5, 1), the abstract
# value has (40, 1, 8): transposed back, it is contiguous while exporting, and is not when run. What needs the copy then
# fails (view_as_complex: "Tensor must have a last dimension with stride 1"; view: "not compatible with ... stride").
# Seen: strides (40, 5, 1) and (40, 1, 8); the model runs, the exported program raises RuntimeError, strict or not.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q "torch==2.13.0" numpy
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional


class Model(nn.Module):
    def forward(self, x):
        y = functional.max_pool1d(x.mT, 3, 1, 1).mT.contiguous()
        return y.view(-1)


model, x = Model().eval(), torch.randn(3, 5, 8)
real = functional.max_pool1d(x.mT, 3, 1, 1).stride()
with FakeTensorMode() as fake:
    abstract = functional.max_pool1d(fake.from_tensor(x).mT, 3, 1, 1).stride()
said = []
for strict in (False, True):
    try:
        said.append(torch.export.export(model, (x,), strict=strict).module()(x).shape)
    except RuntimeError as error:
        said.append(str(error).splitlines()[0])
print(torch.__version__, real, abstract, model(x).shape, *said, sep="\n")
assert (real, abstract) == ((40, 5, 1), (40, 1, 8)), "the behaviour has changed"
assert all("stride" in str(line) for line in said), "the behaviour has changed"
PYTHON
