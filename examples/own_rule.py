"""A rule of your own: written, checked, registered and used in a dozen lines.

The rule serves elementwise nonlinearities: it clips the share of the relevance that a unit may pass on. An activation
of ReLU type passes everything that is left after the part ``f(0)``; this variant passes at most a chosen share and
books the rest in a sink of its own, so that the ledger says what the choice costs. Runs offline:

    python examples/own_rule.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

import lrp_fx
from lrp_fx.rule import Call, covers, freeze, sink

MODEL = Path(__file__).parent / "models" / "synth_rope"
SHARE = 0.9


def damped(call: Call) -> Any:
    """``y = x * frozen(share * y / x) + sink(the rest)``: equal to y in value, linear in x."""
    (x,) = call.operands()
    y = (
        call.value
        if isinstance(call.value, Tensor)
        else call.map(lambda i, a: a.detach() if isinstance(a, Tensor) else a).run()
    )
    ratio = torch.where(x.detach() == 0, 0.0, SHARE * y / torch.where(x.detach() == 0, 1.0, x.detach()))
    passed = x * freeze(ratio.to(x.dtype))
    return passed + sink("damped", y - passed.detach(), y)


RULE = lrp_fx.Rule(
    name="elementwise.damped",
    kind="elementwise",
    law="y = x * frozen(s y / x) + sink((1 - s) y), s = 0.9",
    cites=("bach2015",),
    ops=covers("aten", "gelu relu silu tanh"),
    surrogate=damped,
    sinks=("damped",),
    reference=lambda call, R_y: [
        SHARE * R_y
    ],  # the formula in relevance form: what the laws compare the surrogate with
)


def main() -> None:
    default = lrp_fx.Ruleset(
        "mine",
        frozenset({"content", "learned", "segment", "position"}),
        kinds={"elementwise": RULE.name},
        about="pa-lrp with damped activations",
    )
    early = lrp_fx.Ruleset(
        "mine-early",
        default.carriers,
        sites={"model.layers.0.*": {"elementwise": RULE.name}},
        about="the same in the first block only",
    )
    lrp_fx.register(RULE, default, early)

    model = transformers.AutoModelForSequenceClassification.from_pretrained(MODEL, dtype=torch.float32).eval()
    data = np.load(MODEL / "eval.npz")
    ids, mask = torch.from_numpy(data["input_ids"][:1]), torch.from_numpy(data["attention_mask"][:1])
    for rules in ("pa-lrp", "mine", "mine-early"):
        explainer = lrp_fx.convert(model, rules=rules)
        relevance = explainer(input_ids=ids, attention_mask=mask)
        print(
            f"{rules}: {explainer.coverage['rule'].get(RULE.name, 0)} operations under the new "
            f"rule\n{relevance.ledger}\n"
        )


if __name__ == "__main__":
    main()
