"""Models that people write by hand: torch's own modules, float inputs, masks of every convention, odd signatures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from testing.handmade import B, F, T, V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")


def same_as_alone(explain: lrp_fx.Explainer, **inputs: Tensor) -> None:
    together = explain(**inputs)
    name = next(iter(together.content))
    for i in range(next(iter(inputs.values())).shape[0]):
        alone = explain(**{k: v[i : i + 1] for k, v in inputs.items()})
        assert torch.allclose(together.content[name][i], alone.content[name][0], rtol=1e-8, atol=1e-12)


class Encoder(nn.Module):
    """torch's own encoder, learned positions, mean over the tokens that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(V, F), nn.Embedding(32, F)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(F, 2, 12, batch_first=True), 2)
        self.head = nn.Linear(F, 3)

    def forward(self, input_ids: Tensor, padding_mask: Tensor) -> Tensor:
        x = self.embed(input_ids) + self.place(torch.arange(input_ids.shape[1], device=input_ids.device))
        x = self.encoder(x, src_key_padding_mask=padding_mask)
        kept = (~padding_mask).unsqueeze(-1).to(x.dtype)
        return self.head((x * kept).sum(1) / kept.sum(1))


def test_torch_encoder_with_padding_at_any_length() -> None:
    explain = lrp_fx.convert(ready(Encoder()), conserve="site")
    for batch, length in ((2, 6), (3, 9), (1, 4), (2, 12)):
        mask = torch.zeros(batch, length, dtype=torch.bool)
        mask[0, -1] = True
        relevance = explain(input_ids=ids(batch, length), padding_mask=mask)
        assert relevance.ledger.error.max() <= 1e-10
        assert float(relevance.tokens[0, -1]) == 0.0
    assert explain.statistics.captures == 1
    same_as_alone(explain, input_ids=ids(3, 7), padding_mask=torch.zeros(3, 7, dtype=torch.bool))


class Attention(nn.Module):
    """Two texts, one attending to the other through nn.MultiheadAttention; several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend, self.head = (
            nn.Embedding(V, F),
            nn.MultiheadAttention(F, 2, batch_first=True),
            nn.Linear(F, 3),
        )

    def forward(self, query_ids: Tensor, doc_ids: Tensor) -> dict[str, Tensor]:
        q, d = self.embed(query_ids), self.embed(doc_ids)
        mixed, weights = self.attend(q, d, d)
        return {"logits": self.head((q + mixed).mean(1)), "weights": weights}


def test_two_inputs_and_a_dictionary_of_outputs() -> None:
    model = ready(Attention())
    explain = lrp_fx.convert(model, conserve="site")
    for a, b in ((ids(2, 5), ids(2, 8)), (ids(3, 4), ids(3, 11))):
        relevance = explain(query_ids=a, doc_ids=b)
        assert set(relevance.content) == {"query_ids", "doc_ids"}
        assert torch.allclose(relevance.output["logits"], model(a, b)["logits"])
        assert relevance.ledger.error.max() <= 1e-10
    assert explain.statistics.captures == 1


def test_the_same_tensor_for_two_arguments() -> None:
    model = ready(Attention())
    explain = lrp_fx.convert(model)
    x = ids()
    assert set(explain(x, x).content) == {"query_ids", "doc_ids"}
    other = x.flip(1)
    assert torch.allclose(explain(x, other).output["logits"], model(x, other)["logits"])


class Rms(nn.Module):
    """Hand-written norm on embeddings given as ids or as floats; a standardising buffer along features."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.weight, self.up, self.head = (
            nn.Embedding(V, F),
            nn.Parameter(torch.ones(F)),
            nn.Linear(F, F),
            nn.Linear(F, 3),
        )
        self.register_buffer("mean", torch.randn(F, generator=torch.Generator().manual_seed(3)))

    def forward(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> Tensor:
        x = (self.embed(input_ids) if inputs_embeds is None else inputs_embeds) - self.mean
        x = x + self.up(self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)))
        return self.head(x.mean(1))


def test_ids_and_their_embeddings_get_the_same() -> None:
    model = ready(Rms())
    by_ids = lrp_fx.convert(model, conserve="site")(input_ids=ids())
    explain = lrp_fx.convert(model, conserve="site")
    by_floats = explain(inputs_embeds=model.embed(ids()).detach())
    assert not by_floats.position, "weights along features are no positions"
    assert torch.allclose(by_ids.content["input_ids"], by_floats.content["inputs_embeds"].sum(-1), rtol=1e-9)
    explain(inputs_embeds=torch.randn(3, 9, F, dtype=torch.float64))
    assert explain.statistics.captures == 1


class Language(nn.Module):
    """A causal model with torch's mask convention: True hides."""

    def __init__(self, hides: bool) -> None:
        super().__init__()
        self.embed, self.q, self.head, self.hides = nn.Embedding(V, F), nn.Linear(F, F), nn.Linear(F, V), hides

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(input_ids)
        n = input_ids.shape[1]
        hidden = mask if self.hides else ~mask
        causal = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
        scores = (self.q(x) @ x.transpose(1, 2)).masked_fill(hidden.unsqueeze(1), -1e9).masked_fill(causal, -1e9)
        return self.head(x + scores.softmax(-1) @ x)


@pytest.mark.parametrize("hides", [True, False])
def test_the_last_token_is_found_under_either_mask_convention(hides: bool) -> None:
    model = ready(Language(hides))
    keep = torch.ones(B, T, dtype=torch.bool)
    keep[0, 4:] = False
    x = ids()
    logits = model(x, ~keep if hides else keep)
    relevance = lrp_fx.convert(model)(input_ids=x, mask=~keep if hides else keep)
    assert torch.allclose(relevance.score, torch.stack([logits[0, 3].max(), logits[1, 5].max()]))


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place, self.head = nn.Embedding(V, F), nn.Embedding(32, F), nn.Linear(F, 1)
        self.config = {"not": "an object"}

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.embed(input_ids) + self.place(position_ids)).mean(1)).squeeze(-1)


@pytest.mark.parametrize("batch", [1, 3])
def test_regression_and_positions_without_a_batch(batch: int) -> None:
    model = ready(Regression())
    relevance = lrp_fx.convert(model, conserve="site")(input_ids=ids(batch), position_ids=torch.arange(T))
    assert torch.allclose(relevance.score, model(ids(batch), torch.arange(T)))
    assert relevance.ledger.error.max() <= 1e-10
    assert relevance.tokens.shape == (batch, T)


def test_a_model_changed_by_assignment_is_converted_again() -> None:
    model = ready(Regression())
    explain = lrp_fx.convert(model)
    inputs = {"input_ids": ids(), "position_ids": torch.arange(T)}
    explain(**inputs)
    model.head = ready(nn.Linear(F, 1))
    assert torch.allclose(explain(**inputs).score, model(**inputs))
    model.float()
    assert explain(**inputs).score.dtype == torch.float32


def test_what_cannot_be_explained_yet_is_refused_by_name() -> None:
    with pytest.raises(lrp_fx.InputError, match="roles for idz"):
        lrp_fx.convert(Regression().eval(), roles={"idz": "content"})
    model: Any = nn.Sequential(nn.Linear(4, 3)).eval()
    with pytest.raises(lrp_fx.LrpError, match="batch"):
        lrp_fx.convert(model)(torch.randn(5, 2, 4), target=lambda y: y.sum((0, 2)))


def test_example_inputs_may_be_positional() -> None:
    explain = lrp_fx.convert(
        ready(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))), torch.randn(2, 4, dtype=torch.float64)
    )
    relevance = explain(torch.randn(3, 4, dtype=torch.float64))
    assert relevance.content["input"].shape == (3, 4)
    assert explain.statistics.captures == 1
