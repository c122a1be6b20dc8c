"""Targets: each means what it says, and a wrong one is refused before any work."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import lrp_fx
from lrp_fx import targets
from lrp_fx.capture.outputs import named_leaves
from testing.architectures import BY_NAME
from testing.converted import converted
from testing.handmade import Small, ids, ready


@pytest.fixture(scope="module")
def language_model() -> tuple[nn.Module, lrp_fx.Explainer, dict[str, Tensor]]:
    found = converted("llama", "sdpa", torch.float64)
    return found.model, found.explainer, found.inputs


@pytest.fixture(scope="module")
def classifier() -> tuple[nn.Module, lrp_fx.Explainer, dict[str, Tensor]]:
    found = converted("bert", "sdpa", torch.float64)
    return found.model, found.explainer, found.inputs


@pytest.fixture(autouse=True)
def _quiet() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_the_prediction_is_the_default(language_model: tuple) -> None:
    model, explain, inputs = language_model
    logits = model(**inputs).logits[:, -1]
    assert torch.allclose(explain(**inputs).score, logits.amax(-1), rtol=1e-6)


def test_next_token_is_read_at_the_last_token_the_mask_keeps(language_model: tuple) -> None:
    model, explain, inputs = language_model
    mask = inputs["attention_mask"].clone()
    mask[0, 7:] = 0
    relevance = explain(input_ids=inputs["input_ids"], attention_mask=mask)
    logits = model(input_ids=inputs["input_ids"], attention_mask=mask).logits
    assert torch.allclose(relevance.score, torch.stack([logits[0, 6].max(), logits[1, -1].max()]), rtol=1e-6)


@pytest.mark.parametrize("position", [-1, 3, -2])
def test_class_at_a_position(language_model: tuple, position: int) -> None:
    model, explain, inputs = language_model
    logits = model(**inputs).logits
    relevance = explain(**inputs, target=targets.Class([11, 30], position=position))
    assert torch.allclose(relevance.score, torch.stack([logits[0, position, 11], logits[1, position, 30]]), rtol=1e-6)
    assert relevance.ledger.error.max() <= 1e-10


def test_contrast_is_the_difference_of_two_explanations(classifier: tuple) -> None:
    _, explain, inputs = classifier
    contrast = explain(**inputs, target=targets.Contrast(2, 0))
    two, zero = explain(**inputs, target=2), explain(**inputs, target=0)
    assert torch.allclose(contrast.score, two.score - zero.score)
    assert torch.allclose(contrast.tokens, two.tokens - zero.tokens, atol=1e-12)
    assert explain.statistics.captures == 1


def test_span_sums_the_logits_of_its_tokens(language_model: tuple) -> None:
    model, explain, inputs = language_model
    relevance = explain(**inputs, target=targets.Span([4, 9, 2], start=5))
    logits = model(**inputs).logits
    expected = logits[:, 5, 4] + logits[:, 6, 9] + logits[:, 7, 2]
    assert torch.allclose(relevance.score, expected, rtol=1e-6)
    assert relevance.ledger.error.max() <= 1e-10


def test_any_function_of_the_output(classifier: tuple) -> None:
    _, explain, inputs = classifier
    linear = explain(**inputs, target=lambda logits: logits[:, 1] * 2)
    assert torch.allclose(linear.tokens, 2 * explain(**inputs, target=1).tokens, atol=1e-12)
    assert float(linear.ledger.sinks["target"].abs().max()) <= 1e-12
    probability = explain(**inputs, target=lambda logits: logits.softmax(-1)[:, 1])
    assert float(probability.ledger.sinks["target"].abs().max()) > 1e-3
    assert probability.ledger.error.max() <= 1e-10


def test_another_class_does_not_transpose_again(classifier: tuple) -> None:
    _, explain, inputs = classifier
    explain(**inputs, target=0)
    before = explain.statistics.transposes
    explain(**inputs, target=1)
    explain(**inputs, target=[2, 0])
    assert explain.statistics.transposes == before


def test_choosing_an_output() -> None:
    model = BY_NAME["clip"].build("sdpa", torch.float64)
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in BY_NAME["clip"].inputs().items()}
    explain = lrp_fx.convert(model, output="logits_per_text")
    relevance = explain(**inputs, target=lambda scores: scores.diagonal())
    assert torch.allclose(relevance.score, model(**inputs).logits_per_text.diagonal(), rtol=1e-6)
    assert set(relevance.content) == {"input_ids", "pixel_values"}
    with pytest.raises(lrp_fx.TargetError, match="no output 'nothing'"):
        lrp_fx.convert(model, output="nothing")(**inputs)


class Named(dict[str, Any]):
    """A container that torch knows without the names of its parts, as transformers' outputs were before 5.13."""


pytree.register_pytree_node(
    Named, lambda named: ([*named.values()], [*named]), lambda parts, names: Named(zip(names, parts, strict=True))
)


def test_outputs_are_named_where_a_container_is_registered_without_names() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Named:
            return Named(hidden=[x, x + 1], logits=self.head(x))

    model = Model().eval()
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    assert [name for name, _ in named_leaves(model(x))] == ["hidden.0", "hidden.1", "logits"]
    assert [name for name, _ in named_leaves([Named(), model(x)["logits"]])] == ["1"]
    relevance = lrp_fx.convert(model)(x)
    assert torch.allclose(relevance.score, model(x)["logits"].amax(-1))
    assert torch.equal(relevance.output["logits"], model(x)["logits"])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (7, "no such class: 7"),
        (-1, "no such class: -1"),
        (targets.Class([0, 1, 2]), "3 values for a batch of 2"),
        (targets.Contrast(0, 99), "no such class: 99"),
        (True, "not a target"),
        ("positive", "'positive' is neither a class nor an index: classes are LABEL_0"),
        (lambda logits: logits.sum(), "one number per example"),
        (lambda logits: torch.zeros(2, dtype=torch.float64, requires_grad=True), "does not depend"),
        (targets.Span([1], start=0), "needs an output"),
    ],
)
def test_targets_that_do_not_exist(classifier: tuple, target: object, message: str) -> None:
    _, explain, inputs = classifier
    with pytest.raises(lrp_fx.TargetError, match=message):
        explain(**inputs, target=target)


def test_positions_that_do_not_exist(language_model: tuple) -> None:
    _, explain, inputs = language_model
    with pytest.raises(lrp_fx.TargetError, match="no such position: 10"):
        explain(**inputs, target=targets.Class(3, position=10))
    with pytest.raises(lrp_fx.TargetError, match="no such position"):
        explain(**inputs, target=targets.Class(3, position=-11))
    with pytest.raises(lrp_fx.TargetError, match="no such position"):
        explain(**inputs, target=targets.Span([1, 2], start=9))


def test_rows_that_are_padding_are_named(language_model: tuple) -> None:
    _, explain, inputs = language_model
    mask = inputs["attention_mask"].clone()
    mask[1, 7:] = 0
    given = {"input_ids": inputs["input_ids"], "attention_mask": mask}
    for target, row in ((targets.Class(3, position=8), 8), (targets.Span([1, 2], start=6), 7)):
        with pytest.warns(UserWarning, match=f"row {row} of the output is padding in example 1"):
            explain(**given, target=target)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        explain(**given, target=targets.Class(3, position=[8, -1]))
    assert not any("padding" in str(w.message) for w in said)


class Last(Small):
    """One row of output: the last token's, as of a language model that generates."""

    hides = False

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.embed(input_ids))
        hidden = (attention_mask != 0) == self.hides
        weights = x.sum(-1).masked_fill(hidden, -1e9).softmax(-1)
        return self.head((weights[..., None] * x).sum(1, keepdim=True) + x[:, -1:])  # type: ignore[no-any-return]


@pytest.mark.parametrize("hides", [False, True])
def test_a_single_row_is_the_last_tokens_where_the_mask_keeps_it(hides: bool) -> None:
    model, given = ready(Last()), ids(2, 6)
    model.hides = hides  # type: ignore[assignment]
    left = torch.ones(2, 6, dtype=torch.int64)
    left[0, :2] = 0
    explain = lrp_fx.convert(model)
    mask = 1 - left if hides else left
    found = explain(given, attention_mask=mask, target=None)
    assert torch.allclose(found.score, model(given, mask)[:, 0].amax(-1))
    assert torch.equal(found.score, explain(given, attention_mask=mask, target=targets.Predicted(position=0)).score)
    with pytest.raises(lrp_fx.TargetError, match="hides some of 6 places, and the output has 1 rows"):
        explain(given, attention_mask=mask.flip(1))


def test_a_list_of_targets_is_one_for_each_example(language_model: tuple) -> None:
    model, explain, inputs = language_model
    logits = model(**inputs).logits
    found = explain(**inputs, target=[targets.Class(11, position=2), 30])
    assert torch.allclose(found.score, torch.stack([logits[0, 2, 11], logits[1, -1, 30]]), rtol=1e-6)
    found = explain(**inputs, target=[targets.Predicted(position=3), None])
    assert torch.allclose(found.score, torch.stack([logits[0, 3].max(), logits[1, -1].max()]), rtol=1e-6)
    pair = targets.as_target((targets.Contrast("a", 1), targets.Contrast([2], torch.tensor(3), position=4)))
    assert str(pair) == "Contrast(a=['a', 2], b=[1, 3], position=[-1, 4])"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ([targets.Class(1), targets.Contrast(1, 0)], "all of one kind; got Class, Contrast\n    next: targets="),
        ([lambda output: output[:, 0], 1], "got Custom, Class"),
        ([targets.Class([1, 0]), 1], r"index=\[1, 0\] in the target of one example: give one"),
        (10**20, "no such index: 1000"),
        (b"good", "not a target"),
        (targets.Class, r"^Class is a class, not a target\n    next: make one, Class\(...\)$"),
        (targets.At("head", targets.Class), "Class is a class"),
    ],
)
def test_what_is_no_target_is_refused_as_it_is_given(target: Any, says: str) -> None:
    with pytest.raises(lrp_fx.TargetError, match=says):
        targets.as_target(target)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: targets.Class([1, [2]]), r"index: \[1, \[2\]\] has lists"),
        (lambda: targets.Class([torch.tensor([1]), 2]), "index: .* has lists"),
        (
            lambda: targets.Predicted(position=[[0], [1, 2]]),
            r"position: .* has lists of different lengths.*\n    next: ",
        ),
        (lambda: targets.Span([1, 2], [0, [1]]), "start: .* has lists"),
        (lambda: targets.Span([[1, 2], [3]], 0), "as many tokens in every example"),
    ],
)
def test_lists_that_are_no_table_are_refused(make: Any, says: str) -> None:
    with pytest.raises(lrp_fx.TargetError, match=says):
        make()


@pytest.mark.parametrize("fixture", ["language_model", "classifier"])
def test_several_targets_are_explained_as_one_by_one(fixture: str, request: pytest.FixtureRequest) -> None:
    _, explain, inputs = request.getfixturevalue(fixture)
    goals = [
        None,
        1,
        targets.Class([2, 0]),
        targets.Contrast(0, 1),
        lambda output: output.flatten(1)[:, 0],
        2,
        targets.Contrast(2, 1),
    ]
    before = explain.statistics.runs
    together = explain(**inputs, targets=goals)
    assert explain.statistics.runs == before + 1
    assert len(together) == len(goals)
    for goal, ours in zip(goals, together, strict=True):
        alone = explain(**inputs, target=goal)
        assert str(ours.target) == str(alone.target)
        assert torch.allclose(ours.score, alone.score, rtol=1e-12, atol=0)
        assert torch.allclose(ours.content["input_ids"], alone.content["input_ids"], rtol=1e-9, atol=1e-14)
        assert torch.allclose(ours.tokens, alone.tokens, rtol=1e-9, atol=1e-14)
        for name, sink in alone.ledger.sinks.items():
            assert torch.allclose(ours.ledger.sinks[name], sink, rtol=1e-9, atol=1e-14)


def test_a_wrong_one_of_several_targets_is_refused(classifier: tuple) -> None:
    _, explain, inputs = classifier
    with pytest.raises(lrp_fx.TargetError, match="no such class"):
        explain(**inputs, targets=[0, 99])
    with pytest.raises(lrp_fx.InputError, match="not both"):
        explain(**inputs, target=1, targets=[0])
    with pytest.raises(lrp_fx.TargetError, match="takes a list"):
        explain(**inputs, targets=3)
    assert explain(**inputs, targets=[]) == []


class Counted(nn.Module):
    """A model that counts how often it runs, with four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.runs = nn.Linear(3, 4), 0
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return self.map(x)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (4, "no such class: 4"),
        (targets.Class([0, 9]), "no such class: 9"),
        (targets.Contrast(0, 5), "no such class: 5"),
        (lambda logits: logits.sum(), "one number per example"),
        (lambda logits: logits[:, 7], "fails on the model's output"),
        (lambda logits: 3, "one number per example"),
        (lambda logits: logits[:1, 0], "1 scores for a batch of 2"),
    ],
)
def test_refused_after_one_run_of_the_model(target: Any, message: str) -> None:
    """Before anything is captured."""
    model = Counted()
    explain = lrp_fx.convert(model)
    with pytest.raises(lrp_fx.TargetError, match=message):
        explain(torch.randn(2, 3), target=target)
    assert model.runs == 1 and explain.statistics.captures == 0


def test_an_output_that_is_an_input_is_refused() -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(lrp_fx.TargetError, match=r"output is %x itself, where relevance ends"):
        lrp_fx.convert(Same().eval())(torch.randn(2, 6), target=1)
