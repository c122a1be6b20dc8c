#!/usr/bin/env bash
# torch 2.13.0 (CPU). aten.native_group_norm refuses an input that is not contiguous; its derivative,
# aten.native_group_norm_backward, takes one and reads its memory as if it were: other numbers, no error. Both the input
# and the incoming gradient have to be copied first. torch.autograd does so (the last line); a compiler that works on
# ATen graphs and drops "no-op" copies does not, and nothing tells it.
#
# Seen:
#   forward, input transposed:   RuntimeError
#   backward, gradient transposed: off by 2.77
#   backward, input transposed:    off by 1.46
#   autograd, gradient transposed: off by 0
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.nn.functional import group_norm

print(torch.__version__)
torch.manual_seed(0)
batch, channels, length, groups = 2, 6, 5, 2
x = torch.randn(batch, length, channels, dtype=torch.float64).mT  # (batch, channels, length), transposed in memory
weight = torch.randn(channels, dtype=torch.float64)
whole = x.contiguous()
_, mean, rstd = torch.ops.aten.native_group_norm(whole, weight, None, batch, channels, length, groups, 1e-5)
grad = torch.randn(batch, length, channels, dtype=torch.float64).mT


def backward(grad, x):
    sizes = (batch, channels, length, groups)
    return torch.ops.aten.native_group_norm_backward(grad, x, mean, rstd, weight, *sizes, [True, True, False])[0]


right = backward(grad.contiguous(), whole)
try:
    torch.ops.aten.native_group_norm(x, weight, None, batch, channels, length, groups, 1e-5)
    refused = False
except RuntimeError as error:
    refused = "contiguous" in str(error)
print("forward, input transposed:", "RuntimeError" if refused else "no error")
off = [float((backward(*given) - right).abs().max()) for given in ((grad, whole), (grad.contiguous(), x))]
print("backward, gradient transposed: off by", round(off[0], 2))
print("backward, input transposed:    off by", round(off[1], 2))
leaf = x.detach().requires_grad_()
(plain,) = torch.autograd.grad(group_norm(leaf, groups, weight), leaf, grad)
print("autograd, gradient transposed: off by", float((plain - right).abs().max()))
assert refused and min(off) > 0.1 and torch.allclose(plain, right), "it has changed"
PY
