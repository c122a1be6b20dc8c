"""Caches: what was computed for earlier tokens is a leaf of its own, and the caller's cache stays as it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

pytestmark = pytest.mark.usefixtures("quiet")
HEADS, SIZE = 2, 8
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 7], [2, 7, 1, 8, 2, 8, 3, 3, 4]])


class Cache:
    """Keys and values that a model adds to, and a list of how often."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.calls: list[int] = []

    def add(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(1)
        self.keys = keys if self.keys is None else torch.cat([self.keys, keys], 2)
        self.values = values if self.values is None else torch.cat([self.values, values], 2)
        return self.keys, self.values


class Board:
    """Room for twelve tokens, written to in place."""

    def __init__(self) -> None:
        self.room = torch.zeros(2, HEADS, 12, SIZE // HEADS, dtype=torch.float64)
        self.used = 0

    def add(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.room[:, :, self.used : self.used + keys.shape[2]] = keys
        self.used += keys.shape[2]
        return self.room[:, :, : self.used], self.room[:, :, : self.used]


@dataclasses.dataclass
class Answer:
    logits: Tensor
    cache: Any


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(10, SIZE), nn.Linear(SIZE, 10)
        self.q, self.k, self.v = (nn.Linear(SIZE, SIZE) for _ in range(3))
        self.double().eval()

    def forward(self, input_ids: Tensor, cache: Any = None) -> Answer:
        x = self.embed(input_ids)
        q, k, v = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if cache is not None:
            k, v = cache.add(k, v)
        hidden = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(k.shape[2] - q.shape[2] + 1)
        weights = (q @ k.mT).masked_fill(hidden, -1e9).softmax(-1)
        return Answer(self.head(x + (weights @ v).transpose(1, 2).flatten(2)), cache)


def filled(model: nn.Module, cache: Any, upto: int, ids: Tensor = IDS) -> Any:
    with torch.no_grad():
        model(ids[:, :upto], cache)
    return cache


def test_the_books_have_a_line_for_the_cache_and_its_relevance_is_exact() -> None:
    model = Decoder()
    cache = filled(model, Cache(), 6)
    relevance = lrp_fx.convert(model, rules="gradient")(IDS[:, 6:], cache, target=3)
    keys, values = cache.keys.clone().requires_grad_(), cache.values.clone().requires_grad_()
    given = Cache()
    given.keys, given.values = keys, values
    model(IDS[:, 6:], given).logits[:, -1, 3].sum().backward()
    for name, x in (("cache.keys", keys), ("cache.values", values)):
        assert torch.allclose(relevance.cached[name], x * x.grad, rtol=1e-9, atol=1e-14)
    total = sum(R.sum([1, 2, 3]) for R in relevance.cached.values())
    assert torch.allclose(relevance.ledger.leaves["cached"], total)
    assert relevance.past.shape == (2, 6)
    assert torch.allclose(relevance.past.sum(1), total)
    assert torch.allclose(relevance.score, model(IDS).logits[:, -1, 3])
    assert "cached" in lrp_fx.convert(model, conserve="site")(IDS[:, 6:], cache, target=3).ledger.leaves


@pytest.mark.parametrize("kind", [Cache, Board])
def test_the_callers_cache_stays_as_it_is(kind: Any) -> None:
    model = Decoder()
    cache = filled(model, kind(), 6)
    held, before = list(vars(cache).items()), {n: v.clone() for n, v in vars(cache).items() if isinstance(v, Tensor)}
    explain = lrp_fx.convert(model)
    answer = explain(IDS[:, 6:], cache, target=3).output
    with pytest.raises(lrp_fx.TargetError):
        explain(IDS[:, 6:], cache, target=99)
    assert all(vars(cache)[name] is value for name, value in held)
    assert all(torch.equal(vars(cache)[name], value) for name, value in before.items())
    assert cache.calls == [1] if kind is Cache else cache.used == 6
    assert isinstance(answer, Answer) and isinstance(answer.cache, kind) and answer.cache is not cache
    follows = model(IDS[:, :1], answer.cache).logits
    assert torch.allclose(follows, model(torch.cat([IDS, IDS[:, :1]], 1), kind()).logits[:, -1:])


def test_an_empty_cache_stays_empty() -> None:
    cache, model = Cache(), Decoder()
    assert torch.allclose(lrp_fx.convert(model)(IDS, cache).score, model(IDS).logits[:, -1].amax(-1))
    assert cache.keys is None and cache.calls == []


def test_other_lengths_are_served_by_one_capture() -> None:
    model = Decoder()
    explain = lrp_fx.convert(model, dynamic=True)
    for upto in (5, 6, 3):
        relevance = explain(IDS[:, upto:], filled(model, Cache(), upto))
        assert torch.allclose(relevance.score, model(IDS).logits[:, -1].amax(-1))
        assert relevance.past.shape == (2, upto)
    assert explain.statistics.captures == 1


def test_plain_values_beside_tensors_are_part_of_the_call() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 3)

        def forward(self, batch: dict[str, Any]) -> Tensor:
            return self.embed(batch["ids"]).mean(1) * batch["scale"]

    model = Scaled().eval()
    explain = lrp_fx.convert(model)
    for scale in (1.0, 3.0, 1.0):
        batch = {"ids": IDS, "scale": scale}
        assert torch.allclose(explain(batch).output, model(batch))


# ------------------------------------------------------------------------------------------------ results
class Plain:
    def __init__(self, logits: Tensor, note: str) -> None:
        self.logits, self.note, self.rows = logits, note, logits.shape[1]


class Slotted:
    __slots__ = ("inner", "logits")

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.inner = logits, {"parts": [logits * 2]}


class Returns(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head, self.make = nn.Embedding(10, 4), nn.Linear(4, 3), make

    def forward(self, input_ids: Tensor) -> Any:
        x = self.embed(input_ids)
        return self.make(x, self.head(x))


RESULTS = {
    "object": lambda x, y: Plain(y, "kept"),
    "slots": lambda x, y: Slotted(y),
    "dataclass": lambda x, y: Answer(y, None),
    "inside": lambda x, y: {"first": x, "second": (Answer(y, Plain(x, "kept")),)},
}


@pytest.mark.parametrize("how", RESULTS)
def test_objects_that_a_model_returns_are_explained_by_their_logits(how: str) -> None:
    model = Returns(RESULTS[how]).eval()
    explain = lrp_fx.convert(model, dynamic=True)
    for ids in (IDS, IDS[:1, :5]):
        relevance = explain(ids, target=1)
        expected, got = model(ids), relevance.output
        if how == "inside":
            expected, got = expected["second"][0], got["second"][0]
            assert got.cache.note == "kept" and got.cache.rows == ids.shape[1]
        assert type(got) is type(expected)
        assert torch.allclose(got.logits, expected.logits)
        assert torch.allclose(relevance.score, expected.logits[:, -1, 1])
    assert not model._forward_hooks and explain.statistics.captures == 1
