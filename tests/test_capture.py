"""Capture: the ladder from symbolic export to the record of one call, nested arguments, packed inputs, reordered
rows.
"""

from __future__ import annotations

import re
import warnings
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import lrp_fx
from lrp_fx.capture.arguments import Flattened, flatten
from lrp_fx.ir.source import module_path
from testing.handmade import F, T, V, ids, ready

EXACT = 1e-10
pytestmark = pytest.mark.usefixtures("quiet")


def method(explain: lrp_fx.Explainer) -> str:
    return explain.rewritten.program.method


# ------------------------------------------------------------------------------------------------ the ladder
class Branching(nn.Module):
    """How often a layer is applied, and the sign of the result, depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear, self.head = nn.Embedding(V, F), nn.Linear(F, F), nn.Linear(F, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for _ in range(int(input_ids.sum().item()) % 3 + 1):
            x = torch.relu(self.linear(x))
        y = self.head(x.mean(1))
        return y if float(y.sum()) > 0 else -y


class Experts(nn.Module):
    """A router, experts that take their tokens by boolean masks and by indices, sizes read off tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router, self.head = nn.Embedding(V, F), nn.Linear(F, 3), nn.Linear(F, 4)
        self.experts = nn.ModuleList(nn.Linear(F, F) for _ in range(3))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids).flatten(0, 1)
        weights, chosen = self.router(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mask = chosen == number
            if number == 0:
                out[mask] = weights[mask].unsqueeze(-1) * torch.relu(expert(x[mask]))
            else:
                (rows,) = torch.where(mask)
                out.index_add_(0, rows, weights[rows].unsqueeze(-1) * torch.relu(expert(x[rows])))
        y = (x + out).view(*input_ids.shape, F)
        count = int(input_ids.ne(0).sum(1).max())
        return self.head(y[:, :count].mean(1))


@pytest.mark.parametrize("model", [Branching(), Experts()], ids=["branching", "experts"])
def test_a_model_that_decides_by_values_is_recorded_call_by_call(model: nn.Module) -> None:
    explain = lrp_fx.convert(ready(model), conserve="site")
    for seed in range(1, 5):
        x = ids(seed=seed)
        relevance = explain(input_ids=x)
        with torch.no_grad():
            assert torch.allclose(relevance.output, model(x), rtol=1e-12)
        assert method(explain) == "concrete"
        assert relevance.ledger.error.max() <= EXACT
        alone = explain(input_ids=x[:1])
        if isinstance(model, Experts):  # the other decides by the whole batch
            assert torch.allclose(alone.content["input_ids"][0], relevance.content["input_ids"][0], rtol=1e-8)
    assert explain.statistics.captures == 8
    explain(input_ids=ids(seed=4)[:1], target=1)
    assert explain.statistics.captures == 8, "the same inputs again"


def test_it_says_once_that_it_is_traced_for_every_call() -> None:
    explain = lrp_fx.convert(ready(Branching()))
    with pytest.warns(UserWarning, match="traced for this very call") as caught:
        explain(input_ids=ids())
    assert {w.filename for w in caught} == {__file__}, "the line of the person who called"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*traced for this very call.*")
        explain(input_ids=ids(seed=2))


class MaskedOnlyWhenNotExported(nn.Module):
    """A graph of it that was traced for export is wrong for any mask that hides something."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(V, F), nn.Linear(F, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embed(input_ids)
        if not torch.compiler.is_exporting():
            x = x * attention_mask.unsqueeze(-1)
        return self.head(x.sum(1))


def test_a_capture_that_is_wrong_on_another_mask_is_none() -> None:
    explain = lrp_fx.convert(ready(MaskedOnlyWhenNotExported()))
    ones = torch.ones(2, T, dtype=torch.int64)
    explain(input_ids=ids(), attention_mask=ones)
    assert method(explain) == "concrete", "right for this mask alone"
    hidden = ones.clone()
    hidden[0, -2:] = 0
    with pytest.raises(lrp_fx.CaptureError, match="differs from the model"):
        explain(input_ids=ids(), attention_mask=hidden)


class OneImageAtATime(nn.Module):
    """Loops over the examples it was given: a graph that fits two of them fits no other number."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Linear(4, F), nn.Linear(F, 3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return torch.cat([self.head(self.patch(image).relu().mean(0, keepdim=True)) for image in pixel_values])


def test_a_capture_that_is_wrong_for_another_batch_is_none() -> None:
    model = ready(OneImageAtATime())
    explain = lrp_fx.convert(model, conserve="site")
    for batch in (2, 3, 1):
        x = torch.randn(batch, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))
        relevance = explain(pixel_values=x)
        assert torch.allclose(relevance.output, model(x))
        assert relevance.ledger.error.max() <= EXACT


class TwoContents(nn.Module):
    """Texts and features, the mean of each added up: one row of features would do for all texts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lift, self.head = nn.Embedding(V, F), nn.Linear(4, F), nn.Linear(F, 3)

    def forward(self, input_ids: Tensor, features: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        if attention_mask is not None:
            x = x * attention_mask.unsqueeze(-1)
        return self.head(torch.tanh(x.mean(1) + self.lift(features).mean(1)))


def features(batch: int) -> Tensor:
    return torch.randn(batch, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("keep_output", [True, False])
@pytest.mark.parametrize("target", [None, 1])
def test_a_graph_of_equal_sizes_gives_no_number_for_unequal_ones(keep_output: bool, target: int | None) -> None:
    explain = lrp_fx.convert(ready(TwoContents()), keep_output=keep_output)
    explain(input_ids=ids(2), features=features(2), target=target)
    captures = explain.statistics.captures
    explain(input_ids=ids(3), features=features(3), target=target)
    assert explain.statistics.captures == captures, "other sizes, as equal as before"
    for texts, rows, advice in ((2, 1, "features.expand(2, -1, -1)"), (1, 2, "input_ids.expand(2, -1)")):
        with pytest.raises(
            lrp_fx.InputError, match=re.escape(advice)
        ):  # what two examples share has no relevance of its own in each of them
            explain(input_ids=ids(texts), features=features(rows), target=target)


def test_one_mask_for_all_examples_after_a_mask_for_each() -> None:
    explain = lrp_fx.convert(ready(TwoContents()))
    mask = torch.ones(1, T, dtype=torch.int64)
    mask[0, -2:] = 0
    each, one = (
        explain(input_ids=ids(2), features=features(2), attention_mask=m) for m in (mask.expand(2, -1).clone(), mask)
    )
    assert explain.statistics.captures == 2
    assert torch.allclose(each.content["input_ids"], one.content["input_ids"], rtol=0, atol=EXACT)
    assert torch.allclose(each.content["features"], one.content["features"], rtol=0, atol=EXACT)


def test_capture_leaves_no_trace() -> None:
    model = ready(Experts())
    before = {n: t.clone() for n, t in model.state_dict().items()}
    hooks = len(nn.modules.module._global_forward_hooks), len(nn.modules.module._global_forward_pre_hooks)
    lrp_fx.convert(model)(input_ids=ids())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert (len(nn.modules.module._global_forward_hooks), len(nn.modules.module._global_forward_pre_hooks)) == hooks
    assert not torch.compiler.is_exporting()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("called", "path"),
    [
        ("layers.slice(None, 3, None).1.map", "layers.1.map"),
        ("layers.slice(1, None, 2).2", "layers.5"),
        ("_empty_nn_module_stack_from_metadata_hook", ""),
        ("head", "head"),
    ],
)
def test_places_have_the_names_that_the_model_has_for_them(called: str, path: str) -> None:
    node = fx.Graph().placeholder("x")
    node.meta["nn_module_stack"] = {"L__self__": ("", "Model"), "part": (called, "Part")}
    assert module_path(node) == path


def test_a_record_knows_modules_and_source_lines() -> None:
    explain = lrp_fx.convert(ready(Experts()))
    explain(input_ids=ids())
    labels = [a.label() for a in explain.rewritten.applications.values()]
    assert any(label.startswith("experts.1: ") for label in labels)
    assert any("test_capture.py" in label and "(x + out)" in label for label in labels)


# ------------------------------------------------------------------------------------------------ nested arguments
Pair = namedtuple("Pair", "left right")


@dataclass
class Batch:
    input_ids: Tensor
    attention_mask: Tensor
    note: str = "a word"


class Nested(nn.Module):
    """Takes a dataclass, a dictionary, a list and a named tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.view, self.head = nn.Embedding(V, F), nn.Linear(4, F), nn.Linear(F, 3)

    def forward(
        self, batch: Batch, extra: dict[str, Any], views: list[Tensor], pair: Pair, scale: float = 1.0
    ) -> dict[str, Any]:
        assert batch.note == "a word" and extra["flag"] is True
        kept = batch.attention_mask.unsqueeze(-1)
        x = (self.embed(batch.input_ids) * kept).sum(1) / kept.sum(1)
        x = x + sum(self.view(v).relu().mean(1) for v in views) * scale
        x = x + self.embed(extra["second"]["input_ids"]).mean(1) + self.view(pair.left) - self.view(pair.right)
        return {"logits": self.head(x), "hidden": [x]}


def nested(batch: int = 2, length: int = T) -> dict[str, Any]:
    g = torch.Generator().manual_seed(3)

    def floats(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[0, -1] = 0
    return {
        "batch": Batch(ids(batch, length), mask),
        "extra": {"flag": True, "second": {"input_ids": ids(batch, length, seed=5)}},
        "views": [floats(batch, 5, 4), floats(batch, 5, 4)],
        "pair": Pair(floats(batch, 4), floats(batch, 4)),
        "scale": 0.5,
    }


def test_tensors_in_containers_have_dotted_names() -> None:
    model = ready(Nested())
    explain = lrp_fx.convert(model, conserve="site")
    relevance = explain(**nested())
    assert {n: tuple(R.shape) for n, R in relevance.content.items()} == {
        "batch.input_ids": (2, T),
        "extra.second.input_ids": (2, T),
        "views.0": (2, 5, 4),
        "views.1": (2, 5, 4),
        "pair.left": (2, 4),
        "pair.right": (2, 4),
    }
    assert float(relevance.content["batch.input_ids"][0, -1]) == 0.0, "masked: the role is read from the last word"
    assert torch.allclose(relevance.output["logits"], model(**nested())["logits"])
    assert relevance.ledger.error.max() <= EXACT
    assert {s.module for s in explain.sites if s.kind == "input"} == {""}
    assert any(a.label().startswith("head: ") for a in explain.rewritten.applications.values()), (
        "module paths are the user's"
    )


def test_nested_arguments_of_other_sizes_do_not_capture_again() -> None:
    model = ready(Nested())
    explain = lrp_fx.convert(model)
    for batch, length in ((2, 6), (3, 9), (1, 5)):
        relevance = explain(**nested(batch, length))
        assert torch.allclose(relevance.output["logits"], model(**nested(batch, length))["logits"])
    assert explain.statistics.captures == 1


def test_the_same_function_with_flat_arguments_gets_the_same() -> None:
    class Flat(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.inner = model

        def forward(
            self, a: Tensor, mask: Tensor, b: Tensor, v: Tensor, w: Tensor, left: Tensor, right: Tensor
        ) -> Tensor:
            return self.inner(
                Batch(a, mask), {"flag": True, "second": {"input_ids": b}}, [v, w], Pair(left, right), 0.5
            )["logits"]

    model = ready(Nested())
    theirs = lrp_fx.convert(model)(**nested(), target=1)
    values = [v for v in flatten(nested()).values() if isinstance(v, Tensor)]
    ours = lrp_fx.convert(Flat(model).eval())(*values, target=1)
    for expected, got in zip(theirs.content.values(), ours.content.values(), strict=True):
        assert torch.allclose(expected, got, rtol=1e-9)


def test_roles_of_nested_arguments_can_be_set() -> None:
    explain = lrp_fx.convert(ready(Nested()), roles={"views.1": "mask"})
    assert "views.1" not in explain(**nested()).content
    with pytest.raises(lrp_fx.InputError, match="roles for vews"):
        lrp_fx.convert(ready(Nested()), roles={"vews.1": "mask"})


def test_containers_are_rebuilt_as_they_were() -> None:
    given = nested()
    seen: dict[str, Any] = {}

    class Spy(nn.Module):
        def forward(self, **kwargs: Any) -> Tensor:
            seen.update(kwargs)
            return torch.zeros(())

    Flattened(Spy().eval(), given)(**{n.replace(".", "__"): v for n, v in flatten(given).items()})
    assert isinstance(seen["batch"], Batch) and seen["batch"] is not given["batch"]
    assert isinstance(seen["pair"], Pair) and isinstance(seen["views"], list)
    assert torch.equal(seen["extra"]["second"]["input_ids"], given["extra"]["second"]["input_ids"])
    assert seen["scale"] == 0.5


# ------------------------------------------------------------------------------------------------ rows of all examples
class Packed(nn.Module):
    """Patches of all images in one list, put where the text has placeholders."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.patch, self.head = nn.Embedding(V, F), nn.Linear(4, F), nn.Linear(F, V)

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        place = (input_ids == 0).unsqueeze(-1).expand_as(x)
        x = x.masked_scatter(place, self.patch(pixel_values).tanh())
        return self.head(torch.relu(x).cumsum(1))


def test_an_input_that_packs_images_has_no_batch_axis() -> None:
    model = ready(Packed())
    text = ids(1, 7)
    text[:, 1:4] = 0
    explain = lrp_fx.convert(model, conserve="site")
    relevance = explain(pixel_values=torch.randn(3, 4, dtype=torch.float64), input_ids=text)
    assert relevance.score.shape == (1,)
    assert relevance.content["pixel_values"].shape == (3, 4)
    assert relevance.content["input_ids"].shape == (1, 7)
    assert relevance.ledger.error.max() <= EXACT


class SortedExperts(nn.Module):
    """Tokens of all examples sorted by expert, computed with biases in between (which are sinks), and put back."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router, self.head = nn.Embedding(V, F), nn.Linear(F, 3), nn.Linear(F, 4)
        self.weight, self.bias = nn.Parameter(torch.zeros(3, F, F)), nn.Parameter(torch.zeros(3, F))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids).flatten(0, 1)
        weights, chosen = self.router(x).softmax(-1).topk(2, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        experts, order = chosen.flatten().sort(stable=True)
        rows = x[order // 2]
        out = torch.nn.functional.gelu((rows.unsqueeze(1) @ self.weight[experts]).squeeze(1) + self.bias[experts])
        out = out * weights.flatten()[order].unsqueeze(-1)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0])
        return self.head((x + out[back].view(-1, 2, F).sum(1)).view(*input_ids.shape, F).mean(1))


def test_rows_sorted_by_expert_still_belong_to_their_examples() -> None:
    model = ready(SortedExperts())
    explain = lrp_fx.convert(model, conserve="site")
    for batch, length in ((2, 6), (4, 5)):
        x = ids(batch, length)
        together = explain(input_ids=x)
        assert together.ledger.error.max() <= EXACT
        for i in range(batch):
            alone = explain(input_ids=x[i : i + 1])
            assert torch.allclose(
                together.content["input_ids"][i], alone.content["input_ids"][0], rtol=1e-8, atol=1e-12
            )
            for name, total in alone.ledger.sinks.items():
                assert torch.allclose(together.ledger.sinks[name][i], total[0], rtol=1e-8, atol=1e-12), name
    assert explain.statistics.captures == 1
    assert method(explain) == "dynamic"


class AddedExperts(nn.Module):
    """Each token to two of three experts, in a loop over experts; what they give is added up in fresh zeros, where
    tokens were taken from.

    In between heads are repeated, and the attention has scores, biases and positions of its own.
    """

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.plain = plain
        self.embed, self.router, self.head = nn.Embedding(V, F), nn.Linear(F, 3), nn.Linear(F, 4)
        self.experts = nn.ModuleList(nn.Linear(F, F) for _ in range(3))
        self.keys, self.bias = nn.Linear(F, F // 2), nn.Parameter(torch.zeros(F))

    def forward(self, input_ids: Tensor) -> Tensor:
        batch, length = input_ids.shape
        x = self.embed(input_ids)
        rows = x.flatten(0, 1)
        weights, chosen = self.router(rows).topk(2, -1)
        order = chosen.flatten().argsort(stable=True)
        sizes = torch.bincount(chosen.flatten(), minlength=3).tolist()
        parts = rows[order // 2].split(sizes)
        out = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        out = out * weights.softmax(-1).flatten()[order].unsqueeze(1)
        places = order // 2 if self.plain else (order - order % 2) // 2  # the same, but nobody can tell
        y = torch.zeros(batch * length, F, dtype=x.dtype).index_add(0, places, out).view(batch, length, F) + self.bias
        queries = y.view(batch, length, 2, F // 2).transpose(1, 2)
        keys = self.keys(x).unsqueeze(1).repeat(1, 2, 1, 1)
        mixed = (queries @ keys.mT).softmax(-1) @ keys
        return self.head((x + mixed.transpose(1, 2).reshape(batch, length, F)).mean(1))


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("seed", range(1, 4))
def test_rows_added_up_belong_to_the_examples_they_were_taken_from(seed: int, plain: bool) -> None:
    explain = lrp_fx.convert(ready(AddedExperts(plain)), conserve="site")
    x = ids(2, 3, seed=seed)
    together = explain(input_ids=x, target=0)
    assert method(explain) == "concrete"
    assert together.ledger.error.max() <= EXACT
    for i in range(2):
        alone = explain(input_ids=x[i : i + 1], target=0)
        assert torch.allclose(together.content["input_ids"][i], alone.content["input_ids"][0], rtol=1e-8, atol=1e-12)
        for name, total in alone.ledger.sinks.items():
            assert torch.allclose(together.ledger.sinks[name][i], total[0], rtol=1e-8, atol=1e-12), name


def test_a_graph_says_why_it_holds_for_less() -> None:
    explain = lrp_fx.convert(ready(Branching()))
    explain(input_ids=ids())
    refusals = explain.rewritten.program.refusals
    assert [r.split(":")[0] for r in refusals] == ["dynamic", "static"]


def test_a_rung_that_fails_leaves_no_trace() -> None:
    """Export marks the axes of the tensors it is given; marks of a failed attempt made the next one's sizes symbols."""
    values = ids()
    before = set(vars(values))
    explain = lrp_fx.convert(ready(Branching()))
    explain(input_ids=values)
    assert set(vars(values)) == before
    assert not any(any(info.dynamic) for info in explain.rewritten.program.inputs), "recorded for this call alone"


def test_what_is_demanded_may_be_relaxed_and_sites_are_still_balanced() -> None:
    explain = lrp_fx.convert(ready(SortedExperts()), conserve="site")
    explain.conserve = "off"
    assert explain(input_ids=ids()).ledger.sites, "graphs hold what was asked for when they were made"
