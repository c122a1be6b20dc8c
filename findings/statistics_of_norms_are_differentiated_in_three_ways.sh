#!/usr/bin/env bash
# torch 2.13.0: the statistics that norms return beside their result are differentiated in three ways.
#
# native_layer_norm: mean and inverse deviation require no gradient, and torch.func gives zeros, forwards and backwards.
# native_group_norm: both say that they require a gradient, but hang on no input: autograd refuses, and in a sum with the
#                    result their part is missing without a word.
# _fused_rms_norm:   the inverse root mean square has the derivative that finite differences have.
#
# Seen: who writes a derivative of a norm with its statistics (as the backward of these norms does) and differentiates
# that loses a part for layer and group norm; gradcheck finds it.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q "torch==2.13.0" numpy
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch

torch.manual_seed(0)
x, v = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
NORMS = {
    "layer": lambda a: torch.native_layer_norm(a, (4,), None, None, 1e-5)[2],
    "group": lambda a: torch.native_group_norm(a.reshape(3, 4, 1), None, None, 3, 4, 1, 1, 1e-5)[2],
    "rms": lambda a: torch.ops.aten._fused_rms_norm(a, [4], None, 1e-5)[1],
}


def seen(norm):
    """[requires a gradient, hangs on the input, derivative along v is right, gradcheck of a product passes]"""
    leaf = x.clone().requires_grad_()
    given = norm(leaf)
    slope = torch.autograd.grad(given.sum(), leaf, allow_unused=True)[0] if given.requires_grad else None
    along = 0.0 if slope is None else float((slope * v).sum())
    change = (norm(x + 1e-6 * v) - norm(x - 1e-6 * v)) / 2e-6
    assert change.abs().max() > 0.1
    product = torch.autograd.gradcheck(lambda a: a * norm(a).reshape(3, 1), (leaf,), raise_exception=False)
    return [given.requires_grad, slope is not None, abs(along - float(change.sum())) < 1e-6, product]


found = {name: seen(norm) for name, norm in NORMS.items()}
forward = torch.func.jvp(NORMS["layer"], (x,), (v,))[1].abs().max()
backward = torch.func.jacrev(NORMS["layer"])(x).abs().max()
print(torch.__version__, found, float(forward), float(backward))
assert torch.__version__.startswith("2.13.0")
assert found["layer"] == [False, False, False, False] and forward == 0 and backward == 0
assert found["group"] == [True, False, False, False]
assert found["rms"] == [True, True, True, True]
PYTHON
