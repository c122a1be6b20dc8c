"""Results are objects: what they explain, and their examples one by one, in other places and types, in a few words."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.report.vocabulary import Vocabulary
from lrp_fx.targets import Class, Contrast, Predicted, Span
from testing.converted import converted

pytestmark = pytest.mark.usefixtures("quiet")
IDS = torch.tensor([[3, 1, 4, 1, 5], [2, 7, 1, 8, 0], [9, 2, 6, 0, 0]])
MASK = (IDS != 0).long()


class Reader(nn.Module):
    """Words and their places, one attention, two classes; ``rows``: for each token, or for the text."""

    def __init__(self, rows: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.places, self.head = nn.Embedding(10, 8), nn.Embedding(12, 8), nn.Linear(8, 10 if rows else 2)
        self.rows = rows
        self.double().eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        kept = attention_mask.unsqueeze(-1)
        x = (self.embed(input_ids) + self.places(torch.arange(input_ids.shape[1]))) * kept
        x = x + (x @ x.mT / 3).masked_fill(attention_mask.unsqueeze(1) == 0, -1e9).softmax(-1) @ x
        return self.head(x) if self.rows else self.head((x * kept).sum(1) / kept.sum(1))


@pytest.fixture(scope="module")
def explainer() -> lrp_fx.Explainer:
    return lrp_fx.convert(Reader())


@pytest.fixture(scope="module")
def result(explainer: lrp_fx.Explainer) -> lrp_fx.Relevance:
    return explainer(input_ids=IDS, attention_mask=MASK, target=[1, 0, 1])


def read(relevance: lrp_fx.Relevance) -> dict[str, Tensor]:
    """Everything that is read of a result example by example."""
    found: dict[str, Any] = {"score": relevance.score, "total": relevance.ledger.total, "error": relevance.ledger.error}
    found |= {f"content {n}": R for n, R in relevance.content.items()}
    found |= {f"leaf {n}": t for n, t in relevance.ledger.leaves.items()}
    found |= {f"sink {n}": t for n, t in relevance.ledger.sinks.items()}
    found |= {f"site {n} {i}": t for i, (n, *_, t) in enumerate(relevance.ledger.sink_sites)}
    found |= {f"position {i}": site.total for i, site in enumerate(relevance.position)}
    found |= {f"books {n}": R for n, R in relevance.ledger.token_books.rows.items()}
    found |= {f"depth {i}": depth.total for i, depth in enumerate(relevance.ledger.depths)}
    found |= {f"stream {i}": stream.depth.movedim(1, 0) for i, stream in enumerate(relevance.streams)}
    if any(R.dim() == 2 for R in relevance.content.values()):
        for way in ("signed", "absolute"):
            rows = relevance.per_token(way)
            found |= {f"{way} {n}": R for n, R in (rows if isinstance(rows, dict) else {"": rows}).items()}
    return found


def assert_sliced(relevance: lrp_fx.Relevance) -> None:
    whole = read(relevance)
    for rows in ([0], [1], [1, 0]):
        part = read(relevance[rows] if len(rows) > 1 else relevance[rows[0]])
        assert part.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(part[name], value[rows], msg=name)  # sums may be added in another order


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "vit", "swin"])
def test_what_is_read_of_an_example_is_what_the_batch_says_of_it(name: str) -> None:
    relevance = converted(name).relevance
    assert_sliced(relevance)
    assert torch.equal(relevance[1].output.logits, relevance.output.logits[1:])


def test_padding_several_texts_and_caches_are_taken_by_example(result: lrp_fx.Relevance) -> None:
    from tests.test_cached import IDS as TOKENS
    from tests.test_cached import Cache, Decoder
    from tests.test_several_texts import IDS as TEXTS
    from tests.test_several_texts import Choice

    assert_sliced(result[:2])
    assert torch.equal(result[-1].per_token(), result.per_token()[2:])
    assert_sliced(lrp_fx.convert(Choice("view").eval())(input_ids=TEXTS))
    model = Decoder()
    with torch.no_grad():
        cache = model(TOKENS[:, :6], Cache()).cache
    followed = lrp_fx.convert(model)(TOKENS[:, 6:], cache)
    assert torch.equal(followed[1].past, followed.past[1:])
    assert torch.equal(followed[1].output.cache.keys, followed.output.cache.keys[1:])
    assert_sliced(followed)


def test_a_result_counts_and_gives_its_examples(result: lrp_fx.Relevance) -> None:
    assert len(result) == 3
    assert [float(one.score) for one in result] == result.score.tolist()
    assert torch.equal(result[[True, False, True]].score, result.score[[0, 2]])
    assert torch.equal(result[torch.tensor([2, 0])].score, result.score[[2, 0]])
    assert result[:] is result
    assert result[1].inputs["input_ids"].tolist() == [IDS[1].tolist()]
    for wrong in (3, -4, [0, 3]):
        with pytest.raises(IndexError, match="there are 3"):
            result[wrong]
    for nothing in (slice(3, 3), "a", 1.5, [True, False]):
        with pytest.raises(lrp_fx.InputError):
            result[nothing]


def test_it_is_told_in_one_line(explainer: lrp_fx.Explainer, result: lrp_fx.Relevance) -> None:
    parts = (
        explainer,
        result,
        result.ledger,
        result.position[0],
        *result.streams,
        result.target,
        result.ledger.token_books,
    )
    for part in parts:
        assert "\n" not in repr(part)
        assert len(repr(part)) < 300
        assert type(part).__name__ in repr(part)


def test_it_goes_to_other_places_and_types(result: lrp_fx.Relevance) -> None:
    coarse = result.to(torch.float32)
    assert coarse.tokens.dtype == coarse.ledger.total.dtype == coarse.output.dtype == torch.float32
    assert coarse.inputs["input_ids"].dtype == torch.int64
    torch.testing.assert_close(coarse.tokens, result.tokens.float())
    assert torch.equal(result.to("cpu").tokens, result.tokens)
    with pytest.raises(lrp_fx.InputError, match="floating"):
        result.to(torch.int64)
    with pytest.raises(lrp_fx.InputError, match="takes a device"):
        result.to("nowhere")


def test_it_is_copied_and_pickled_whole(explainer: lrp_fx.Explainer, result: lrp_fx.Relevance) -> None:
    for other in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        for name, value in read(result).items():
            assert torch.equal(read(other)[name], value), name
    assert len(pickle.dumps(result[0])) < len(pickle.dumps(result))
    again = pickle.loads(pickle.dumps(explainer))(input_ids=IDS, attention_mask=MASK, target=[1, 0, 1])
    assert torch.equal(again.tokens, result.tokens)
    assert len(pickle.dumps(explainer)) < 60_000


def test_a_loaded_explainer_is_copied_and_says_how_it_travels(
    explainer: lrp_fx.Explainer, result: lrp_fx.Relevance, tmp_path: Path
) -> None:
    explainer.save(tmp_path / "graph", targets=[0])
    loaded = lrp_fx.load(tmp_path / "graph")
    again = copy.deepcopy(loaded)(input_ids=IDS, attention_mask=MASK, target=[1, 0, 1])
    assert torch.equal(again.tokens, result.tokens)
    assert again.target[0] == result.target[0]
    with pytest.raises(lrp_fx.InputError, match="its file's path"):
        pickle.dumps(loaded)


# ------------------------------------------------------------------------------------------------ what is explained
def test_it_says_what_it_explains(explainer: lrp_fx.Explainer, result: lrp_fx.Relevance) -> None:
    chances = result.output.softmax(-1)
    assert len(result.target) == 3
    assert [one.index for one in result.target] == [1, 0, 1]
    assert [one.probability for one in result.target] == pytest.approx(chances[[0, 1, 2], [1, 0, 1]].tolist())
    assert [one.score for one in result.target] == result.score.tolist()
    assert str(result.target) == repr(Class([1, 0, 1]))
    assert result[1].target[0].index == 0
    found = explainer(input_ids=IDS, attention_mask=MASK)
    assert [one.index for one in found.target] == found.output.argmax(-1).tolist()
    assert found.target.entropy is not None
    torch.testing.assert_close(found.target.entropy, torch.special.entr(chances).sum(1))


def test_names_come_from_the_vocabulary(result: lrp_fx.Relevance) -> None:
    import dataclasses

    named = dataclasses.replace(result, vocabulary=Vocabulary(outputs={0: "bad", 1: "good"}))
    assert named.target.labels == ["good", "bad", "good"]
    assert named[1].target[0].title == f"bad (class 0), p = {named.target[1].probability:.2f}".replace("0.", ".")
    assert result.target.labels == [None] * 3


def test_a_small_probability_is_not_called_none(result: lrp_fx.Relevance) -> None:
    import dataclasses

    chances = torch.tensor([[0.0004], [0.43], [1.0]])
    target = dataclasses.replace(result.target, indices=torch.zeros(3, 1).long(), probabilities=chances)
    assert [one.title.split("p = ")[1] for one in target] == [".0004", ".43", "1"]


def test_each_kind_of_target_says_what_it_reads(explainer: lrp_fx.Explainer) -> None:
    both = explainer(input_ids=IDS, attention_mask=MASK, target=Contrast(1, 0)).target[0]
    assert (both.index, both.against, len(both.probabilities)) == (1, 0, 2)
    assert both.title.startswith("class 1 rather than class 0, p = ")

    def margin(scores: Tensor) -> Tensor:
        return scores[:, 1] - scores[:, 0]

    made = explainer(input_ids=IDS, attention_mask=MASK, target=margin).target[0]
    assert (made.kind, made.title, made.index, made.probability) == ("custom", "margin", None, None)


def test_rows_are_counted_as_the_mask_does() -> None:
    explainer = lrp_fx.convert(Reader(rows=True))
    last = explainer(input_ids=IDS, attention_mask=MASK)
    assert [one.position for one in last.target] == [4, 3, 2]
    assert [one.index for one in last.target] == [int(last.output[b, p].argmax()) for b, p in enumerate((4, 3, 2))]
    before = explainer(input_ids=IDS, attention_mask=MASK, target=Predicted(position=-2)).target
    assert [one.position for one in before] == [3, 2, 1]
    span = explainer(input_ids=IDS, attention_mask=MASK, target=Span([4, 5], start=1)).target[2]
    assert (span.indices, span.positions) == ((4, 5), (1, 2))
    chances = last.output.softmax(-1)
    assert span.probabilities == pytest.approx((float(chances[2, 1, 4]), float(chances[2, 2, 5])))


def test_without_the_output_it_says_what_it_can() -> None:
    explainer = lrp_fx.convert(Reader(), keep_output=False)
    assert explainer(input_ids=IDS, attention_mask=MASK).target[0].index is None
    assert explainer(input_ids=IDS, attention_mask=MASK, target=1).target[0].title == "class 1"


@pytest.mark.parametrize("name", ["last_hidden_state", "logits", "probabilities"])
def test_only_scores_of_classes_have_probabilities(name: str) -> None:
    class Two(Reader):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            found = super().forward(input_ids, attention_mask)
            found = found.softmax(-1) if name == "probabilities" else found
            return {name: found, "other": found.sum(1)}

    relevance = lrp_fx.convert(Two())(input_ids=IDS, attention_mask=MASK, target=1)
    expected = Reader()(IDS, MASK).softmax(-1)[0, 1]
    chance = relevance.target[0].probability
    assert chance is None if name == "last_hidden_state" else chance == pytest.approx(float(expected))


def test_labels_that_do_not_exclude_each_other_have_chances_of_their_own() -> None:
    model = Reader()
    model.config = type("Config", (), {"problem_type": "multi_label_classification"})()
    relevance = lrp_fx.convert(model)(input_ids=IDS, attention_mask=MASK, target=1)
    assert relevance.target[0].probability == pytest.approx(float(relevance.output[0, 1].sigmoid()))
