"""Kinds: the structural roles that an operation can have on a relevance path. A ruleset chooses rules by kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: What a surrogate of a kind must be in its carriers, with its frozen parts fixed.
LINEAR = "linear"
#: Linear once a choice among the values (of a maximum, of a mask) is fixed.
CHOICE = "choice"
#: Linear in each carrier alone, or the operation itself with one weight for each carrier (its weighted tangent).
TANGENT = "tangent"


@dataclass(frozen=True)
class Kind:
    """``about``: the role, in one line; ``example``: an operation in it; ``surrogate``: LINEAR, CHOICE or TANGENT."""

    about: str
    example: str
    surrogate: str = LINEAR


#: In the order in which they are tried for an operation that rules list under several, where dataflow does not decide.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "move": Kind("places, copies or retypes values without mixing them", "`x.transpose(0, 1)`"),
        "linear": Kind("linear or affine in what carries; weights are coefficients", "`linear(x, W, b)`"),
        "elementwise": Kind("each result depends on one element of one carrier", "`gelu(x)`, `x * sigmoid(x)`"),
        "normalise": Kind("multiplies its carrier by a statistic of it", "`layer_norm(x)`, `x * rsqrt(mean(x²))`"),
        "softmax": Kind("weights that add up to one, or their logarithms", "`softmax(s)`, `logsumexp(s)`"),
        "attention": Kind("a fused kernel for softmax(q kᵀ) v", "`scaled_dot_product_attention(q, k, v)`", TANGENT),
        "product": Kind("a product of operands that carry and are independent", "`matmul(q, kᵀ)`", TANGENT),
        "gate": Kind("a product of one branch with another branch's activation", "`up * silu(gate)`", TANGENT),
        "sum": Kind("a sum or difference of terms", "`x + y`, `x - 1`"),
        "residual": Kind("a sum that closes a residual connection", "`x + mlp(x)`"),
        "route": Kind(
            "takes values from several places, by value, index or mask", "`where(m, x, y)`, `amax(x)`", CHOICE
        ),
        "homogeneous": Kind("scales by tᵏ when its carriers scale by t", "`linalg_vector_norm(x)`", TANGENT),
        "scan": Kind(
            "a product in a recurrence: decay, write or read-out of a state", "`a * s` in `s = a * s + b * x`", TANGENT
        ),
        "stop": Kind("nothing is handed on: by zeros, or since it was detached", "`a * s` at the first step, `s = 0`"),
        "tangent": Kind("of no other kind: the plain gradient, and a sink for what it misses", "`det(x)`", TANGENT),
        "leaf": Kind("no operation: how relevance is read where it ends", "a bias between tokens"),
    }
)
