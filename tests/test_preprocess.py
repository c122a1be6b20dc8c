"""Texts, chats, images and sounds: what is read is what the model is given, by hand or by its tokenizer."""

from __future__ import annotations

import copy
import pickle
import wave
from collections import UserList
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as T
from torch import Tensor, nn

import lrp_fx
from lrp_fx.preprocess.open import load_tokenizer
from testing.vocabularies import Pixels, Samples, by_piece, by_word

pytestmark = pytest.mark.usefixtures("quiet")
SIZES: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
GPT: dict[str, Any] = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32, "bos_token_id": 1, "eos_token_id": 1}
LABELS = {0: "negative", 1: "positive", 2: "neutral"}


class Words(nn.Module):
    """A classifier of the mean of its words, with a configuration as transformers' have."""

    main_input_name = "input_ids"

    def __init__(self, size: int = 11, classes: int = 3, **config: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.types = nn.Embedding(size, 6), nn.Embedding(2, 6)
        self.head = nn.Linear(6, classes)
        self.config = SimpleNamespace(id2label=LABELS, **config)
        self.double().eval()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        h = self.embed(input_ids)
        if token_type_ids is not None:
            h = h + self.types(token_type_ids)
        if attention_mask is None:
            return self.head(torch.tanh(h).mean(1))  # type: ignore[no-any-return]
        kept = attention_mask.to(h.dtype)[..., None]
        return self.head((torch.tanh(h) * kept).sum(1) / kept.sum(1))  # type: ignore[no-any-return]


def same(ours: lrp_fx.Relevance, theirs: lrp_fx.Relevance) -> bool:
    pairs = [(ours.score, theirs.score), (ours.content["input_ids"], theirs.content["input_ids"])]
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in pairs)


@pytest.fixture(scope="module")
def explainer() -> lrp_fx.Explainer:
    return lrp_fx.convert(Words(), tokenizer=by_word())


TEXTS = ["a good film", "not bad"]


def test_a_text_is_what_its_tokenizer_makes_of_it(explainer: lrp_fx.Explainer) -> None:
    encoded = by_word()(TEXTS[0], return_tensors="pt")
    found = explainer(TEXTS[0])
    assert same(found, explainer(**encoded))
    assert same(found, explainer(encoded)), "given as it is"
    assert same(found, explainer(dict(encoded)))
    assert same(found, explainer(text=TEXTS[0])) and same(found, explainer(np.array(TEXTS[:1])))
    assert same(found, explainer(UserList(TEXTS[:1]))), "a column of a data set"
    assert same(found, explainer({n: v.tolist() for n, v in encoded.items()})), "lists are tables of numbers"
    assert same(found, explainer(**{n: v.numpy() for n, v in encoded.items()}))
    assert same(found, explainer(**{n: v[0] for n, v in encoded.items()})), "a row is a batch of one"
    assert explainer.trace("a film") is explainer and explainer.verify("not bad").ok


def test_texts_are_padded_where_a_mask_hides_it(explainer: lrp_fx.Explainer) -> None:
    found = explainer(TEXTS)
    assert found.inputs["input_ids"].tolist() == [[2, 5, 6, 8, 3], [2, 10, 7, 3, 0]]
    assert found.inputs["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 1, 0]]
    assert float(found.tokens[1, 4]) == 0  # type: ignore[index]
    for number, text in enumerate(TEXTS):
        alone = explainer(text)
        length = alone.tokens.shape[1]  # type: ignore[union-attr]
        assert torch.allclose(found.tokens[number, :length], alone.tokens[0])  # type: ignore[index]
    rows = explainer([[2, 5, 6, 8, 3], [2, 10, 7, 3]])
    assert same(rows, explainer(**{n: found.inputs[n] for n in ("input_ids", "attention_mask")})), "padded too"


def test_pairs_have_types(explainer: lrp_fx.Explainer) -> None:
    pair = explainer(("a film", "good"))
    assert pair.inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1]]
    assert same(pair, explainer("a film", "good"))
    several = explainer([("a film", "good"), ("bad", "the film")])
    assert several.inputs["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]


def test_a_tokenizer_without_a_padding_token_stays_as_it_is() -> None:
    tokenizer = by_piece()
    model = T.GPT2LMHeadModel(T.GPT2Config(vocab_size=len(tokenizer), **GPT)).eval()
    explainer = lrp_fx.convert(model, tokenizer=tokenizer)
    found = explainer(["Lily went", "Tom"])
    assert found.inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert tokenizer.pad_token is None and tokenizer.padding_side == by_piece().padding_side
    assert torch.allclose(found.score[1], explainer("Tom").score[0], atol=1e-6)


def test_what_cannot_be_padded_is_refused_with_what_to_do() -> None:
    class Unmasked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Words()

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.inner(input_ids)  # type: ignore[no-any-return]

    explainer = lrp_fx.convert(Unmasked().eval(), tokenizer=by_word())
    assert len(explainer(["a film", "the film"])) == 2
    with pytest.raises(lrp_fx.InputError, match="different lengths.*\n    next: explain one at a time"):
        explainer(TEXTS)
    headed = T.GPT2ForSequenceClassification(T.GPT2Config(vocab_size=11, **GPT)).eval()
    with pytest.raises(lrp_fx.InputError, match="next: set model.config.pad_token_id"):
        lrp_fx.convert(headed, tokenizer=by_word())(TEXTS)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "one of the texts is empty"),
        (["a film", ""], "one of the texts is empty"),
        ([], "an empty list was given"),
        ([{"role": "user", "content": "a film"}], "no chat template\n    next"),
        (object(), "no tensor among the inputs"),
    ],
)
def test_what_cannot_be_read_is_refused(explainer: lrp_fx.Explainer, given: Any, says: str) -> None:
    with pytest.raises(lrp_fx.InputError, match=says):
        explainer(given)


def test_nothing_reads() -> None:
    bare = lrp_fx.convert(Words())
    assert bare.reader is None
    for text in ("a film", TEXTS):
        with pytest.raises(lrp_fx.InputError, match=r"no tokenizer is known\n    next: convert\(model, tokenizer="):
            bare(text)
    with pytest.raises(lrp_fx.InputError, match=r"no image processor is known\n    next"):
        bare(Path("x.png"))
    with pytest.raises(lrp_fx.InputError, match="input_ids is given"):
        lrp_fx.convert(Words(), tokenizer=by_word())("a film", input_ids=[[2, 3]])


def test_chats_by_the_template() -> None:
    tokenizer = by_word()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}the{% endif %}"
    )
    model = T.GPT2LMHeadModel(T.GPT2Config(vocab_size=11, **GPT)).eval()
    explainer = lrp_fx.convert(model, tokenizer=tokenizer)
    asked = [{"role": "user", "content": "a film"}]
    assert explainer(asked).inputs["input_ids"].tolist() == [[5, 8, 9]]
    begun = [*asked, {"role": "assistant", "content": "good"}]
    assert explainer(begun).inputs["input_ids"].tolist() == [[5, 8, 6]]
    both = explainer([asked, begun])
    assert both.inputs["input_ids"].tolist() == [[5, 8, 9], [5, 8, 6]]


def test_a_decoder_gets_its_beginning() -> None:
    sizes = {"vocab_size": 11, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    config = T.T5Config(**sizes, decoder_start_token_id=4, pad_token_id=0)
    explainer = lrp_fx.convert(T.T5ForConditionalGeneration(config).eval(), tokenizer=by_word(), dynamic=False)
    found = explainer("a good film", decoder_text="the", target="film")
    assert found.inputs["decoder_input_ids"].tolist() == [[4, 9]]
    assert found.target[0].indices == (8,) and found.target[0].position == 1
    reader = explainer.reader
    assert reader is not None and reader.inputs(TEXTS)["decoder_input_ids"].tolist() == [[4], [4]]


class Sees(nn.Module):
    main_input_name = "pixel_values"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.head = nn.Conv2d(3, 4, 2, 2), nn.Linear(4, 3)
        self.config = SimpleNamespace(id2label=LABELS)
        self.eval()

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(torch.tanh(self.patches(pixel_values)).mean((2, 3)))  # type: ignore[no-any-return]


def test_images_as_arrays_pictures_and_files(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    explainer = lrp_fx.convert(Sees(), processor=Pixels())
    picture = image.fromarray(pixels)
    picture.save(tmp_path / "x.png")
    found = explainer(pixels, target="neutral")
    assert found.target[0].indices == (2,) and explainer.reader is not None
    for given in (picture, tmp_path / "x.png", str(tmp_path / "x.png")):
        assert torch.equal(explainer(given, target="neutral").content["pixel_values"], found.content["pixel_values"])
    assert explainer([pixels, picture]).content["pixel_values"].shape == (2, 3, 4, 4)
    assert torch.equal(explainer(image=pixels).score, explainer(images=pixels).score)
    with pytest.raises(lrp_fx.InputError, match="there is no file"):
        explainer(tmp_path / "y.png")
    with pytest.raises(lrp_fx.InputError, match=r"image was given.*\n    next: .*explainer\(pixel_values="):
        lrp_fx.convert(Sees())(picture)


class Hears(nn.Module):
    main_input_name = "input_values"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frames, self.head = nn.Conv1d(1, 4, 5, 5), nn.Linear(4, 2)
        self.config = SimpleNamespace()
        self.eval()

    def forward(self, input_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = input_values if attention_mask is None else input_values * attention_mask
        return self.head(torch.tanh(self.frames(x[:, None])).mean(2))  # type: ignore[no-any-return]


def test_sounds_have_a_rate(tmp_path: Path) -> None:
    samples = np.sin(np.arange(40, dtype=np.float32))
    explainer = lrp_fx.convert(Hears(), processor=Samples())
    found = explainer(samples)
    assert torch.equal(explainer({"array": samples, "sampling_rate": 8000}).score, found.score)
    assert explainer(audio=[samples, samples[:30]]).inputs["attention_mask"].sum(1).tolist() == [40, 30]
    with pytest.raises(lrp_fx.InputError, match="16000 samples a second, the model takes 8000\n    next: resample"):
        explainer({"array": samples, "sampling_rate": 16000})
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
        file.writeframes((samples * 32767).astype(np.int16).tobytes())
    assert torch.allclose(explainer(tmp_path / "x.wav").score, found.score, atol=1e-3)


def test_a_folder_and_a_pipeline(tmp_path: Path) -> None:
    tokenizer = by_word()
    model = T.BertForSequenceClassification(T.BertConfig(vocab_size=11, id2label=LABELS, **SIZES)).eval()
    by_hand = lrp_fx.convert(model, tokenizer=tokenizer)("a good film", target="Positive")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)) is not None
    pipeline = T.pipeline("text-classification", model=model, tokenizer=tokenizer)
    for source in (tmp_path, str(tmp_path), pipeline):
        assert same(lrp_fx.convert(source)("a good film", target="positive"), by_hand)
    assert same(lrp_fx.convert(model, tokenizer=tmp_path)("a good film", target="positive"), by_hand)
    with pytest.raises(lrp_fx.InputError, match="cannot load a tokenizer"):
        lrp_fx.convert(model, tokenizer=str(tmp_path.parent))
    for wrong, says in ((str(tmp_path / "none"), "there is no folder"), (3, "takes a torch.nn.Module, a pipeline")):
        with pytest.raises(lrp_fx.InputError, match=says):
            lrp_fx.convert(wrong)


def test_what_was_saved_and_what_was_copied_reads_too(tmp_path: Path, explainer: lrp_fx.Explainer) -> None:
    found = explainer(TEXTS, target=["positive", "neutral"])
    explainer.save(tmp_path / "graph.lrp", targets=[0])
    loaded = lrp_fx.load(tmp_path / "graph.lrp", tokenizer=by_word())
    again = loaded(TEXTS, target=["positive", "neutral"])
    assert same(again, found) and again.target.labels == ["positive", "neutral"]
    assert again.vocabulary == found.vocabulary
    bare = lrp_fx.load(tmp_path / "graph.lrp")
    assert same(bare(**found.inputs, target=["positive", "neutral"]), found), "labels are in the file"
    with pytest.raises(lrp_fx.InputError, match="no tokenizer is known"):
        bare("a film")
    with pytest.raises(lrp_fx.InputError, match="by name: input_ids"):
        bare(found.inputs["input_ids"])
    for copied in (copy.deepcopy(explainer), pickle.loads(pickle.dumps(explainer))):
        assert same(copied(TEXTS, target=["positive", "neutral"]), found)


def test_an_option_of_the_model_that_is_a_word_stays_one() -> None:
    class Chosen(Words):
        def forward(self, how: str, input_ids: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(input_ids) * (2 if how == "twice" else 1)

    explainer, given = lrp_fx.convert(Chosen()), torch.tensor([[1, 2, 3]])
    assert torch.allclose(explainer("twice", given).score, 2 * explainer("once", given).score)
