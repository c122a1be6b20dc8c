"""Rulesets: which sources carry relevance, and which rule serves each kind where there is a choice."""

from __future__ import annotations

from lrp_fx.rule import Ruleset, register

_TOKENS = frozenset({"content", "learned", "segment"})
_NONLINEAR = ("elementwise", "normalise", "softmax", "attention", "product", "gate", "scan", "homogeneous")
_FROZEN = {"softmax": "softmax.frozen", "attention": "attention.frozen", "gate": "gate.frozen"}

register(
    Ruleset(
        "pa-lrp",
        _TOKENS | {"position"},
        about="AttnLRP with position as a carrier: position-token pairs (Bakish et al. 2025); the default",
    ),
    Ruleset("attnlrp", _TOKENS, about="uniform on products, Taylor on softmax (Achtibat et al. 2024)"),
    Ruleset(
        "cp-lrp",
        _TOKENS,
        kinds=_FROZEN,
        about="attention weights frozen (Ali et al. 2022)",
    ),
    Ruleset(
        "pa-cp-lrp",
        _TOKENS | {"position"},
        kinds=_FROZEN,
        about="cp-lrp with position as a carrier",
    ),
    Ruleset(
        "attnlrp-gamma",
        _TOKENS,
        kinds={"residual": "residual.gamma"},
        about="attnlrp with the gamma rule on residual sums (Berend et al. 2026)",
    ),
    Ruleset(
        "pa-lrp-gamma",
        _TOKENS | {"position"},
        kinds={"residual": "residual.gamma"},
        about="pa-lrp with the gamma rule on residual sums; for images, where residual terms cancel",
    ),
    Ruleset(
        "pa-lrp-centred",
        _TOKENS | {"position"},
        leaves={"bias": "bias.attention_mean"},
        about="pa-lrp with biases between tokens read against their attention-weighted mean: a constant added to a row changes nothing",
    ),
    Ruleset(
        "gradient",
        _TOKENS,
        kinds=dict.fromkeys(_NONLINEAR, "tangent.gradient"),
        about="gradient x input of the untouched model; the ledger shows how much it does not explain",
    ),
)
