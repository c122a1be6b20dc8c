"""Labels, tokens and numbers of any kind as targets, what results are called after, and what is said of wrong ones."""

from __future__ import annotations

import warnings
from collections import UserList
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers as T
from torch import Tensor, nn

import lrp_fx
from lrp_fx import targets
from testing.vocabularies import by_piece, by_word
from tests.test_preprocess import GPT, SIZES, Words


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def classifier() -> lrp_fx.Explainer:
    return lrp_fx.convert(Words(), tokenizer=by_word())


@pytest.fixture(scope="module")
def writer() -> lrp_fx.Explainer:
    tokenizer = by_piece()
    torch.manual_seed(0)
    model = T.GPT2LMHeadModel(T.GPT2Config(vocab_size=len(tokenizer), **GPT)).double().eval()
    return lrp_fx.convert(model, tokenizer=tokenizer)


def test_labels_in_any_case_and_one_for_each_example(classifier: lrp_fx.Explainer) -> None:
    texts = ["a good film", "not bad"]
    by_number = classifier(texts, target=[1, 2])
    columns = [np.array(["positive", "neutral"]), np.array(["positive", 2], dtype=object), UserList(["positive", 2])]
    for target in (["positive", "neutral"], ["Positive", 2], targets.Class(["POSITIVE", "neutral"]), *columns):
        found = classifier(texts, target=target)
        assert torch.equal(found.score, by_number.score)
        assert found.target.labels == ["positive", "neutral"]
    contrast = classifier(texts, target=targets.Contrast("positive", ["neutral", "negative"]))
    assert [one.labels for one in contrast.target] == [("positive", "neutral"), ("positive", "negative")]
    assert torch.equal(classifier(texts, targets=["positive", None])[0].score, classifier(texts, target=1).score)
    assert str(classifier(texts, target="positive").target) == "Class(index='positive', position=-1)"


ONE: list[Any] = [1, np.int64(1), np.uint8(1), np.array(1), torch.tensor(1), torch.tensor(1, dtype=torch.int32)]


@pytest.mark.parametrize("one", ONE, ids=lambda value: f"{type(value).__name__} {getattr(value, 'dtype', '')}")
def test_integers_of_any_kind(classifier: lrp_fx.Explainer, one: Any) -> None:
    wanted = classifier("a film", target=1).score
    for target in (one, [one], (one,), targets.Class(one), targets.Class([one])):
        assert torch.equal(classifier("a film", target=target).score, wanted)
    margin = classifier("a film", target=targets.Contrast(1, 0)).score
    assert torch.equal(classifier("a film", target=targets.Contrast(one, torch.tensor([0]))).score, margin)


def test_integers_of_any_kind_as_places(writer: lrp_fx.Explainer) -> None:
    text = "Lily went. Tom"
    wanted = writer(text, target=targets.Span([3, 4], start=1)).score
    for one in ONE:
        assert torch.equal(writer(text, target=targets.Span([np.int64(3), torch.tensor(4)], start=one)).score, wanted)
        assert torch.equal(writer(text, target=targets.Span(np.array([[3, 4]]), start=[one])).score, wanted)
        assert writer(text, target=targets.Class(3, position=one)).target[0].position == 1


@pytest.mark.parametrize("wrong", [1.0, np.float32(1), torch.tensor(1.0), [0.5], torch.tensor([True]), np.bool_(True)])
def test_what_is_no_whole_number_is_not_rounded(classifier: lrp_fx.Explainer, wrong: Any) -> None:
    for target in (wrong, targets.Class) if not isinstance(wrong, float) else (targets.Class,):
        with pytest.raises(lrp_fx.TargetError, match="whole number|not a target"):
            classifier("a film", target=target(wrong) if target is targets.Class else target)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("postive", "'postive' is neither a class nor an index: classes are negative, positive, neutral"),
        (["positive", "other"], "'other' is neither"),
        (-1, r"no such class: -1 \(the output has 3, valid are 0..2\)"),
        (targets.Contrast("positive", 1), "in example 0 both sides are output 1.*\n    next: give two different"),
        (targets.Contrast([0, 1], [1, 1]), "in example 1 both sides are output 1"),
        (["positive"] * 3, "3 values for a batch of 2"),
        (targets.Span(["a", "b"], start=0), "'a' is neither a class"),
    ],
)
def test_wrong_names_are_refused(classifier: lrp_fx.Explainer, target: Any, says: str) -> None:
    before = vars(classifier.statistics).copy()
    with pytest.raises(lrp_fx.TargetError, match=says):
        classifier(["a film", "a bad film"], target=target)
    assert vars(classifier.statistics)["transposes"] == before["transposes"]


def test_labels_that_differ_in_case_only() -> None:
    model = Words()
    model.config.id2label = {0: "us", 1: "US", 2: "them"}
    explainer = lrp_fx.convert(model, tokenizer=by_word())
    assert explainer("a film", target="US").target[0].indices == (1,)
    with pytest.raises(lrp_fx.TargetError, match=r"'Us' is several labels: 'us' \(0\), 'US' \(1\)"):
        explainer("a film", target="Us")


def test_labels_are_known_without_a_tokenizer() -> None:
    found = lrp_fx.convert(Words())(torch.tensor([[1, 2, 3]]), target="positive")
    assert found.target.labels == ["positive"] and found.vocabulary is not None and not found.vocabulary.tokens

    class Nameless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Words()

        def forward(self, ids: Tensor) -> Tensor:
            return self.inner(ids)  # type: ignore[no-any-return]

    with pytest.raises(
        lrp_fx.TargetError, match=r"names of this model's outputs are not known\n    next: give an index"
    ):
        lrp_fx.convert(Nameless().eval())(torch.tensor([[1, 2, 3]]), target="positive")


def test_a_token_is_one_piece(writer: lrp_fx.Explainer) -> None:
    for name in (" Lily", "Lily", "▁Lily"):
        assert writer("Tom went", target=name).target[0].labels == ("▁Lily",), name
    with pytest.raises(lrp_fx.TargetError, match=r"'Liam' is 2 tokens .*: ▁Li \(3\), am \(4\)\n    next: .*target=3"):
        writer("Tom went", target="Liam")
    with pytest.raises(lrp_fx.TargetError, match=r"in example 0 both sides are output 2"):
        writer("Tom went", target=targets.Contrast(" Lily", "Lily"))
    with pytest.raises(lrp_fx.TargetError, match="the vocabulary has no token 'Ω'"):
        writer("Tom went", target="Ω")


def test_a_space_is_part_of_a_token() -> None:
    tokenizer = by_piece(prefix="never")
    model = T.GPT2LMHeadModel(T.GPT2Config(vocab_size=len(tokenizer), **GPT)).eval()
    reader = lrp_fx.convert(model, tokenizer=tokenizer).reader
    assert reader is not None
    names = [reader.vocabulary([], [reader.output_index(name)]).outputs for name in (" Lily", "Lily")]
    assert [list(found.values()) for found in names] == [["▁Lily"], ["Lily"]]
    assert reader.decode(reader.inputs("Lily went")["input_ids"]).replace("▁", " ").split() == ["Lily", "went"]


def test_tokens_are_no_names_of_other_outputs() -> None:
    reads = T.BertForQuestionAnswering(T.BertConfig(vocab_size=11, **SIZES)).eval()
    with pytest.raises(lrp_fx.TargetError, match="this model's outputs have none"):
        lrp_fx.convert(reads, tokenizer=by_word())("a good film", target="good")


def test_a_span_says_where_its_tokens_stand(writer: lrp_fx.Explainer) -> None:
    text = "Lily went. Tom went"
    assert writer.reader is not None
    ids = writer.reader.inputs(text)["input_ids"]
    by_row = writer(ids, target=targets.Span(ids[0, 3:], start=2))
    for span in (targets.Span(ids[0, 3:], tokens_at=3), targets.Span(" Tom went", tokens_at=3)):
        assert torch.equal(writer(ids, target=span).score, by_row.score)
    assert torch.equal(writer(ids, target=targets.Span(["Tom", " went"], tokens_at=[3])).score, by_row.score)
    for wrong, says in (
        (lambda: targets.Span([1]), "needs start= .* or tokens_at="),
        (lambda: targets.Span([1], 0, tokens_at=1), "needs start= .* or tokens_at="),
        (lambda: targets.Span([1], tokens_at=0), "tokens_at=0: nothing stands before"),
        (lambda: targets.Span([1.5], 0), "whole number"),
        (lambda: writer(ids, target=targets.Span(ids[0, 3:], start=4)), r"no such position.*\n    next: .*tokens_at="),
    ):
        with pytest.raises(lrp_fx.TargetError, match=says):
            wrong()


def test_a_span_that_is_off_by_one_is_told(writer: lrp_fx.Explainer) -> None:
    assert writer.reader is not None
    ids = writer.reader.inputs("Lily went. Tom went")["input_ids"]
    with pytest.warns(
        UserWarning, match=r"stand in the text at 2..3.*\n    next: Span\(tokens, tokens_at=2\)"
    ) as caught:
        writer(ids, target=targets.Span(ids[0, 2:4], start=2))
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "tokens cancel|one token got most|the parts of the score")
        writer(ids, target=targets.Span(ids[0, 2:4], start=1))
        writer(ids, target=targets.Span([5, 5], start=2))
        writer(ids, target=targets.Span(ids[0, 2:4], tokens_at=2))


def test_results_know_what_their_numbers_are_called(writer: lrp_fx.Explainer) -> None:
    found = writer(["Lily went", "Tom"], target=[" Tom", " Lily"])
    assert found.vocabulary is not None
    assert set(found.vocabulary.tokens.values()) == {"▁Lily", "▁went", "▁Tom", "<unk>"}
    assert found.target.labels == ["▁Tom", "▁Lily"]
    assert "Lily" in found.to_html() and "Lily" in found._repr_html_()
    assert writer("Lily went").target.labels[0] is not None, "the prediction too"
    assert writer(torch.tensor([[2, 5]])).vocabulary is not None, "and where ids are given"


def test_a_place_to_fill_in_that_is_not_explained_is_told() -> None:
    fills = T.BertForMaskedLM(T.BertConfig(vocab_size=11, **SIZES)).eval()
    explainer = lrp_fx.convert(fills, tokenizer=by_word())
    with pytest.warns(UserWarning, match=r"\[MASK\] at 2, and row 4 .*\n    next: .*position=2"):
        explainer("a [MASK] film", target="good")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "tokens cancel|one token got most|the parts of the score")
        found = explainer("a [MASK] film", target=targets.Class("good", position=2))
        explainer("a film")
    assert found.target[0].labels == ("good",)


class Margin(nn.Module):
    """Classes whose scores are what the words say, so that a batch holds one that cancels and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(
            torch.tensor([[0.0, 0.0], [1.0, 10.0], [1.0, -9.9], [1.0, 1.0], [1.0, -10.0]]).double()
        )
        self.bias = nn.Parameter(torch.tensor([0.0, -3.0]).double())

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.embed(input_ids).sum(1) + self.bias


SAID = "the (score|parts)|tokens cancel|one token"


def test_warnings_name_the_example_the_next_step_and_the_line() -> None:
    explainer = lrp_fx.convert(Margin().eval())
    nothing, little, much = [3, 3, 3, 0, 0], [3, 3, 3, 1, 2], [1, 3, 3, 3, 0]
    with pytest.warns(UserWarning, match=SAID) as caught:
        explainer(input_ids=torch.tensor([much, nothing, little, little]), target=1)
    said = [str(w.message) for w in caught]
    zero, cancel = (text for text in said if text.startswith("the "))
    assert "the score is 0 in example 1: " in zero and "Contrast" in zero
    assert "cancel in examples 2, 3 (61.0 times the score of example 2, +0.1" in cancel and "Contrast" in cancel
    assert {w.filename for w in caught} == {__file__}
    with pytest.warns(UserWarning, match=r"cancel \(61.0 times the score of \+0.1") as caught:
        explainer(input_ids=torch.tensor([little]), target=1)
    with pytest.warns(UserWarning, match="this margin is small, the model is undecided"):
        explainer(input_ids=torch.tensor([[1, 1, 1, 1, 2, 2, 2]]), target=targets.Contrast(1, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "tokens cancel|one token")
        explainer(input_ids=torch.tensor([much]), target=1)
