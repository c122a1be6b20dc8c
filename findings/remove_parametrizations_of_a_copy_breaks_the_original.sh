#!/usr/bin/env bash
# torch 2.13.0 (CPU). copy.deepcopy of a module with a parametrised weight gives the copy the very class that
# torch.nn.utils.parametrize made for the original. remove_parametrizations on the copy deletes the property from that
# class: the original, which nobody touched, has no weight any more. Its parametrisation is still registered.
#
# Seen:
#   same class: True
#   original before: works; after the copy's was removed: AttributeError
#   original still counts as parametrised: True
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import copy

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

print(torch.__version__)
original, x = parametrizations.weight_norm(nn.Linear(3, 2)), torch.ones(1, 3)
twin = copy.deepcopy(original)
same = type(twin) is type(original)
print("same class:", same)
before = original(x)
parametrize.remove_parametrizations(twin, "weight")
assert torch.allclose(twin(x), before)
try:
    original(x)
    broken = False
except AttributeError as error:
    broken = "weight" in str(error)
registered = parametrize.is_parametrized(original, "weight")
print("original before: works; after the copy's was removed:", "AttributeError" if broken else "works")
print("original still counts as parametrised:", registered)
assert same and broken and registered, "it has changed"
PY
