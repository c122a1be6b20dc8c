"""Adapters, against the packages themselves: ``pip install captum inseq ipython``, and these tests run."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.errors import InputError
from lrp_fx.targets import Contrast

HOW = 'not installed; to run this: pip install "lrp-fx[captum,inseq]" ipython'


class Classifier(nn.Module):
    """Ids and a mask in, two classes out; or rows for every token."""

    def __init__(self, rows: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.place = nn.Embedding(20, 8), nn.Embedding(12, 8)
        self.out, self.rows = nn.Linear(8, 3), rows

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embed(input_ids) + self.place.weight[: input_ids.shape[1]]
        scores = (x @ x.mT / 8).masked_fill(attention_mask[:, None] == 0, -1e9)
        x = x + scores.softmax(-1) @ x
        logits: Tensor = self.out(x if self.rows else (x * attention_mask.unsqueeze(-1)).sum(1))
        return logits


IDS = torch.tensor([[3, 9, 5, 14, 7], [3, 8, 6, 0, 0]])
MASK = (IDS != 0).long()


@pytest.fixture(scope="module")
def captum() -> Any:
    pytest.importorskip("captum", reason=HOW)
    return importlib.import_module("lrp_fx.adapters.captum")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return Classifier().eval().requires_grad_(False)


# ------------------------------------------------------------------------------------------------ captum
def test_an_attribution_is_called_as_feature_ablation_is(captum: Any, model: nn.Module) -> None:
    """The same call to Captum's own method gives a result of the same shape; ours adds up."""
    from captum.attr import FeatureAblation
    from captum.attr._utils.attribution import Attribution

    ours = captum.RelevancePropagation(model)
    assert isinstance(ours, Attribution) and ours.get_name() == "Relevance Propagation"
    call: dict[str, Any] = {
        "inputs": IDS,
        "target": torch.tensor([1, 2]),
        "additional_forward_args": (MASK,),
        "perturbations_per_eval": 2,
        "show_progress": False,
    }
    theirs = FeatureAblation(model).attribute(**call)
    scores, delta = ours.attribute(**call, return_convergence_delta=True)
    assert scores.shape == theirs.shape and bool((scores[MASK == 0] == 0).all())
    explained = lrp_fx.convert(model)(input_ids=IDS, attention_mask=MASK, target=[1, 2])
    assert torch.equal(scores, explained.tokens)
    torch.testing.assert_close(scores.double().sum(1) + delta, explained.score.double())
    groups = torch.tensor([[0, 1, 1, 2, 2]])
    by_group = ours.attribute(**call, feature_mask=groups)
    assert FeatureAblation(model).attribute(**call, feature_mask=groups).shape == by_group.shape
    torch.testing.assert_close(by_group[:, 1], scores[:, 1] + scores[:, 2])
    torch.testing.assert_close(by_group[:, 3], by_group[:, 4])


def test_targets_are_written_as_captum_writes_them(captum: Any, model: nn.Module) -> None:
    rows = Classifier(rows=True).eval().requires_grad_(False)
    ours = captum.RelevancePropagation(rows, rules="attnlrp")
    explainer = lrp_fx.convert(rows, rules="attnlrp")
    given = {"inputs": IDS, "additional_forward_args": MASK}
    for target, same in (
        ((1, 2), lrp_fx.targets.Class(2, 1)),
        ([(1, 2), (0, 1)], lrp_fx.targets.Class([2, 1], [1, 0])),
        (1, lrp_fx.targets.Class(1)),
        (Contrast(0, 1), Contrast(0, 1)),
        (None, None),
    ):
        expected = explainer(input_ids=IDS, attention_mask=MASK, target=same).tokens
        assert torch.equal(ours.attribute(target=target, **given), expected), target
    with pytest.raises(lrp_fx.TargetError, match="a target is a class, or"):
        ours.attribute(target=(1, 2, 3), **given)


def test_images_and_captums_own_measures(captum: Any) -> None:
    from captum.metrics import sensitivity_max

    torch.manual_seed(0)
    image = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    ours, x = captum.RelevancePropagation(image, rules="attnlrp"), torch.randn(2, 3, 8, 8)
    scores = ours.attribute(x, target=1)
    assert scores.shape == x.shape
    (alone,) = ours.attribute((x,), target=1)
    assert torch.equal(scores, alone)
    assert bool((sensitivity_max(ours.attribute, x, target=1, n_perturb_samples=2) >= 0).all())


def test_captum_draws_our_texts(captum: Any, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    from captum.attr import visualization

    relevance = lrp_fx.convert(model)(input_ids=IDS, attention_mask=MASK, target=[1, 2])
    drawn = captum.records(relevance, true_class=["yes", "no"])
    assert [len(r.raw_input_ids) for r in drawn] == [5, 3] and drawn[0].raw_input_ids[1] == "9"
    assert [r.attr_class for r in drawn] == [1, 2] and drawn[1].true_class == "no"
    assert float(drawn[0].word_attributions.abs().max()) == pytest.approx(1)
    assert drawn[1].attr_score + drawn[1].convergence_score == pytest.approx(float(relevance.score[1]))
    pytest.importorskip("IPython", reason=HOW)
    page = visualization.visualize_text(drawn).data
    assert page.count("<mark") == 8 and "14" in page and ">no<" in page.replace("<b>", "").replace("</b>", "")


def test_what_captum_cannot_ask_is_said(captum: Any, model: nn.Module) -> None:
    with pytest.raises(InputError, match=r"give the torch\.nn\.Module itself"):
        captum.RelevancePropagation(model.forward)
    ours = captum.RelevancePropagation(model)
    with pytest.raises(InputError, match="no baselines"):
        ours.attribute(IDS, baselines=0, target=1, additional_forward_args=MASK)
    with pytest.raises(InputError, match="attention_mask carries no relevance"):
        ours.attribute((IDS, MASK), target=1)


# ------------------------------------------------------------------------------------------------ inseq
@pytest.fixture(scope="module")
def inseq() -> Any:
    package = pytest.importorskip("inseq", reason=HOW)
    importlib.import_module("lrp_fx.adapters.inseq")
    return package


def _tokenizer() -> Any:
    """A word is a token."""
    import tokenizers
    import transformers

    words = "<pad> <s> </s> <unk> once upon a time there was little girl who had dog and cat".split()
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **named)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    import transformers

    torch.manual_seed(0)
    sizes = dict(vocab_size=17, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    config = transformers.GPT2Config(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    folder = tmp_path_factory.mktemp("decoder")
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> str:
    import transformers

    torch.manual_seed(0)
    sizes = dict(vocab_size=17, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    ids = dict(pad_token_id=0, eos_token_id=2, decoder_start_token_id=0)
    folder = tmp_path_factory.mktemp("translator")
    transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, **ids)).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return str(folder)


def test_inseq_explains_a_decoder_by_our_method(inseq: Any, decoder: str) -> None:
    model = inseq.load_model(decoder, "lrp", rules="attnlrp")
    assert "lrp" in inseq.list_feature_attribution_methods()
    out = model.attribute("once upon a", "once upon a time there", show_progress=False, step_scores=["logit"])
    (sequence,) = out.sequence_attributions
    ids = torch.tensor([model.tokenizer("once upon a time there")["input_ids"]])
    explainer = lrp_fx.convert(model.model, rules="attnlrp")
    assert sequence.target_attributions.shape == (5, 2)
    for step in range(2):
        length = 3 + step
        ours = explainer(input_ids=ids[:, :length], target=int(ids[0, length])).tokens[0]
        torch.testing.assert_close(sequence.target_attributions[:length, step], ours)
    assert out.info["attribution_method"] == "lrp" and "time" in out.show(display=False, return_html=True)


def test_inseq_explains_both_sides_of_an_encoder_decoder(inseq: Any, translator: str) -> None:
    model = inseq.load_model(translator, "lrp")
    out = model.attribute("a little girl", "a dog", attribute_target=True, show_progress=False)
    (both,) = out.sequence_attributions
    (source,) = model.attribute("a little girl", "a dog", show_progress=False).sequence_attributions
    torch.testing.assert_close(both.source_attributions, source.source_attributions)
    assert source.target_attributions is None and both.target_attributions is not None
    ids = torch.tensor([model.tokenizer("a little girl")["input_ids"]])
    first = int(model.tokenizer("a dog")["input_ids"][0])
    ours = lrp_fx.convert(model.model)(input_ids=ids, decoder_input_ids=torch.tensor([[0]]), target=first)
    torch.testing.assert_close(both.source_attributions[: ids.shape[1], 0], ours.per_token()["input_ids"][0])


def test_what_inseq_cannot_ask_is_said(inseq: Any, decoder: str) -> None:
    model = inseq.load_model(decoder, "lrp")
    with pytest.raises(InputError, match="explains the logit of the token that was written"):
        model.attribute("once", "once upon", attributed_fn="entropy", show_progress=False)


@pytest.mark.parametrize("name", ["captum", "inseq"])
def test_a_package_that_is_not_there_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if m.split(".")[0] == name or m == f"lrp_fx.adapters.{name}"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'needs {name}: pip install "lrp-fx\[{name}\]"'):
        importlib.import_module(f"lrp_fx.adapters.{name}")
