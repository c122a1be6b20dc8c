"""Rulesets: which sources carry relevance, and which rules serve each kind.

What is not named here are alternatives (such as the epsilon and gamma rules), chosen by a ruleset of one's own, and
rules of new files, which ``OTHERS`` stands for.
"""

from __future__ import annotations

from lrp_fx.rule import OTHERS, Ruleset, register

_TOKENS = frozenset({"content", "learned", "segment"})
#: For each kind the rules that serve it, asked in this order; the last serves any operation where there is such a rule.
_KINDS: dict[str, str | tuple[str, ...]] = {
    "move": ("move.plain", OTHERS, "move.inferred"),
    "linear": ("linear.zero", "linear.coefficient", OTHERS, "linear.affine"),
    "elementwise": (
        "elementwise.identity",
        "elementwise.product",
        "elementwise.power",
        OTHERS,
        "elementwise.inferred",
    ),
    "normalise": ("normalise.layer", "normalise.statistics", "normalise.product", OTHERS, "normalise.inferred"),
    "softmax": ("softmax.taylor", "softmax.log_sum", "softmax.log", OTHERS),
    "attention": ("attention.taylor", OTHERS),
    "product": ("product.uniform", "product.quotient", "product.with_term", OTHERS, "product.inferred"),
    "gate": ("gate.uniform", OTHERS),
    "sum": ("sum.plain", OTHERS),
    "residual": ("residual.plain", OTHERS),
    "route": ("route.assemble", OTHERS, "route.winner"),
    "homogeneous": (OTHERS, "homogeneous.inferred"),
    "scan": ("scan.frozen", OTHERS),
    "stop": ("scan.start", OTHERS),
    "tangent": (OTHERS, "tangent.unexplained"),
}
_NONLINEAR = ("elementwise", "normalise", "softmax", "attention", "product", "gate", "scan", "homogeneous")
_FROZEN: dict[str, str | tuple[str, ...]] = {
    "softmax": ("softmax.frozen", "softmax.log_sum", "softmax.log"),
    "attention": "attention.frozen",
    "gate": "gate.frozen",
}
_GAMMA = {"residual": "residual.gamma"}
_PATH: dict[str, str | tuple[str, ...]] = {
    "softmax": ("softmax.path", "softmax.log_sum", "softmax.log", OTHERS),
    "attention": ("attention.path", OTHERS),
}

register(
    Ruleset(
        "pa-lrp",
        _TOKENS | {"position"},
        kinds=_KINDS,
        about="AttnLRP with position as a carrier: position-token pairs (Bakish et al. 2025); the default",
    ),
    Ruleset(
        "attnlrp",
        _TOKENS,
        kinds=_KINDS,
        about="uniform on products, Taylor on softmax (Achtibat et al. 2024)",
    ),
    Ruleset(
        "cp-lrp",
        _TOKENS,
        kinds={**_KINDS, **_FROZEN},
        about="attention weights frozen (Ali et al. 2022)",
    ),
    Ruleset(
        "pa-cp-lrp",
        _TOKENS | {"position"},
        kinds={**_KINDS, **_FROZEN},
        about="cp-lrp with position as a carrier",
    ),
    Ruleset(
        "attnlrp-gamma",
        _TOKENS,
        kinds={**_KINDS, **_GAMMA},
        about="attnlrp with the gamma rule on residual sums (Berend et al. 2026)",
    ),
    Ruleset(
        "pa-lrp-gamma",
        _TOKENS | {"position"},
        kinds={**_KINDS, **_GAMMA},
        about="pa-lrp with the gamma rule on residual sums; for images, where residual terms cancel",
    ),
    Ruleset(
        "pa-lrp-centred",
        _TOKENS | {"position"},
        kinds=_KINDS,
        leaves={"bias": "bias.attention_mean"},
        about="pa-lrp with biases between tokens read against their attention-weighted mean: "
        "a constant added to a row changes nothing",
    ),
    Ruleset(
        "pa-lrp-path",
        _TOKENS | {"position"},
        kinds={**_KINDS, **_PATH},
        about="pa-lrp with attention's weights measured from what they are without scores: no sink softmax",
    ),
    Ruleset(
        "pa-lrp-path-gamma",
        _TOKENS | {"position"},
        kinds={**_KINDS, **_PATH, **_GAMMA},
        about="pa-lrp-path with the gamma rule on residual sums",
    ),
    Ruleset(
        "gradient",
        _TOKENS,
        kinds={**_KINDS, **dict.fromkeys((*_NONLINEAR, "tangent"), "tangent.gradient")},
        about="gradient x input of the untouched model; the ledger shows how much it does not explain",
        as_autograd=True,
    ),
)
