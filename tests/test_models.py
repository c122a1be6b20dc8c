"""Real architectures with tiny random weights: forward equality, books that close, eager and fused attention
agreeing.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import lrp_fx
from testing.architectures import ARCHITECTURES, BY_NAME, RELATIVES, cases
from testing.converted import converted


def parts(relevance: lrp_fx.Relevance) -> dict[str, Tensor]:
    named = {f"content {k}": v for k, v in relevance.content.items()}
    named |= {f"position {i} {p.name}": p.relevance for i, p in enumerate(relevance.position)}
    return named | relevance.learned | relevance.segment


def attentions() -> list[Any]:
    """Every class with its fused attention where it has one; with attention written out (which float64 tests too) among
    the slow tests.
    """
    found = []
    for name, architecture in BY_NAME.items():
        for attention in ("eager", "sdpa") if architecture.fused else ("eager",):
            slow = name in RELATIVES or (attention == "eager" and architecture.fused)
            found.append(
                pytest.param(name, attention, marks=[pytest.mark.slow] if slow else [], id=f"{name}-{attention}")
            )
    return found


@pytest.mark.parametrize(("name", "attention"), attentions())
def test_float32_equals_the_model_and_closes(name: str, attention: str) -> None:
    found = converted(name, attention)
    assert found.difference() <= 16, "units in the last place of the largest output"
    assert found.relevance.ledger.error.max() <= 1e-5
    assert not found.unexplained


@pytest.mark.parametrize(
    "name", cases(BY_NAME, slow=["gemma3", "modernbert", "clip", "mixtral", "wav2vec2"])
)  # two conversions each; in float32 they are with the others
def test_float64_closes_at_every_site_and_attention_spellings_agree(name: str) -> None:
    found = converted(name, "eager", torch.float64, conserve="site")
    eager = found.relevance
    assert eager.ledger.error.max() <= 1e-10
    assert len(eager.ledger.sites) > 20
    assert max(s.error for s in eager.ledger.sites) <= 1e-10
    assert found.statistics.captures == 1
    calls = [n.target for n in found.graph.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    assert not [c for c in calls if c._schema.is_mutable], (
        "equal expressions are computed once: nothing may be written to"
    )
    if not BY_NAME[name].fused:
        return
    fused = converted(name, "sdpa", torch.float64, conserve="site").relevance
    assert fused.ledger.error.max() <= 1e-10
    ours, theirs = parts(eager), parts(fused)
    assert len(ours) == len(theirs)
    for (key, a), b in zip(ours.items(), theirs.values(), strict=True):
        scale = max(float(a.abs().max()), 1e-6 * float(eager.ledger.magnitude.max()))
        assert float((a - b).abs().max()) <= 1e-8 * scale, key


@pytest.mark.parametrize("rules", ["gradient", "attnlrp", "cp-lrp", "pa-cp-lrp"])
@pytest.mark.parametrize("name", ["bert", "llama", pytest.param("t5", marks=pytest.mark.slow), "vit"])
def test_every_preset_closes(name: str, rules: str) -> None:
    relevance = converted(name, "eager", torch.float64, rules=rules).relevance
    assert relevance.ledger.error.max() <= 1e-10


def test_gradient_preset_is_gradient_times_input() -> None:
    found = converted("llama", "eager", torch.float64, rules="gradient")
    model: Any = found.model
    inputs, relevance = found.inputs, found.relevance
    embedded = model.get_input_embeddings()(inputs["input_ids"]).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, attention_mask=inputs["attention_mask"]).logits[:, -1].amax(-1)
    (gradient,) = torch.autograd.grad(logits.sum(), embedded)
    expected = (gradient * embedded).sum(-1)
    assert torch.allclose(relevance.content["input_ids"], expected, rtol=1e-5, atol=1e-8 * float(expected.abs().max()))


def test_cp_lrp_without_biases_gives_everything_to_the_tokens() -> None:
    relevance = converted("llama", "eager", torch.float64, rules="cp-lrp").relevance
    assert torch.allclose(relevance.content["input_ids"].sum(1), relevance.score, rtol=1e-10)


def test_no_code_knows_an_architecture() -> None:
    """Every architecture went through the same code: no name of one appears in it."""
    import pathlib
    import re

    root = pathlib.Path(__file__).parents[1]
    names = re.compile(
        r"(?<!np\.)\b(" + "|".join(a.name.replace("_", "[-_]?") for a in ARCHITECTURES) + r")\b", re.IGNORECASE
    )
    for file in [*root.glob("lrp_fx/**/*.py"), *root.glob("rules/*.py")]:
        text = file.read_text(encoding="utf-8").replace("np.clip(", "")  # numpy's function, not the model
        assert not names.search(text), file
