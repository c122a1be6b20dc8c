#!/usr/bin/env bash
# peft 0.21.2 (torch 2.13.0): a forward with `adapter_names=` that is left by an exception leaves its choice of adapters.
#
# With `adapter_names=`, one name for each row of the batch, PEFT hangs a hook on every LoRA layer for the time of the
# call. The hooks are taken off behind the call, and not where the call ends by an exception: a hook of the user's that
# stops the model as soon as it has seen a layer (as tools that record activations do), an interrupt, a batch that does
# not fit in memory. Every later call without `adapter_names` is then computed with the adapters of that batch, row by
# row, whatever the active adapter is; nothing is said. A batch of another size raises.
# Seen: before, a plain call is that of the active adapter; after a call that was stopped at the second layer, a plain
# call of two rows is the mixed one, differs from the one before, and two hooks are left.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q "torch==2.13.0" "peft==0.21.2" "transformers==5.23.0" numpy
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import peft
import torch
from torch import nn


class Stop(Exception):
    pass


def stop(*_):
    raise Stop


torch.manual_seed(0)
base = nn.Sequential()
base.add_module("first", nn.Linear(4, 4))
base.add_module("second", nn.Linear(4, 3))
config = peft.LoraConfig(r=2, target_modules=["first", "second"], init_lora_weights=False)
model = peft.get_peft_model(base, config)
model.add_adapter("other", config)
model.eval()
x = torch.randn(2, 4)
names = ["default", "other"]
with torch.no_grad():
    plain = model(x)
    mixed = model(x, adapter_names=names)
    again = model(x)
    handle = model.base_model.model.second.register_forward_hook(stop)
    try:
        model(x, adapter_names=names)
    except Stop:
        pass
    handle.remove()
    after = model(x)
hooks = sum(len(m._forward_pre_hooks) for m in model.modules())
said = [torch.equal(plain, again), torch.equal(after, mixed), torch.equal(after, plain)]
print(peft.__version__, said, hooks, "hooks")
assert said == [True, True, False] and hooks == 2, "the behaviour has changed"
PYTHON
