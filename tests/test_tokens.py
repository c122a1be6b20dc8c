"""Tokens: how much they cancel, which of them got most, what is said of it, and pictures without it."""

from __future__ import annotations

import copy
import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import lrp_fx
from lrp_fx.report.view import examples

#: What each word speaks for class 0; the relevance of a token is that number, so all figures here are known.
WORTH = [0.0, -9.0, 4.0, 3.0, 1.0]
NAMES = ["[PAD]", "<bos>", "four", "three", "one"]
SINK, SEPARATED, AGREED = [1, 2, 2, 3], [2, 3, 1, 2], [2, 3, 4, 4]


class Counter(nn.Module):
    """The sum of what the words are worth."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding.from_pretrained(torch.tensor([[w, 1.0] for w in WORTH], dtype=torch.float64))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.words(input_ids)
        return (x if attention_mask is None else x * attention_mask.unsqueeze(-1).to(x.dtype)).sum(1)


class Pair(Counter):
    """The same of two texts."""

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:  # type: ignore[override]
        return self.words(input_ids).sum(1) + self.words(decoder_input_ids).sum(1)


class Vectors(nn.Module):
    """The sum of vectors, with positions of no content."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor([[0.5], [0.25], [0.0], [-1.0]], dtype=torch.float64))

    def forward(self, inputs_embeds: Tensor) -> Tensor:
        return ((inputs_embeds + self.place) * 2).sum(1)


class Patches(nn.Module):
    """Patches of 2 x 2 behind a class token, with learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(1, 3, 2, 2, dtype=torch.float64), nn.Linear(3, 2, dtype=torch.float64)
        self.token = nn.Parameter(torch.randn(1, 1, 3, dtype=torch.float64))
        self.place = nn.Parameter(torch.randn(1, 7, 3, dtype=torch.float64))

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patch(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return self.head(torch.tanh(x).mean(1))


class Choices(Counter):
    """Several texts for each example, a score for each; ``joined``: position runs through all texts."""

    def __init__(self, joined: bool = False) -> None:
        super().__init__()
        self.place, self.joined = nn.Embedding(8, 2, dtype=torch.float64), joined
        nn.init.constant_(self.place.weight, 0.25)

    def forward(self, input_ids: Tensor) -> Tensor:  # type: ignore[override]
        batch, texts, size = input_ids.shape
        x = self.words(input_ids.view(batch, -1) if self.joined else input_ids.view(-1, size))
        x = x + self.place(torch.arange(x.shape[1]))
        return x[..., 0].reshape(batch, texts, size).sum(-1)


class TwoVectors(Vectors):
    """Two inputs of vectors, position of the first alone."""

    def forward(self, inputs_embeds: Tensor, decoder_inputs_embeds: Tensor) -> Tensor:  # type: ignore[override]
        return (inputs_embeds + self.place).sum(1) + decoder_inputs_embeds.sum(1)


def explain(*texts: list[int], **options: Any) -> lrp_fx.Relevance:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return lrp_fx.convert(Counter().eval(), **options)(input_ids=torch.tensor(texts), target=0)


@pytest.fixture(scope="module")
def relevance() -> lrp_fx.Relevance:
    return explain(SINK, SEPARATED, AGREED)


def test_cancellation_and_the_token_that_got_most(relevance: lrp_fx.Relevance) -> None:
    ledger = relevance.ledger
    assert ledger.cancellation.tolist() == [1.0, 1.0, 1.0]  # leaves alone do not show it
    assert ledger.token_cancellation.tolist() == [10.0, 10.0, 1.0]
    first, inside, agreed = ledger.largest_tokens
    assert first is not None and inside is not None and agreed is not None
    assert (first.input, first.place, first.relevance, first.share, first.against) == (
        "input_ids",
        (0,),
        -9,
        -0.45,
        True,
    )
    assert (inside.place, inside.against) == ((2,), True)
    assert (agreed.place, agreed.share, agreed.against) == ((0,), 4 / 9, False)
    assert "tokens cancel         10 (#0 -45 %)  10 (#2 -45 %)  1 (#0 +44 %)" in str(ledger)


def warned(explainer: Any, *texts: list[int]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        explainer(input_ids=torch.tensor(texts), target=0)
    return [w for w in caught if "token" in str(w.message)]


def test_a_warning_of_each_kind_comes_once_and_points_at_the_caller(tmp_path: Path) -> None:
    explainer = lrp_fx.convert(Counter().eval())
    assert not warned(explainer, AGREED, [1, 1, 1, 2])  # one token less than the others against them
    cancel, against = warned(explainer, AGREED, SINK)
    assert "example 1 got 20 in absolute amounts, 10.0 times their sum of +2" in str(cancel.message)
    assert "input_ids #0 -45 % in example 1 (-9, the others +11)" in str(against.message)
    assert {cancel.filename, against.filename} == {__file__}
    assert not warned(explainer, SINK)
    assert len(warned(copy.deepcopy(explainer), SINK)) == 2
    explainer.save(tmp_path / "saved", targets=[0])
    saved = lrp_fx.load(tmp_path / "saved")
    assert [len(warned(saved, text)) for text in (AGREED, SINK, SINK)] == [0, 2, 0]


def test_tokens_that_cancel_without_one_that_stands_out() -> None:
    (cancel,) = warned(lrp_fx.convert(Counter().eval()), [1, 1, 2, 2, 2, 2, 3])
    assert "tokens cancel" in str(cancel.message)


def test_padding_never_counts() -> None:
    ids = torch.tensor([[0, 0, *SINK], [*AGREED, 4, 4]])
    padded = lrp_fx.convert(Counter().eval())(input_ids=ids, attention_mask=(ids != 0).long(), target=0).ledger
    assert padded.token_cancellation.tolist() == [10.0, 1.0]
    token = padded.largest_tokens[0]
    assert token is not None and (token.place, token.share) == ((2,), -0.45)


def test_several_texts_together() -> None:
    pair = lrp_fx.convert(Pair().eval())(
        input_ids=torch.tensor([AGREED]), decoder_input_ids=torch.tensor([[2, 1, 3]]), target=0
    )
    assert pair.ledger.token_cancellation.tolist() == [25 / 7]
    assert "(decoder_input_ids #1 -36 %)" in str(pair.ledger)
    assert "most: four #0" not in printed(pair, None) and "<bos> #1 of decoder_input_ids -36 %" in printed(pair, None)
    hidden = pair.per_token(hide={"input_ids": [0, -1]})
    assert isinstance(hidden, dict) and hidden["input_ids"].tolist() == [[0, 3, 1, 0]]
    assert hidden["decoder_input_ids"].tolist() == [[4, -9, 3]]
    with pytest.raises(lrp_fx.InputError, match="which of input_ids, decoder_input_ids"):
        pair.per_token(hide=0)


def test_tokens_given_as_vectors_and_patches_of_images() -> None:
    with pytest.warns(UserWarning, match="one token got most") as caught:
        vectors = lrp_fx.convert(Vectors().eval())(inputs_embeds=torch.tensor([[[1.0], [2.0], [1.0], [-3.0]]]).double())
    (against,) = [str(w.message) for w in caught if "one token" in str(w.message)]
    assert "inputs_embeds #3 -46 % in example 0" in against and "hide" not in against  # what is no text is not hidden
    assert vectors.ledger.token_books.rows["inputs_embeds"].tolist() == [[3.0, 4.5, 2.0, -8.0]]
    torch.manual_seed(0)
    image = lrp_fx.convert(Patches().eval())(pixel_values=torch.randn(2, 1, 4, 6).double())
    patches = image.patches()
    assert torch.equal(image.ledger.token_books.rows["pixel_values"], patches)
    expected = patches.abs().sum((1, 2)) / patches.sum((1, 2)).abs()
    assert torch.allclose(image.ledger.token_cancellation, expected)
    token = image.ledger.largest_tokens[1]
    assert (
        token is not None
        and float(patches[(1, *token.place)])
        == token.relevance
        == patches[1].flatten().tolist()[int(patches[1].abs().argmax())]
    )


@pytest.mark.parametrize("count", [4, 3])
def test_position_of_no_input_is_counted_once(count: int) -> None:
    ones = {"inputs_embeds": torch.ones(1, 4, 1).double(), "decoder_inputs_embeds": torch.ones(1, count, 1).double()}
    books = lrp_fx.convert(TwoVectors().eval())(**ones).ledger.token_books
    found = {n: R.tolist() for n, R in books.rows.items()}
    told = {"inputs_embeds": [[1.5, 1.25, 1.0, 0.0]], "decoder_inputs_embeds": [[1.0] * 3]}
    assert found == ({} if count == 4 else told)  # whose it is of two that are alike is not known


@pytest.mark.parametrize("joined", [False, True])
def test_several_texts_of_an_example_are_read_and_not_drawn(joined: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = lrp_fx.convert(Choices(joined).eval())(input_ids=torch.tensor([[SINK, AGREED]]), target=0)
    said = [str(w.message) for w in caught if "one token" in str(w.message)]
    assert len(said) == (not joined) and all('per_token(hide="largest") reads the others' in text for text in said)
    for hide in ("largest", 0):
        rows = found.per_token(None if joined else "signed", hide=hide)
        more = 0.0 if joined else 0.25
        assert isinstance(rows, Tensor) and rows.flatten()[:4].tolist() == [0, 4 + more, 4 + more, 3 + more]
    with pytest.raises(lrp_fx.InputError, match="several texts" if not joined else "hide="):
        found.show(hide="largest")


def test_what_has_no_tokens_says_nothing_of_them() -> None:
    class Wave(nn.Module):
        def forward(self, input_values: Tensor) -> Tensor:
            return torch.stack([input_values.sum(1), input_values.mean(1)], 1)

    ledger = lrp_fx.convert(Wave().eval())(input_values=torch.tensor([[5.0, -4.0, 1.0]])).ledger
    assert "tokens" not in str(ledger) and ledger.largest_tokens == [None]


@pytest.mark.parametrize("position", ["absolute", "rotary", "bias"])
def test_rows_are_those_of_the_aggregation_that_adds_up(position: str) -> None:
    """Read by a sum for the books, and plane by plane for `per_token`."""
    import transformers

    torch.manual_seed(0)
    sizes = dict(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    kinds: dict[str, tuple[Any, Any, dict[str, int]]] = {
        "absolute": (transformers.GPT2LMHeadModel, transformers.GPT2Config, dict(n_embd=16, n_layer=1, n_head=2)),
        "rotary": (transformers.LlamaForCausalLM, transformers.LlamaConfig, sizes),
        "bias": (transformers.BloomForCausalLM, transformers.BloomConfig, dict(hidden_size=16, n_layer=1, n_head=2)),
    }
    model, config, given = kinds[position]
    ids = torch.randint(0, 20, (2, 5))
    found = lrp_fx.convert(model(config(**{"vocab_size": 20, **given})).eval().double())(input_ids=ids)
    assert found.position
    assert torch.allclose(found.ledger.token_books.rows["input_ids"], found.tokens, rtol=1e-12, atol=1e-14)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------- without it
@pytest.mark.parametrize(
    ("hide", "expected"),
    [
        ("largest", [[0, 4, 4, 3], [4, 3, 0, 4], [0, 3, 1, 1]]),
        (0, [[0, 4, 4, 3], [0, 3, -9, 4], [0, 3, 1, 1]]),
        ([np.int64(0), -1], [[0, 4, 4, 0], [0, 3, -9, 0], [0, 3, 1, 0]]),
        (torch.tensor([SINK, SEPARATED, AGREED]) == 1, [[0, 4, 4, 3], [4, 3, 0, 4], [4, 3, 1, 1]]),
        ({"input_ids": "largest"}, [[0, 4, 4, 3], [4, 3, 0, 4], [0, 3, 1, 1]]),
        (None, [[-9, 4, 4, 3], [4, 3, -9, 4], [4, 3, 1, 1]]),
    ],
)
def test_readings_without_some_tokens(relevance: lrp_fx.Relevance, hide: Any, expected: list[list[float]]) -> None:
    rows = relevance.per_token(hide=hide)
    assert isinstance(rows, Tensor) and rows.tolist() == expected


@pytest.mark.parametrize(
    ("hide", "said"),
    [
        ("first", 'takes "largest", a place'),
        (4, "there are 4 tokens, the places 0 to 3"),
        ([0, 1.5], 'takes "largest", a place'),
        (True, 'takes "largest", a place'),
        (torch.tensor([True]), r"torch.bool \(1,\), and the tokens are \(3, 4\)"),
        ({"ids": 0}, "names ids, and the texts are input_ids"),
    ],
)
def test_what_cannot_be_left_out(relevance: lrp_fx.Relevance, hide: Any, said: str) -> None:
    for read in (relevance.per_token, relevance.to_html, relevance.plot, relevance.show):
        with pytest.raises(lrp_fx.InputError, match=said):
            read(hide=hide)


def printed(relevance: lrp_fx.Relevance, hide: Any) -> str:
    out = io.StringIO()
    relevance.show(NAMES, Console(file=out, width=120), hide=hide)
    return out.getvalue()


def test_pictures_are_scaled_by_what_is_not_hidden(relevance: lrp_fx.Relevance) -> None:
    tokens = examples(relevance, NAMES, hide="largest")[0].tokens[0]
    assert tokens.hidden == (True, False, False, False)
    assert (tokens.scale(tokens.total), tokens.total.sum()) == (4.0, 2.0)
    for said in (relevance.to_html(None, NAMES, hide="largest"), printed(relevance, "largest")):
        assert re.search(
            r"hidden, not in the colours: #0 (<bos>|&lt;bos&gt;) -9 \(together -9, the others \+11\)", said
        )
        assert re.search(r"(<bos>|&lt;bos&gt;) #0.*-45 %.*it speaks against the others: read with care", said)
    page = relevance.to_html(None, NAMES, hide="largest")
    assert page.count('class="hidden"') == 3 and "full colour at 4" in page and "total</b> +2, " in page
    assert "╱<bos>╱ four four three" in printed(relevance, "largest")
    whole = relevance.to_html(None, NAMES)
    assert 'class="hidden"' not in whole and "full colour at 9" in whole and "╱" not in printed(relevance, None)


def test_figures_cut_what_is_hidden(relevance: lrp_fx.Relevance) -> None:
    low, high = (relevance.plot(NAMES, hide="largest").axes[0].get_ylim()), relevance.plot(NAMES).axes[0].get_ylim()
    assert low[0] > -1 and 4 < low[1] < 5 and high[0] < -9


def test_images_have_no_tokens_to_hide() -> None:
    torch.manual_seed(0)
    image = lrp_fx.convert(Patches().eval())(pixel_values=torch.randn(1, 1, 4, 6).double())
    with pytest.raises(lrp_fx.InputError, match="no text whose tokens could be left out"):
        image.to_html(hide="largest")
