"""Padding: where the model's own answer does not change with padding, relevance must not either, and padding gets
nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import lrp_fx

CUT = 3
#: Equality demanded, relative to the score and to all absolute relevance.
SAME = {torch.float64: 1e-8, torch.float32: 2e-4}


def padding(explainer: lrp_fx.Explainer, inputs: dict[str, Any], target: Any = None) -> str:
    """What padding on either side changes: ``right ok, left ok``; ``the model cares`` where its own answer changes.

    ``-`` without text, or where relevance is not by the tokens of ``input_ids`` (prompts in front of them, an encoder
    that nothing reads).
    """
    tensors = {n: v for n, v in inputs.items() if isinstance(v, Tensor)}
    if not {"input_ids", "attention_mask"} <= set(tensors) or any(v.is_floating_point() for v in tensors.values()):
        return "-"
    ids = inputs["input_ids"]
    if (
        tuple(ids.shape) != tuple(inputs["attention_mask"].shape)
        or ids.dim() != 2
        or ids.shape[0] < 2
        or ids.shape[1] <= 2 * CUT
    ):
        return "-"
    if any(tuple(v.shape[:2]) != tuple(ids.shape) for n, v in tensors.items() if not n.startswith("decoder")):
        return "-"
    alone = explainer(**{n: _alone(n, v, ids.shape) for n, v in inputs.items()}, target=target)
    if _tokens(alone).shape[1] != ids.shape[1] - CUT or not any(n.split(":")[0] == "input_ids" for n in alone.content):
        return "-"
    return ", ".join(f"{side} {_compare(explainer, alone, inputs, side, target)}" for side in ("right", "left"))


def _alone(name: str, value: Any, shape: torch.Size) -> Any:
    """The second example, shorter."""
    if not isinstance(value, Tensor):
        return value
    return value[1:2] if name.startswith("decoder") or value.shape[:2] != shape else _cut(value[1:2])


def _cut(value: Tensor) -> Tensor:
    """Without the tokens before the last, which may be an end that the model asks for."""
    return torch.cat([value[:, : -CUT - 1], value[:, -1:]], 1)


def _padded(name: str, value: Any, shape: torch.Size, side: str) -> Any:
    """Both examples, the second one padded to the length of the first."""
    if not isinstance(value, Tensor) or name.startswith("decoder") or value.shape[:2] != shape:
        return value
    value = value.clone()
    kept = _cut(value[1:2])[0].clone()
    value[1] = 0
    value[1, slice(0, shape[1] - CUT) if side == "right" else slice(CUT, None)] = kept
    return value


def _compare(
    explainer: lrp_fx.Explainer, alone: lrp_fx.Relevance, inputs: dict[str, Any], side: str, target: Any
) -> str:
    shape = inputs["input_ids"].shape
    together = explainer(**{n: _padded(n, v, shape, side) for n, v in inputs.items()}, target=target)
    same = SAME.get(alone.score.dtype, 1e-2)
    if not torch.allclose(together.score[1], alone.score[0], rtol=same, atol=0.0):
        return "the model cares"
    there = slice(0, shape[1] - CUT) if side == "right" else slice(CUT, None)
    ours, theirs = (_tokens(r) for r in (together, alone))
    outside = ours[1].clone()
    outside[there] = 0
    if bool((outside != 0).any()):
        return f"padding gets {float(outside.abs().max()):.0e}"
    off = float((ours[1, there] - theirs[0, : shape[1] - CUT]).abs().max() / alone.ledger.magnitude.max())
    return "ok" if off <= same else f"off by {off:.0e}"


def _tokens(relevance: lrp_fx.Relevance) -> Tensor:
    tokens = relevance.per_token()
    return tokens if isinstance(tokens, Tensor) else tokens["input_ids"]
