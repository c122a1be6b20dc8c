"""One explainer, many calls: from several threads, of any length, without growing."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.runtime.compiler import CACHED_PROGRAMS
from testing.handmade import V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(V, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        x = x + (x @ x.mT).softmax(-1) @ self.mix(x)
        return self.head(torch.relu(x).mean(1))  # type: ignore[no-any-return]


class Recorded(Small):
    """Decides by the values of its inputs: every call is traced anew."""

    def forward(self, input_ids: Tensor) -> Tensor:
        return super().forward(input_ids) if int(input_ids.sum()) >= 0 else self.head(self.embed(input_ids).mean(1))


def test_threads_share_an_explainer_that_has_seen_nothing_yet() -> None:
    model = ready(Small())
    calls = [(ids(1 + n % 3, 3 + n % 5, seed=n), n % 3) for n in range(24)]
    alone = lrp_fx.convert(model, dynamic=True)
    expected = [alone(input_ids=x, target=t).content["input_ids"] for x, t in calls]
    shared = lrp_fx.convert(model, dynamic=True)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda call: shared(input_ids=call[0], target=call[1]).content["input_ids"], calls))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert (shared.statistics.captures, shared.statistics.transposes, shared.statistics.runs) == (1, 1, len(calls))


def test_explainers_are_made_in_several_threads() -> None:
    models = [ready(Small()) for _ in range(3)]
    expected = lrp_fx.convert(models[0])(input_ids=ids(), target=1).content["input_ids"]
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(lambda m: lrp_fx.convert(m)(input_ids=ids(), target=1).content["input_ids"], models))
    assert all(torch.equal(g, expected) for g in got)


def test_caches_are_bounded() -> None:
    explain = lrp_fx.convert(ready(Recorded()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sizes = []
        for n in range(CACHED_PROGRAMS + 6):
            explain(input_ids=ids(1, 3 + n % 4, seed=n), target=n % 3)
            kept = explain._compiler.entries
            graphs = sum(len(k.entry.graphs) for k in kept)
            traces = sum(len(k.entry.base.traces) for k in kept)
            sizes.append((len(kept), graphs, traces))
    assert sizes[-1][0] == CACHED_PROGRAMS
    assert sizes[-1][1] <= CACHED_PROGRAMS, "a graph goes with its program"
    assert sizes[-1][2] <= max(s for *_, s in sizes[:CACHED_PROGRAMS])


class Loose(nn.Module):
    """A tensor that is a plain attribute, and a buffer that stays float32 whatever the weights are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.loose = torch.ones(8)
        self.narrow: Tensor
        self.register_buffer("narrow", torch.ones(8))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        return self.head((x * (self.narrow * self.loose).to(x.dtype)).mean(1))


class Routed(nn.Module):
    """Tokens go to one of two maps, by what the weights make of them: recorded call by call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.router, self.head = nn.Embedding(20, 8), nn.Linear(8, 2), nn.Linear(8, 3)
        self.maps = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids).flatten(0, 1)
        weights = torch.softmax(self.router(x), -1)
        chosen, y = weights.argmax(-1), torch.zeros_like(x)
        for k, own in enumerate(self.maps):
            rows = (chosen == k).nonzero().flatten()
            if len(rows):
                y[rows] = own(x[rows]) * weights[rows, k, None]
        return self.head((x + y).unflatten(0, input_ids.shape).mean(1))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_record_of_one_call_holds_for_its_weights() -> None:
    """What the weights decided is fixed in it: after they were written to, another record is made."""
    model, given = Routed().eval(), {"input_ids": torch.arange(6)[None]}
    explain = lrp_fx.convert(model)
    explain(**given)
    assert explain.rewritten.program.method == "concrete"
    explain(**given)
    assert explain.statistics.captures == 1
    with torch.no_grad():
        model.router.weight.neg_()
        model.router.bias.neg_()
    torch.testing.assert_close(explain(**given).output, model(**given))
    assert explain.statistics.captures == 2


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("change", ["replaced", "loose in place", "buffer in place", "buffer replaced"])
def test_tensors_that_change_are_seen(change: str, double: bool) -> None:
    """Whatever tensors a model computes with, and however they are changed between calls."""
    model = Loose().eval()
    if double:
        model.words.double(), model.head.double()
    explain = lrp_fx.convert(model)
    explain(input_ids=torch.arange(8).reshape(2, 4))
    if change == "replaced":
        model.loose = torch.full((8,), 2.0)
    elif change == "buffer replaced":
        model.narrow = torch.full((8,), 2.0)
    else:
        (model.loose if change == "loose in place" else model.narrow).fill_(2.0)
    given = {"input_ids": torch.arange(8).reshape(2, 4)}
    assert torch.equal(explain(**given).output, model(**given))
