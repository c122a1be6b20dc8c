"""Results read as words, segments and tables, and kept in a file: sums stay, and so does every bit."""

from __future__ import annotations

import json
import typing
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lrp_fx
from lrp_fx.report.kept import FORMAT, PARTS, Output, write
from lrp_fx.report.relevance import Stream
from testing.converted import converted
from testing.handmade import Small, ids
from tests.test_results import IDS, MASK, Reader, read

pytestmark = pytest.mark.usefixtures("quiet")
WORDS = ["[PAD]", "un", "##like", "##ly", "good", "film", "[SEP]", "not", "a", "."]


class Tokenizer:
    """Names ten tokens."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [WORDS.index(w) for w in text.split()]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [WORDS[i] for i in ids]

    def __len__(self) -> int:
        return len(WORDS)


@pytest.fixture(scope="module")
def result() -> lrp_fx.Relevance:
    """``##ly un good un film``, ``##like not un a``, ``. ##like [SEP]``."""
    explainer = lrp_fx.convert(Reader(), tokenizer=Tokenizer())
    return explainer(input_ids=IDS, attention_mask=MASK, target=[1, 0, 1])


# ------------------------------------------------------------------------------------------------ words and segments
def test_words_keep_the_sums_of_their_tokens(result: lrp_fx.Relevance) -> None:
    explainer = lrp_fx.convert(Reader(), tokenizer=Tokenizer())
    ids = torch.tensor([[7, 1, 2, 3, 5], [8, 4, 5, 9, 6]])
    found = explainer(input_ids=ids, attention_mask=torch.ones_like(ids))
    words = found.words()
    assert [[w.text for w in example] for example in words] == [
        ["not", "unlikely", "film"],
        ["a", "good", "film", ".", "[SEP]"],
    ]
    assert words[0][1].relevance == pytest.approx(float(found.tokens[0, 1:4].sum()))
    assert words[0][1].content == pytest.approx(float(found.content["input_ids"][0, 1:4].sum()))
    assert (words[0][1].start, words[0][1].stop) == (1, 4)
    for b, example in enumerate(words):
        assert sum(w.relevance for w in example) == pytest.approx(float(found.tokens[b].sum()))
    assert [len(example) for example in result.words()] == [5, 4, 2]  # "##" at the beginning; padding left out
    top = found.top(2, words=True)[0]
    assert [w.text for w in top] == [w.text for w in sorted(words[0], key=lambda w: abs(w.relevance), reverse=True)[:2]]
    with pytest.raises(lrp_fx.InputError, match="at least one"):
        found.top(0)


def test_names_are_asked_for_where_there_are_none() -> None:
    found = lrp_fx.convert(Reader())(input_ids=IDS, attention_mask=MASK)
    assert sorted(part.text for part in found.top(9)[2]) == ["2", "6", "9"]
    with pytest.raises(lrp_fx.InputError, match="no names"):
        found.words()
    assert found.words(Tokenizer())[1][1].text == "not"
    assert found.words({4: "good"})[0][2].text == "good"


def test_segments_add_up_with_the_rest(result: lrp_fx.Relevance) -> None:
    mask = torch.zeros(5, dtype=torch.bool)
    mask[2] = True
    found = result.segments({"first": (0, 2), "one": mask, "each": [slice(3, 5), (3, 4), slice(-1, None)]})
    assert list(found) == ["first", "one", "each", "rest"]
    torch.testing.assert_close(sum(found.values()), result.tokens.sum(1))
    torch.testing.assert_close(found["first"], result.tokens[:, :2].sum(1))
    torch.testing.assert_close(found["each"][1], result.tokens[1, 3])
    named = result[0].segments({"word": "good un", "last": "FILM"})
    torch.testing.assert_close(named["word"], result.tokens[:1, 2:4].sum(1))
    assert list(result.segments([slice(0, 1), slice(1, 2)])) == ["0", "1", "rest"]
    content = result.segments({"a": (0, 5)}, position=None)
    torch.testing.assert_close(content["a"], result.content["input_ids"].sum(1))


@pytest.mark.parametrize(
    ("segments", "why"),
    [
        ({"a": (0, 2), "b": (1, 3)}, "'a' and 'b' overlap"),
        ({"a": (0, 6)}, "6 is outside of the 5 tokens"),
        ({"a": (2, 2)}, "no token in example 0"),
        ({"a": "bad"}, "found 0 times in example 0"),
        ({"a": ["un", "un", "un"]}, "found 2 times in example 0"),
        ({"a": [(0, 1)]}, "1 spans for 3 examples"),
        ({"a": torch.ones(4, dtype=torch.bool)}, r"\(5,\)"),
        ({"rest": (0, 1)}, "another"),
        ({"a": 1.5}, "a slice"),
    ],
)
def test_segments_that_are_none_are_refused(result: lrp_fx.Relevance, segments: Any, why: str) -> None:
    with pytest.raises(lrp_fx.InputError, match=why):
        result.segments(segments)


def test_one_of_several_texts_is_named() -> None:
    found = converted("t5").relevance
    with pytest.raises(lrp_fx.InputError, match="input= is one of"):
        found.segments({"a": (0, 2)})
    rows = found.tokens["decoder_input_ids"]
    torch.testing.assert_close(found.segments({"a": (0, 2)}, input="decoder_input_ids")["a"], rows[:, :2].sum(1))
    assert {part.input for part in found.top(100)[0]} == {"input_ids", "decoder_input_ids"}


# ------------------------------------------------------------------------------------------------ tables
def test_it_is_plain_numbers_and_names(result: lrp_fx.Relevance, tmp_path: Path) -> None:
    text = result.to_json(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == json.loads(text) == result.to_dict()
    one = json.loads(text)["examples"][1]
    assert [token["text"] for token in one["tokens"]] == ["##like", "not", "un", "a"]
    assert [token["relevance"] for token in one["tokens"]] == pytest.approx(result.tokens[1, :4].tolist())
    assert (one["indices"], one["score"]) == ([0], float(result.score[1]))
    booked = sum([*one["ledger"]["leaves"].values(), *one["ledger"]["sinks"].values()])
    assert booked == pytest.approx(one["score"])


def test_images_are_told_by_patch_and_by_pixel() -> None:
    found = converted("vit").relevance
    one = found.to_dict()["examples"][1]
    heat = found.heatmap()[1]
    assert torch.tensor(one["maps"]["pixel_values"]).shape == heat.shape
    patches = sum(token["content"] for token in one["tokens"])
    assert patches == pytest.approx(float(heat.sum()), abs=1e-5)


def test_a_frame_has_a_row_for_each_token(result: lrp_fx.Relevance) -> None:
    pytest.importorskip("pandas")
    frame = result.to_frame()
    assert len(frame) == 12
    assert frame.groupby("example")["relevance"].sum().tolist() == pytest.approx(result.tokens.sum(1).tolist())


# ------------------------------------------------------------------------------------------------ files
def assert_same(a: Any, b: Any) -> None:
    """Bit for bit, all the way down."""
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif is_dataclass(a):
        assert type(a) is type(b)
        for field in fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert a == b


@pytest.mark.parametrize("name", ["llama", "t5", "swin"])
def test_a_file_gives_back_every_bit(name: str, tmp_path: Path) -> None:
    relevance = converted(name).relevance
    for part in (relevance, relevance[1]):
        part.save(tmp_path / "r")
        again = lrp_fx.Relevance.load(tmp_path / "r")
        for field in fields(part):
            if field.name != "output":
                assert_same(getattr(part, field.name), getattr(again, field.name))
        assert torch.equal(again.output.logits, part.output["logits"])
        assert_same(read(part), read(again))
        again.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "r").read_bytes()
    assert again.ledger.token_books.position[0] is again.position[0]


def parts_of(kind: Any, found: set[type]) -> set[type]:
    """The classes of this package that the fields of a class may hold, all the way down."""
    for inner in typing.get_args(kind):
        parts_of(inner, found)
    if is_dataclass(kind) and kind not in found:
        found.add(kind)
        for hint in typing.get_type_hints(kind).values():
            parts_of(hint, found)
    return found


def test_every_part_of_a_result_can_be_kept() -> None:
    assert parts_of(lrp_fx.Relevance, set()) == {*PARTS, lrp_fx.Relevance, Stream}


def tensors_of(value: Any, found: dict[Any, int]) -> dict[Any, int]:
    """The bytes of every tensor once."""
    if isinstance(value, Tensor):
        found[value.data_ptr(), value.shape] = value.numel() * value.element_size()
    elif is_dataclass(value):
        for field in fields(value):
            tensors_of(getattr(value, field.name), found)
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            tensors_of(part, found)
    return found


def test_a_file_is_no_larger_than_twice_its_tensors(tmp_path: Path) -> None:
    relevance = converted("llama").relevance
    size = sum(tensors_of(relevance, {}).values())
    relevance.save(tmp_path / "r")
    assert (tmp_path / "r").stat().st_size < 2 * size


def test_positions_and_outputs_may_be_left_out(result: lrp_fx.Relevance, tmp_path: Path) -> None:
    result.save(tmp_path / "whole")
    result.save(tmp_path / "sums", positions=False, output=False)
    assert (tmp_path / "sums").stat().st_size < (tmp_path / "whole").stat().st_size
    again = lrp_fx.Relevance.load(tmp_path / "sums")
    torch.testing.assert_close(again.tokens, result.tokens)
    torch.testing.assert_close(again.position[0].total, result.position[0].total)
    assert again.output is None
    assert again.target[0] == result.target[0]
    with pytest.raises(lrp_fx.InputError, match="saved as sums by token"):
        again.per_token("absolute")


@pytest.mark.parametrize("name", ["llama", "t5", "swin"])
def test_sums_by_token_are_read_as_positions_are(name: str, tmp_path: Path) -> None:
    relevance = converted(name).relevance
    relevance.save(tmp_path / "sums", positions=False)
    again = lrp_fx.Relevance.load(tmp_path / "sums")
    rows, found = relevance.ledger.token_books.rows, again.ledger.token_books.rows
    assert rows.keys() == found.keys()
    for key, value in rows.items():
        torch.testing.assert_close(found[key], value)
    for one, other in zip(again.position, relevance.position, strict=True):
        torch.testing.assert_close(one.total, other.total)


def test_what_is_no_result_or_damaged_is_refused(result: lrp_fx.Relevance, tmp_path: Path) -> None:
    import safetensors.torch

    place = tmp_path / "r"
    result.save(place)
    whole = place.read_bytes()
    for number in range(0, len(whole), max(1, len(whole) // 60)):
        place.write_bytes(whole[:number] + bytes([whole[number] ^ 1]) + whole[number + 1 :])
        with pytest.raises(lrp_fx.InputError):
            lrp_fx.Relevance.load(place)
    place.write_bytes(whole[:-9])
    with pytest.raises(lrp_fx.InputError, match="damaged"):
        lrp_fx.Relevance.load(place)
    safetensors.torch.save_file({"a": torch.zeros(2)}, place)
    with pytest.raises(lrp_fx.InputError, match="something else"):
        lrp_fx.Relevance.load(place)
    safetensors.torch.save_file({"a": torch.zeros(2)}, place, metadata={FORMAT: '{"version": 9}'})
    with pytest.raises(lrp_fx.InputError, match="version 9"):
        lrp_fx.Relevance.load(place)
    with pytest.raises(lrp_fx.InputError, match="no file"):
        lrp_fx.Relevance.load(tmp_path / "nothing")
    with pytest.raises(lrp_fx.InputError, match="could not be written"):
        result.save(tmp_path / "no folder" / "r")


def test_a_file_that_someone_wrote_is_no_result(result: lrp_fx.Relevance, tmp_path: Path) -> None:
    write(tmp_path / "r", replace(result, score="high"), (lrp_fx.Relevance, Stream))  # type: ignore[arg-type]
    with pytest.raises(lrp_fx.InputError, match="score of a Relevance is something else"):
        lrp_fx.Relevance.load(tmp_path / "r")
    write(tmp_path / "r", result.ledger, ())
    with pytest.raises(lrp_fx.InputError, match="holds no Relevance"):
        lrp_fx.Relevance.load(tmp_path / "r")


def test_outputs_of_a_class_are_read_by_name() -> None:
    output = Output(logits=torch.ones(1))
    assert output.logits is output["logits"]
    with pytest.raises(AttributeError, match="logits"):
        _ = output.scores


def test_a_page_or_table_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    relevance = lrp_fx.convert(Small().eval())(input_ids=ids())
    for put in (relevance.to_json, relevance.to_html):
        with pytest.raises(lrp_fx.InputError, match=r"could not be written: .*\n    next: give a path"):
            put(tmp_path / "not there" / "file")
