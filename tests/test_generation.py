"""Generation: every step of a written text at once, as the loop over its prefixes has it, with books that close."""

from __future__ import annotations

import json
import warnings
from io import StringIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lrp_fx
from lrp_fx.generation.hops import HELD, handed_on
from lrp_fx.report.words import text_of, word_spans

pytestmark = pytest.mark.usefixtures("quiet")
PROMPT, AFTER = torch.tensor([[3, 1, 4, 1]]), [5, 9, 2, 6, 5]
WORDS = ["▁a", "▁b", "c", "▁d", "<s>", "▁e", "f", "▁g", "h", "▁i"]


class Writer(nn.Module):
    """A causal model: one attention over words and their places, the next word from each; it writes greedily."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.places, self.head = nn.Embedding(10, 8), nn.Embedding(16, 8), nn.Linear(8, 10)
        self.double().eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        causal = torch.ones(input_ids.shape[1], input_ids.shape[1], dtype=torch.bool).tril()
        x = x + (x @ x.mT / 3).masked_fill(~causal, float("-inf")).softmax(-1) @ x
        return self.head(x)

    def generate(self, input_ids: Tensor, max_new_tokens: int) -> Tensor:
        for _ in range(max_new_tokens):
            input_ids = torch.cat([input_ids, self(input_ids)[:, -1:].argmax(-1)], 1)
        return input_ids


class Tokenizer:
    """Reads words of one letter."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [WORDS.index("▁" + w if "▁" + w in WORDS else w) for w in text.split()]
        return {"input_ids": [4, *ids] if add_special_tokens else ids}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [WORDS[i] for i in ids]

    def __len__(self) -> int:
        return len(WORDS)


@pytest.fixture(scope="module")
def explainer() -> lrp_fx.Explainer:
    return lrp_fx.convert(Writer(), dynamic=True)


@pytest.fixture(scope="module")
def whole(explainer: lrp_fx.Explainer) -> lrp_fx.Generation:
    return explainer.continuation(PROMPT, AFTER)


def assert_closed(generation: lrp_fx.Generation) -> None:
    rest = sum(generation.rest.values(), torch.zeros_like(generation.scores))
    torch.testing.assert_close(generation.matrix.sum(1) + rest, generation.scores)


def test_it_is_the_loop_over_prefixes(explainer: lrp_fx.Explainer, whole: lrp_fx.Generation) -> None:
    ids = PROMPT
    for k, token in enumerate(AFTER):
        one = explainer(input_ids=ids, target=token)
        torch.testing.assert_close(whole.matrix[k], F.pad(one.tokens[0], (0, 9 - ids.shape[1])))
        torch.testing.assert_close(whole.content[k], F.pad(one.content["input_ids"][0], (0, 9 - ids.shape[1])))
        assert float(whole.scores[k]) == pytest.approx(float(one.score))
        assert float(whole.probabilities[k]) == pytest.approx(one.target[0].probability)
        assert float(whole.entropy[k]) == pytest.approx(float(one.target.entropy))
        assert bool((whole.matrix[k, 4 + k :] == 0).all())
        assert float(whole.ledger[k].total) == pytest.approx(float(one.ledger.total))
        torch.testing.assert_close(whole.ledger[k].token_books.rows["input_ids"][0], whole.matrix[k])
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
    assert_closed(whole)
    assert (len(whole), [s.step for s in whole.sources]) == (5, [None] * 4 + [0, 1, 2, 3, 4])


def test_rows_are_taken_as_examples_are(whole: lrp_fx.Generation) -> None:
    assert torch.equal(whole[1:3].matrix, whole.matrix[1:3])
    assert [one.scores.tolist() for one in whole] == [[s] for s in whole.scores.tolist()]
    assert whole[[4, 0]].ledger == (whole.ledger[4], whole.ledger[0])
    assert_closed(whole[2])
    with pytest.raises(lrp_fx.InputError, match="one row for each token"):
        whole[1:].hops()


def test_one_capture_and_one_transpose_serve_all_steps() -> None:
    explainer = lrp_fx.convert(Writer(), dynamic=True)
    explainer.continuation(PROMPT, AFTER)
    explainer.continuation(PROMPT, AFTER[:2])
    found = explainer.statistics
    assert (found.captures, found.transposes, found.runs) == (1, 1, 2)


@pytest.mark.parametrize("at_once", [1, 2])
def test_passes_of_fewer_steps_give_the_same(
    explainer: lrp_fx.Explainer, whole: lrp_fx.Generation, at_once: int
) -> None:
    torch.testing.assert_close(explainer.continuation(PROMPT, AFTER, at_once=at_once).matrix, whole.matrix)


def test_what_the_model_writes_is_explained(explainer: lrp_fx.Explainer) -> None:
    written = explainer.model.generate(PROMPT, 4)[0, 4:].tolist()
    found = explainer.generate(PROMPT, max_new_tokens=4)
    assert [t.ids[0] for t in found.targets] == written
    torch.testing.assert_close(found.matrix, explainer.continuation(PROMPT, written).matrix)


def test_spans_are_sums_of_steps_in_one_pass(explainer: lrp_fx.Explainer, whole: lrp_fx.Generation) -> None:
    found = explainer.continuation(PROMPT, AFTER, spans=[(0, 2), (2, 5)])
    torch.testing.assert_close(found.matrix, torch.stack([whole.matrix[:2].sum(0), whole.matrix[2:].sum(0)]))
    assert float(found.probabilities[0]) == pytest.approx(float(whole.probabilities[:2].prod()))
    assert_closed(found)
    torch.testing.assert_close(explainer.continuation(PROMPT, AFTER, spans=(0, 2)).matrix, found[0].matrix)
    everything = explainer.continuation(PROMPT, AFTER, spans="all")
    torch.testing.assert_close(everything.matrix[0], whole.matrix.sum(0))


def test_against_another_text_it_is_the_difference_of_logits(
    explainer: lrp_fx.Explainer, whole: lrp_fx.Generation
) -> None:
    found = explainer.continuation(PROMPT, AFTER, against=[5, 1, 2, 0, 3])
    logits = explainer.model(torch.tensor([[*PROMPT[0].tolist(), *AFTER]]))[0]
    expected = [
        logits[3 + k, a] - logits[3 + k, b] for k, (a, b) in enumerate(zip(AFTER, [5, 1, 2, 0, 3], strict=True))
    ]
    torch.testing.assert_close(found.scores, torch.stack(expected).detach())
    assert [bool((found.matrix[k] == 0).all()) for k in range(5)] == [True, False, True, False, False]
    assert [book is None for book in found.ledger] == [True, False, True, False, False]
    assert_closed(found)
    with pytest.warns(UserWarning, match="5 and 2 tokens: the first 2 steps"):
        assert len(explainer.continuation(PROMPT, AFTER, against=[1, 1])) == 2
    with pytest.raises(lrp_fx.InputError, match="the same"):
        explainer.continuation(PROMPT, AFTER, against=AFTER)


def test_a_warning_of_many_steps_comes_once() -> None:
    model = Writer()
    with torch.no_grad():  # logits are small differences of what words give and a bias takes
        model.embed.weight[:, 0], model.head.weight[:, 0], model.head.bias[:] = 90.0, 1.0, -180.0
    explainer = lrp_fx.convert(model, dynamic=True)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        explainer.continuation(PROMPT, AFTER)
    texts = [str(w.message) for w in heard]
    assert len([text for text in texts if "parts of the score" in text]) == 1
    assert any("(the first of 5 steps of which this is true)" in text for text in texts)
    assert all(w.filename == __file__ for w in heard)


# ------------------------------------------------------------------------------------------------ hops
def test_hops_hand_on_by_the_steps_own_books(whole: lrp_fx.Generation) -> None:
    cancelled = (whole.matrix.abs().sum(1) + sum(t.abs() for t in whole.rest.values())) > 10 * whole.scores.abs()
    assert not bool(cancelled.any())
    once = whole.hops(1)
    given = whole.matrix[:, 4:]
    expected = whole.matrix.clone()
    expected[:, 4:] = 0
    expected += (given / whole.scores) @ whole.matrix
    torch.testing.assert_close(once.matrix, expected)
    last: list[Tensor] = []  # all the way down, step by step
    for k in range(5):
        last.append(whole.matrix[k, :4] + sum(whole.matrix[k, 4 + j] / whole.scores[j] * last[j] for j in range(k)))
    done = whole.hops()
    torch.testing.assert_close(done.matrix[:, :4], torch.stack(last))
    assert bool((done.matrix[:, 4:] == 0).all())
    for count in (0, 1, 2, 5, None):
        assert_closed(whole.hops(count))
    torch.testing.assert_close(whole.hops(0).matrix, whole.matrix)
    with pytest.raises(lrp_fx.InputError, match="as it was explained"):
        once.hops(1)


def test_a_step_whose_parts_cancel_hands_nothing_on() -> None:
    content = torch.tensor([[1.0, -0.99, 0.0, 0.0], [2.0, 1.0, 3.0, 0.0]], dtype=torch.float64)
    zeros, rest = torch.zeros_like(content), {"bias": torch.tensor([0.0, 1.0], dtype=torch.float64)}
    scores = torch.tensor([0.01, 7.0], dtype=torch.float64)
    found, _, left = handed_on(content, zeros, scores, rest, [2, 3], 5)
    assert left[HELD].tolist() == [0.0, 3.0]
    torch.testing.assert_close(found.sum(1) + sum(left.values()), scores)


# ------------------------------------------------------------------------------------------------ texts and words
def test_texts_are_read_and_words_put_together() -> None:
    explainer = lrp_fx.convert(Writer(), tokenizer=Tokenizer(), dynamic=True)
    found = explainer.continuation("a b c", " d e f g")
    assert [s.text for s in found.sources] == ["<s>", " a", " b", "c", " d", " e", "f", " g"]
    words = found.words()
    assert [s.text for s in words.sources] == ["<s>", " a", " bc", " d", " ef", " g"]
    assert [t.text for t in words.targets] == [" d", " ef", " g"]
    torch.testing.assert_close(words.matrix.sum(), found.matrix.sum())
    torch.testing.assert_close(words.matrix[1, 2], found.matrix[1:3, 2:4].sum())
    assert_closed(words)
    several = explainer.continuation(["a b", "c"], [" d", " e f"])
    assert [len(g) for g in several] == [1, 2]
    column = explainer.continuation(np.array(["a b", "c"]), np.array([" d", " e f"]))
    assert torch.equal(column[1].matrix, several[1].matrix)


def test_what_ends_a_text_does_not_end_a_prompt() -> None:
    class Ending(Tokenizer):
        """Puts a token behind every text, too."""

        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            ids = super().__call__(text, add_special_tokens)["input_ids"]
            return {"input_ids": [*ids, 4] if add_special_tokens else ids, "attention_mask": [1] * (len(ids) + 1)}

    found = lrp_fx.convert(Writer(), tokenizer=Ending(), dynamic=True).continuation("a b", " d e")
    assert [s.text for s in found.sources] == ["<s>", " a", " b", " d", " e"]


def test_words_are_what_the_marks_of_a_vocabulary_say() -> None:
    def words(*tokens: str) -> list[str]:
        return [text_of(tokens[a:b]).strip() for a, b in word_spans(tokens)]

    assert words("[CLS]", "un", "##believ", "##able", "film", "[SEP]") == ["[CLS]", "unbelievable", "film", "[SEP]"]
    assert words("<s>", "▁Once", "▁", "▁Li", "ly", ".", "<0xE2>", "<0x82>", "<0xAC>") == ["<s>", "Once", "Lily.€"]
    assert words("Once", "Ġcaf", "Ã©", "Ġon", "Ċ", "Li") == ["Once", "café", "on", "", "Li"]
    assert words("un", "believable</w>", "film</w>") == ["unbelievable", "film"]
    assert words("a", "b") == ["a", "b"]
    assert words("Be", "Ġbrief", ".", "Ċ", "###", "ĠAns", "wer") == ["Be", "brief.", "", "###", "Answer"]


class Prefix(Writer):
    """Reads a text both ways, and the next word from its last."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        return self.head(x + (x @ x.mT / 3).softmax(-1) @ x)


def test_a_model_that_reads_ahead_is_explained_prefix_by_prefix() -> None:
    explainer = lrp_fx.convert(Prefix(), dynamic=True)
    found = explainer.continuation(PROMPT, AFTER[:3], against=[1, 1, 1])
    for k in range(3):
        ids = torch.tensor([[*PROMPT[0].tolist(), *AFTER[:k]]])
        one = explainer(input_ids=ids, target=lrp_fx.targets.Contrast(AFTER[k], 1))
        torch.testing.assert_close(found.matrix[k], F.pad(one.tokens[0], (0, 3 - k)))
        assert float(found.ledger[k].token_books.total) == pytest.approx(float(one.tokens.sum()))
    assert_closed(found)
    with pytest.raises(lrp_fx.InputError, match="reads what comes later"):
        explainer.continuation(PROMPT, AFTER, spans="all")


class Translator(Writer):
    """Reads one text and writes another."""

    config = SimpleNamespace(decoder_start_token_id=7)

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:  # type: ignore[override]
        read, x = self.embed(input_ids), self.embed(decoder_input_ids)
        x = x + self.places(torch.arange(x.shape[1])) + (x @ read.mT / 3).softmax(-1) @ read
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        return self.head(x + (x @ x.mT / 3).masked_fill(~causal, float("-inf")).softmax(-1) @ x)

    def generate(self, input_ids: Tensor, decoder_input_ids: Tensor, length: int) -> dict[str, Tensor]:  # type: ignore[override]
        for _ in range(length):
            last = self(input_ids, decoder_input_ids)[:, -1:]
            decoder_input_ids = torch.cat([decoder_input_ids, last.argmax(-1)], 1)
        return {"sequences": decoder_input_ids}


def test_an_encoder_decoder_writes_from_both_texts() -> None:
    explainer = lrp_fx.convert(Translator(), dynamic=True)
    found = explainer.generate(PROMPT, length=3)
    assert [s.input for s in found.sources] == ["input_ids"] * 4 + ["decoder_input_ids"] * 4
    assert [s.step for s in found.sources] == [None] * 5 + [0, 1, 2]
    ids = torch.tensor([[7]])
    for k, target in enumerate(found.targets):
        one = explainer(input_ids=PROMPT, decoder_input_ids=ids, target=target.ids[0]).tokens
        row = torch.cat([one["input_ids"][0], F.pad(one["decoder_input_ids"][0], (0, 3 - k))])
        torch.testing.assert_close(found.matrix[k], row)
        ids = torch.cat([ids, torch.tensor([target.ids])], 1)
    assert_closed(found)
    assert_closed(found.hops())


def test_a_loaded_graph_explains_continuations_too(
    explainer: lrp_fx.Explainer, whole: lrp_fx.Generation, tmp_path: Any
) -> None:
    explainer.save(tmp_path / "graph", targets=[lrp_fx.targets.Class(0)])
    loaded = lrp_fx.load(tmp_path / "graph", tokenizer=Tokenizer())
    found = loaded.continuation(PROMPT, AFTER)
    torch.testing.assert_close(found.matrix, whole.matrix)
    assert found.written == [" e", " i", "c", "f", " e"]


# ------------------------------------------------------------------------------------------------ out of it
def test_it_is_shown_drawn_and_tabled(whole: lrp_fx.Generation, tmp_path: Any) -> None:
    from rich.console import Console

    console = Console(width=200, record=True, file=StringIO())
    whole.show(console)
    text = console.export_text()
    assert all(f"{float(s):+.4g}" in text for s in whole.scores)
    page = whole.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    assert page.count("<tr>") == 6
    assert "<script" not in page
    assert len(repr(whole)) < 200
    assert whole._repr_html_() in page
    told = whole.to_dict()
    assert [step["score"] for step in told["steps"]] == whole.scores.tolist()
    assert json.loads(whole.to_json()) == told


def test_what_cannot_be_explained_is_said_before_the_work(explainer: lrp_fx.Explainer) -> None:
    for refused, why in [
        (lambda: explainer.continuation("a", "b"), "no tokenizer"),
        (lambda: explainer.continuation(PROMPT, "b"), "no tokenizer"),
        (lambda: explainer.continuation(PROMPT, []), "at least one"),
        (lambda: explainer.continuation(PROMPT.expand(2, -1), AFTER), "one prompt at a time"),
        (lambda: explainer.continuation(PROMPT, AFTER, spans=[(0, 6)]), "within 0..5"),
        (lambda: explainer.continuation(PROMPT, AFTER, spans=[]), "empty"),
        (lambda: explainer.continuation(None, AFTER), "input_ids="),
        (lambda: explainer.generate(PROMPT, max_new_tokens=0), "wrote nothing"),
        (lambda: lrp_fx.convert(nn.Linear(2, 2)).generate(PROMPT), "generate"),
    ]:
        with pytest.raises(lrp_fx.InputError, match=why):
            refused()
