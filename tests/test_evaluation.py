"""Evaluation in the package: what is taken away, what is compared, and what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.errors import InputError, TargetError
from lrp_fx.evaluation import Evaluation, Ranking, evaluate, scorers
from lrp_fx.targets import Class, Contrast

MASK, UNKNOWN, PAD, START = 1, 2, 0, 3
LABELS = ["bad", "good"]


class Words(nn.Module):
    """Classes by the sum of what words weigh, read through one attention; the ids 0 to 3 weigh nothing."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(20, 8)
        self.out = nn.Linear(8, classes, bias=False)
        with torch.no_grad():
            self.embed.weight[:4] = 0
        self.requires_grad_(False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        keep = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        scores = (x @ x.mT / 8).masked_fill(keep[:, None] == 0, -1e9)
        mixed = x + scores.softmax(-1) @ x
        logits: Tensor = self.out((mixed * keep.unsqueeze(-1)).sum(1))
        return logits


class Tokenizer:
    """As much of a tokenizer as is asked for: a word is a number."""

    mask_token_id, unk_token_id, pad_token_id = MASK, UNKNOWN, PAD
    bos_token_id = eos_token_id = sep_token_id = cls_token_id = None
    all_special_ids = (PAD, MASK, UNKNOWN, START)

    def __len__(self) -> int:
        return 20

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [int(word) for word in text.split()] if text.replace(" ", "").isdecimal() else [4, 5]
        ids = [START, *ids] if add_special_tokens else ids
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"w{i}" for i in ids]


@pytest.fixture(scope="module")
def explainer() -> lrp_fx.Explainer:
    return lrp_fx.convert(Words().eval(), rules="attnlrp")


@pytest.fixture(scope="module")
def reading() -> lrp_fx.Explainer:
    """The same with a tokenizer, and labels."""
    model: Any = Words().eval()
    model.config = SimpleNamespace(id2label=dict(enumerate(LABELS)))
    return lrp_fx.convert(model, tokenizer=Tokenizer(), rules="attnlrp")


TEXTS = ["9 5 14 7 11", "4 8 15 16 19 10", "12 13 6 17"]


def test_texts_with_controls_beside_them(reading: lrp_fx.Explainer) -> None:
    found = evaluate(reading, TEXTS, ("abpc", "auac", "comprehensiveness"), fill="mask", against=["gradient"])
    assert found.labels == ["attnlrp", "gradient", "random order", "later tokens first"]
    assert found.controls == ("random order", "later tokens first")
    assert len(found) == 3 and all(v.shape == (3,) for row in found.values.values() for v in row.values())
    assert found.mean("attnlrp", "ABPC")[0] > found.mean("random order", "ABPC")[0]
    assert found.fill == "mask token w1 (1)" and found.units == "tokens of input_ids"
    assert all(title in ("bad (0)", "good (1)") for title in found.targets)
    text = str(found)
    assert text == repr(found) and text.startswith("3 examples; taken away: tokens of input_ids")
    assert "ABPC ↑" in text and "controls, which explain" in text and text.count("±") == 13
    assert found.table()[0] == ["ranking", "ABPC ↑", "AUAC generation ↑", "comprehensiveness ↑"]
    assert set(found.comparisons) == {(a, m.name) for a in found.labels[1:] for m in found.metrics}
    back = json.loads(json.dumps(found.to_dict()))
    assert back["values"]["gradient"]["ABPC"] == found.values["gradient"]["ABPC"].tolist()
    assert back["differences"]["gradient"]["ABPC"]["p"] <= 1 and back["fill"] == found.fill


def test_values_are_those_of_the_metric_by_hand(reading: lrp_fx.Explainer) -> None:
    """ABPC of one example, computed here from the model alone."""
    ids = torch.tensor([[START, 9, 5, 14, 7, 11]])
    target = int(reading.model(ids).argmax())
    scores = reading(input_ids=ids, target=target).per_token()[0, 1:]
    areas = []
    for order in (scores.argsort(), scores.argsort(descending=True)):
        curve = []
        for j in range(11):
            changed = ids.clone()
            changed[0, 1 + order[: -(-j * 5 // 10)]] = MASK
            curve.append(float(reading.model(changed)[0, target]))
        areas.append(sum(curve) / 10 - (curve[0] + curve[-1]) / 20)
    found = evaluate(reading, TEXTS[0], ["abpc"], fill="mask")
    assert found.values["attnlrp"]["ABPC"].item() == pytest.approx(areas[0] - areas[1], abs=1e-6)


def test_padding_is_no_part_of_an_example(reading: lrp_fx.Explainer) -> None:
    """A padded batch, on either side, gives what the examples by themselves give; so do padded scores."""
    rows = [torch.tensor(Tokenizer()(text)["input_ids"]) for text in TEXTS]
    alone = evaluate(reading, TEXTS, ["abpc", "loo"], fill="mask", against={"given": [r.double() for r in rows]})
    length = max(len(r) for r in rows)
    for left in (False, True):
        pads = [torch.full((length - len(r),), PAD) for r in rows]
        ids = torch.stack([torch.cat([p, r] if left else [r, p]) for r, p in zip(rows, pads, strict=True)])
        batch = {"input_ids": ids, "attention_mask": (ids != PAD).long()}
        padded = evaluate(reading, batch, ["abpc", "loo"], fill="mask", against={"given": ids.double()})
        for label in ("attnlrp", "given", "later tokens first"):
            for name, values in alone.values[label].items():
                torch.testing.assert_close(padded.values[label][name], values, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("fill", "filled"), [("mask", MASK), ("unk", UNKNOWN), ("pad", PAD), ("auto", MASK), (19, 19), ("17", 17)]
)
def test_special_tokens_stay_and_every_fill_is_what_it_says(
    reading: lrp_fx.Explainer, monkeypatch: pytest.MonkeyPatch, fill: Any, filled: int
) -> None:
    asked: list[Tensor] = []
    forward = reading.model.forward

    def watched(input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        asked.append(input_ids.clone())
        return forward(input_ids, attention_mask)

    monkeypatch.setattr(scorers.Explained, "__call__", lambda self, number, question: question.scores(range(6)))
    monkeypatch.setattr(reading.model, "forward", watched)
    evaluate(reading, {"input_ids": torch.tensor([[START, 9, 5, 14, 7, 11]])}, ["abpc"], fill=fill)
    everything = torch.cat(asked)
    assert bool((everything[:, 0] == START).all())
    assert set(everything[:, 1:].flatten().tolist()) == {9, 5, 14, 7, 11, filled}


def test_dropped_tokens_make_a_text_shorter(reading: lrp_fx.Explainer) -> None:
    """As if the words had not been there, for the model that does not mind; with the mask that goes with them."""
    ids = torch.tensor([[START, 9, 5, 14]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found = evaluate(reading, batch, ["loo", "comprehensiveness"], fill="drop", targets=1)
    assert found.fill == "dropped"
    whole = reading.model(ids)[0]
    lost = torch.stack([(whole - reading.model(ids[:, [j for j in range(4) if j != i]])[0])[1] for i in (1, 2, 3)])
    scores = reading(input_ids=ids, target=1).per_token()[0, 1:]
    expected = np.corrcoef(scores.argsort().argsort().numpy(), lost.argsort().argsort().detach().numpy())[0, 1]
    assert found.values["attnlrp"]["leave-one-out"].item() == pytest.approx(expected)
    with pytest.raises(InputError, match="example 0: fill='drop' would leave nothing"):
        evaluate(reading, batch, fill="drop", keep=())


def test_scores_of_any_kind_stand_beside_ours(explainer: lrp_fx.Explainer) -> None:
    ids = torch.tensor([[9, 5, 14, 7], [4, 8, 15, 16]])
    rows = np.arange(8.0).reshape(2, 4)
    targets: list[int] = []

    def of_both(inputs: dict[str, Tensor], target: int) -> Tensor:
        targets.append(target)
        return inputs["input_ids"].double()

    found = evaluate(
        explainer,
        {"input_ids": ids},
        ["abpc"],
        fill=MASK,
        against={
            "array": rows,
            "list": rows.tolist(),
            "function": lambda inputs: inputs["input_ids"],
            "of both": of_both,
            "preset": "cp-lrp",
            "result": (kept := explainer(input_ids=ids, target=[1, 0])),
            "function of a result": lambda inputs, target: explainer(**inputs, target=target),
            "content": Ranking("x", "pa-lrp", {"position": None}),
        },
        targets=[1, 0],
    )
    same = [found.values[label]["ABPC"] for label in ("array", "list", "later tokens first")]
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])
    assert torch.equal(found.values["function"]["ABPC"], found.values["of both"]["ABPC"])
    assert targets == [1, 0] and found.targets == ("1", "0") and len(kept) == 2
    for label in ("result", "function of a result"):
        torch.testing.assert_close(found.values[label]["ABPC"], found.values["attnlrp"]["ABPC"])
    again = evaluate(explainer, {"input_ids": ids}, ["abpc"], fill=MASK, seed=0, targets=[1, 0])
    assert torch.equal(again.values["random order"]["ABPC"], found.values["random order"]["ABPC"])


def test_targets_are_labels_classes_and_contrasts(reading: lrp_fx.Explainer) -> None:
    by_label, by_class = (evaluate(reading, TEXTS[0], ["auac"], targets=t) for t in (np.array(["good"]), Class(1)))
    assert by_label.targets == ("good (1)",) == by_class.targets
    assert torch.equal(by_label.values["attnlrp"]["AUAC generation"], by_class.values["attnlrp"]["AUAC generation"])
    contrast = evaluate(reading, TEXTS[0], ["auac", "abpc"], targets=Contrast(1, 0))
    opposite = evaluate(reading, TEXTS[0], ["auac", "abpc"], targets=Contrast(0, 1))
    assert contrast.targets[0] == "good (1) rather than bad (0)"
    # of two classes, the probability of the one of the two is the probability
    assert 0 <= contrast.values["attnlrp"]["AUAC generation"].item() <= 1
    torch.testing.assert_close(contrast.values["attnlrp"]["ABPC"], opposite.values["attnlrp"]["ABPC"])


def test_images_are_taken_away_in_patches() -> None:
    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.patch, self.out = nn.Conv2d(2, 6, 4, 4), nn.Linear(6, 3)

        def forward(self, pixel_values: Tensor) -> Tensor:
            found: Tensor = self.out(self.patch(pixel_values).flatten(2).relu().mean(-1))
            return found

    images = torch.randn(2, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    explainer = lrp_fx.convert(Image().eval(), rules="attnlrp")
    for fill, said in (("auto", "mean by channel"), ("blur", "blurred"), ("zero", "zero"), (0.5, "0.5")):
        found = evaluate(explainer, images, ["abpc", "srg"], fill=fill, patch=4, against={"pixels": images})
        assert (found.fill, found.units) == (said, "2 x 3 patches of 4 x 4 pixels")
        assert found.controls == ("random order", "centre first")
        torch.testing.assert_close(found.values["attnlrp"]["SRG"] * 6, found.values["attnlrp"]["ABPC"])
    by_patch = torch.nn.functional.avg_pool2d(images.sum(1, keepdim=True), 4) * 16
    given = evaluate(explainer, images, ["abpc"], patch=4, against={"a": images, "b": by_patch[:, 0]})
    torch.testing.assert_close(given.values["a"]["ABPC"], given.values["b"]["ABPC"])
    with pytest.raises(InputError, match=r"patches of side 5 do not fill an image of 8 x 12"):
        evaluate(explainer, images, patch=5)
    with pytest.raises(InputError, match="there are mean, zero, blur, a number"):
        evaluate(explainer, images, fill="mask")


def test_a_model_of_one_number_has_logits_only(explainer: lrp_fx.Explainer) -> None:
    one = lrp_fx.convert(Words(1).eval(), rules="attnlrp")
    ids = {"input_ids": torch.tensor([[9, 5, 14, 7]])}
    assert isinstance(evaluate(one, ids, ["abpc", "loo"], fill=MASK), Evaluation)
    with pytest.raises(InputError, match="AUAC generation reads probabilities, and this model gives one number"):
        evaluate(one, ids, ["abpc", "auac"], fill=MASK)


IDS = {"input_ids": torch.tensor([[9, 5, 14, 7]])}


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ("a text", {}, "a text was given, and no tokenizer is known"),
        (IDS, {"fill": "mask"}, "example 0: fill='mask' needs a tokenizer"),
        (IDS, {"fill": 20.5}, "fill=20.5: give a name"),
        (IDS, {"fill": -1}, "no id of the vocabulary"),
        ([], {"fill": 1}, "no examples"),
        (IDS, {"fill": 1, "metrics": ["abcp"]}, "did you mean 'abpc'"),
        (IDS, {"fill": 1, "metrics": ["hit"]}, "hit asks which units are known to be causes"),
        (IDS, {"fill": 1, "against": [3.5]}, "a float, which gives no scores"),
        (IDS, {"fill": 1, "against": ["nonsense"]}, "no ruleset 'nonsense'"),
        (IDS, {"fill": 1, "against": ["attnlrp"]}, "two rankings are called 'attnlrp'"),
        (IDS, {"fill": 1, "against": {"x": [[1.0], [2.0]]}}, "scores for 2 examples are given, and there are 1"),
        (IDS, {"fill": 1, "against": {"x": [[1.0, 2.0]]}}, r"scores of shape \(2,\) for an example of 4 units"),
        (IDS, {"fill": 1, "targets": [0, 1]}, "targets= has 2 entries for 1 examples"),
        (IDS, {"fill": 1, "of": "ids"}, "the inputs with content are input_ids"),
        (IDS, {"fill": 1, "keep": (9, 5, 14, 7)}, "nothing but special tokens"),
        (IDS, {"fill": 1, "metrics": ["hit"], "causal": [[True]]}, "causal= has 1 entries for an example of 4 units"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_what_cannot_be_asked_is_said(explainer: lrp_fx.Explainer, data: Any, options: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        evaluate(explainer, data, **options)


def test_what_the_tokenizer_lacks_is_said_with_what_it_has(
    reading: lrp_fx.Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokenizer, "mask_token_id", None)
    with pytest.raises(InputError, match="no mask token\n    next: give fill= 'unk', 'pad', 'drop'"):
        evaluate(reading, TEXTS, fill="mask")
    assert evaluate(reading, TEXTS[:1], ["abpc"]).fill == "unk token w2 (2)"


class Translator(nn.Module):
    """Two texts, the second with a row of logits for each token; both may be padded."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out = nn.Embedding(20, 8), nn.Linear(8, 20)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        source, x = self.embed(input_ids), self.embed(decoder_input_ids)
        scores = (x @ source.mT / 8).masked_fill(attention_mask[:, None] == 0, -1e9)
        logits: Tensor = self.out(x + scores.softmax(-1) @ source)
        return logits


def test_of_several_texts_one_is_named() -> None:
    """Its mask is its own, also where the other text has as many tokens."""
    explainer = lrp_fx.convert(Translator().eval().requires_grad_(False), rules="attnlrp")
    first, second = torch.tensor([[4, 5, 6, 0, 0]]), torch.tensor([[7, 8, 9, 10, 11]])
    padded = {"input_ids": first, "attention_mask": (first != 0).long(), "decoder_input_ids": second}
    short = {**padded, "input_ids": first[:, :3], "attention_mask": torch.ones(1, 3, dtype=torch.int64)}
    with pytest.raises(InputError, match="next: say which, for example of='input_ids'"):
        evaluate(explainer, padded, "abpc", fill=1)
    for of, count in (("input_ids", 3), ("decoder_input_ids", 5)):
        one, other = (evaluate(explainer, x, ["abpc", "loo"], fill=1, of=of, keep=()) for x in (padded, short))
        assert one.units == f"tokens of {of}"
        for name, values in one.values["attnlrp"].items():
            torch.testing.assert_close(values, other.values["attnlrp"][name], atol=1e-5, rtol=0)
        with pytest.raises(InputError, match=f"for an example of {count} units"):
            evaluate(explainer, short, "abpc", fill=1, of=of, keep=(), against={"x": [[1.0]]})


def test_only_an_explainer_can_be_evaluated() -> None:
    with pytest.raises(InputError, match=r"takes an explainer, lrp_fx\.convert\(model\)"):
        evaluate(Words(), IDS)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [7, "middling", lambda x: x.sum(-1)], ids=["class", "label", "function"])
def test_targets_that_there_are_not(explainer: lrp_fx.Explainer, target: Any) -> None:
    with pytest.raises(TargetError, match="example 0: "):
        evaluate(explainer, IDS, fill=1, targets=target)
