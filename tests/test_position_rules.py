"""Rules about position: what no output can tell must not change relevance, and without position the books do not
close.
"""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.errors import InputError
from lrp_fx.rule import registered, registry
from testing.converted import TRAINED, trained, trained_model
from testing.reference_decoder import explain
from testing.scoring import load_model, load_sequences

CENTRED = ("bias.attention_mean", "bias.row_mean")


class Attention(nn.Module):
    """One attention over embedded tokens with a linear bias, in one of several spellings of the same function."""

    def __init__(self, spelling: str, fused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spelling, self.fused = spelling, fused
        self.embed = nn.Embedding(20, 16)
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.head = nn.Linear(16, 3)

    def bias(self, length: int, like: Tensor) -> Tensor:
        place = torch.arange(length, device=like.device).to(like.dtype)
        slopes = torch.tensor([0.5, 0.25], dtype=like.dtype)[:, None, None]
        if self.spelling == "position of the key":
            return slopes * place[None, None, :]
        if self.spelling == "distance":
            return slopes * (place[None, None, :] - place[None, :, None])
        return slopes * (place[None, None, :] - place[None, :, None]) + torch.cos(place)[None, :, None] * 3

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        q, k, v = (f(x).unflatten(-1, (2, 8)).transpose(1, 2) for f in (self.q, self.k, self.v))
        bias = self.bias(x.shape[1], x)
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(
                q, k, v, bias.masked_fill(~causal, float("-inf")).expand(len(x), -1, -1, -1)
            )
        else:
            scores = (q @ k.transpose(-1, -2) / 8**0.5 + bias).masked_fill(~causal, float("-inf"))
            mixed = torch.softmax(scores, -1) @ v
        return self.head(mixed.transpose(1, 2).flatten(2)[:, -1])


IDS = {"input_ids": torch.tensor([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])}
SPELLINGS = ("position of the key", "distance", "a constant of its own in every row")


@functools.cache
def _explain(spelling: str, rule: str | None, fused: bool) -> lrp_fx.Relevance:
    rules = dataclasses.replace(registry.rulesets["pa-lrp"], name=str(rule), leaves={"bias": rule} if rule else {})
    relevance = lrp_fx.convert(Attention(spelling, fused).double().eval(), rules=rules, conserve="site")(
        **IDS, target=1
    )
    assert relevance.ledger.error.max() <= 1e-10
    return relevance


def _per_token(spelling: str, rule: str | None, *, fused: bool = False, credit: str = "key") -> Tensor:
    found = _explain(spelling, rule, fused).per_token(content=False, credit=credit)
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("fused", [False, True], ids=["written out", "fused"])
@pytest.mark.parametrize("rule", CENTRED)
def test_a_constant_in_a_row_changes_no_relevance(rule: str, fused: bool) -> None:
    """A bias by the key's position and a bias by distance are one function, and get one relevance."""
    expected = _per_token("distance", rule)
    for spelling in SPELLINGS:
        for credit in ("key", "query", "both"):
            found = _per_token(spelling, rule, fused=fused, credit=credit)
            assert torch.allclose(found, _per_token("distance", rule, credit=credit), rtol=1e-9, atol=1e-12), (
                spelling,
                credit,
            )
    assert expected.abs().max() > 1e-3


def test_read_as_it_stands_it_does() -> None:
    plain = [_per_token(spelling, None) for spelling in SPELLINGS]
    assert (plain[0] - plain[1]).abs().max() > 1e-2
    assert (plain[2] - plain[1]).abs().max() > 1e-2
    assert torch.allclose(plain[0].sum(1), plain[1].sum(1)), "the total stays: sum_j c_ij = 0"


def test_a_vector_added_to_all_keys_changes_no_relevance_of_content() -> None:
    """The bias of the key projection moves every score of a row alike: its sink holds it, token by token, and sums to
    zero.
    """
    relevances = []
    for shift in (0.0, 2.0):
        model = Attention("distance").double().eval()
        with torch.no_grad():
            model.k.bias.add_(shift)
        relevances.append(lrp_fx.convert(model, rules="pa-lrp-centred", conserve="site")(**IDS, target=1))
    before, after = relevances
    assert torch.allclose(before.score, after.score)
    assert torch.allclose(before.content["input_ids"], after.content["input_ids"], rtol=1e-9, atol=1e-12)
    assert torch.allclose(before.ledger.sinks["bias"], after.ledger.sinks["bias"], rtol=1e-9, atol=1e-12)


class Rotated(nn.Module):
    """Rotary attention with a scale by position (xPos), the scale written in one of several places."""

    def __init__(self, spelling: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.spelling = spelling
        self.embed = nn.Embedding(20, 16)
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.head = nn.Linear(16, 3)

    def turn(self, x: Tensor, cos: Tensor, sin: Tensor, scale: Tensor) -> Tensor:
        rotated = torch.cat([-x[..., 8:], x[..., :8]], -1)
        if self.spelling == 0:
            return (x * cos + rotated * sin) * scale
        if self.spelling == 1:
            return x * (cos * scale) + rotated * (sin * scale)
        return (x * cos) * scale + scale * (rotated * sin)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        place = torch.arange(x.shape[1], device=x.device).to(x.dtype)[:, None]
        angle = (place * 10.0 ** (-torch.arange(8).to(x.dtype) / 4)).repeat(1, 2)
        scale = (1.2 ** (place / 4)).expand(-1, 16)
        q, k = (
            self.turn(self.q(x), angle.cos(), angle.sin(), scale),
            self.turn(self.k(x), angle.cos(), angle.sin(), 1 / scale),
        )
        return self.head((torch.softmax(q @ k.transpose(-1, -2) / 4, -1) @ self.v(x))[:, -1])


def test_position_factors_of_one_product_are_one() -> None:
    found = [lrp_fx.convert(Rotated(i).double().eval(), conserve="site")(**IDS, target=1) for i in range(3)]
    for other in found[1:]:
        for aggregation in (None, "signed", "positive", "absolute"):
            assert torch.allclose(
                found[0].per_token(aggregation), other.per_token(aggregation), rtol=1e-9, atol=1e-12
            ), aggregation
    assert all({p.kind for p in relevance.position} == {"rotary"} for relevance in found)


def test_a_shift_of_all_positions_changes_no_aggregation() -> None:
    """Rotary scores see distances alone; sine and cosine by themselves do not stay."""
    sequences = load_sequences(TRAINED / "synth_rope", 6)
    explain_at = trained("synth_rope", dtype=torch.float64)
    runs = []
    for shift in (0, 17):
        place = torch.arange(sequences.ids.shape[1]).expand_as(sequences.ids) + shift
        runs.append(
            explain_at(
                input_ids=sequences.ids,
                attention_mask=sequences.mask,
                position_ids=place,
                target=lrp_fx.targets.Class(sequences.labels),
            )
        )
    here, there = runs
    for aggregation in ("signed", "positive", "absolute"):
        assert torch.allclose(here.per_token(aggregation), there.per_token(aggregation), rtol=1e-5, atol=1e-5), (
            aggregation
        )
    for aggregation in ("paper-positive", "paper-absolute"):
        assert (here.per_token(aggregation) - there.per_token(aggregation)).abs().max() > 1e-2, aggregation


@pytest.mark.parametrize("aggregation", [None, "signed", "positive"])
def test_the_compiler_agrees_with_a_decoder_explained_by_hand(aggregation: str | None) -> None:
    sequences = load_sequences(TRAINED / "synth_rope", 40)
    by_hand = explain(load_model(TRAINED / "synth_rope").requires_grad_(False), sequences, "half")
    relevance = trained("synth_rope")(
        input_ids=sequences.ids, attention_mask=sequences.mask, target=lrp_fx.targets.Class(sequences.labels)
    )
    aggregate = {
        None: lambda R: R.sum(-1) * 0,
        "signed": lambda R: R.sum(-1),
        "positive": lambda R: R.clamp(min=0).sum(-1),
    }[aggregation]
    expected = by_hand.content + by_hand.position(aggregate)
    assert torch.allclose(relevance.per_token(aggregation), expected, atol=2e-5 * float(expected.abs().max()))
    assert isinstance(relevance.depth, Tensor)
    assert torch.allclose(relevance.depth, by_hand.depths, atol=2e-5 * float(by_hand.depths.abs().max()))


#: Least share of the score, in absolute value (median over 60 sequences), that the books miss without position.
MISSED = {"synth_learned": 0.03, "synth_alibi": 0.005, "synth_t5": 0.03}


@pytest.mark.parametrize("name", MISSED)
def test_without_position_the_books_do_not_close(name: str) -> None:
    """PA-LRP's lemma as a number: content, learned tokens and the sinks of pa-lrp miss the score by the position
    leaves.
    """
    model, sequences = trained_model(name, dtype=torch.float64), load_sequences(TRAINED / name, 60)
    ledger = lrp_fx.convert(model)(
        input_ids=sequences.ids, attention_mask=sequences.mask, target=lrp_fx.targets.Class(sequences.labels)
    ).ledger
    position = ledger.leaves["position"]
    missing = (ledger.score - (ledger.total - position)).abs() / ledger.score.abs()
    assert ledger.error.max() <= 1e-10
    print(
        f"{name}: without position the books miss {float(missing.median()):.1%} of the score (median), "
        f"{float(missing.max()):.1%} at most"
    )
    assert float(missing.median()) >= MISSED[name]


# ------------------------------------------------------------------------------------------------ what the user gets
def test_a_site_says_what_it_is_and_what_it_got() -> None:
    relevance = _explain("distance", None, False)
    (site,) = relevance.position
    assert (site.kind, site.variant, site.layer, site.is_pairwise) == ("bias", "fixed", None, True)
    assert "test_position_rules.py" in site.source
    assert site.relevance.shape == (2, 2, 7, 7)
    pairs = site.pairs
    assert pairs is not None and pairs.shape == (2, 7, 7)
    assert torch.allclose(pairs.sum((1, 2)), site.total)
    assert torch.allclose(site.share, relevance.ledger.shares()["position"])
    by = {credit: site.per_token(credit=credit) for credit in ("key", "query", "both")}
    assert torch.allclose(by["key"], pairs.sum(1)) and torch.allclose(by["query"], pairs.sum(2))
    assert torch.allclose(by["both"], (by["key"] + by["query"]) / 2)
    with pytest.raises(InputError, match="credit"):
        site.per_token(credit="value")
    with pytest.raises(InputError, match="unknown aggregation"):
        relevance.per_token("loudest")
    with pytest.raises(InputError, match="depth"):
        relevance.per_token(depth="middle")


def test_an_aggregation_of_ones_own() -> None:
    largest = lrp_fx.Aggregation("largest", "the largest entry", ("bakish2025",), lambda rows: rows.joint.amax(-1))
    relevance = _explain("distance", None, False)
    with registered(largest):
        assert "largest" in lrp_fx.aggregations()
        found = relevance.per_token("largest", content=False)
    assert torch.allclose(found, relevance.position[0].relevance.amax((1, 2)))
    assert "largest" not in lrp_fx.aggregations()


def test_the_same_sites_before_any_run() -> None:
    explainer = lrp_fx.convert(trained_model("synth_rope"), {"input_ids": torch.ones(2, 9, dtype=torch.int64)})
    before = [(s.module, s.variant, s.source, s.layer) for s in explainer.sites if s.kind == "position"]
    after = [
        (p.module, f"{p.kind}, {p.variant}", p.source, p.layer)
        for p in explainer(input_ids=torch.arange(3, 12).repeat(2, 1)).position
    ]
    assert before == after
    assert [layer for *_, layer in before] == [0, 0, 1, 1, 2, 2]
