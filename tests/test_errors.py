"""Bad input is a clear error before any work, never a wrong number."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from testing.architectures import BY_NAME


@pytest.fixture(scope="module")
def explain() -> lrp_fx.Explainer:
    return lrp_fx.convert(BY_NAME["bert"].build())


INPUTS = BY_NAME["bert"].inputs()


def test_training_mode(explain: lrp_fx.Explainer) -> None:
    model = BY_NAME["bert"].build()
    model.bert.encoder.layer[1].train()
    with pytest.raises(lrp_fx.InputError, match=r"training mode \(bert.encoder.layer.1.*eval\(\)"):
        lrp_fx.convert(model)(**INPUTS)


def test_nan_weights() -> None:
    model = BY_NAME["bert"].build()
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    with pytest.raises(lrp_fx.InputError, match="weights are not finite: classifier.weight"):
        lrp_fx.convert(model)(**INPUTS)


def test_weights_gone_bad_after_conversion_are_refused_too() -> None:
    model = BY_NAME["bert"].build()
    explain = lrp_fx.convert(model)
    explain(**INPUTS)
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("inf")
    with pytest.raises(lrp_fx.InputError, match="not finite"):
        explain(**INPUTS)


def test_nan_inputs() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[0, 0, 0, 0] = float("nan")
    with pytest.raises(lrp_fx.InputError, match="pixel_values contains NaN"):
        lrp_fx.convert(BY_NAME["vit"].build())(pixel_values=image)


def test_integers_where_floats_are_due() -> None:
    with pytest.raises(lrp_fx.InputError, match="pixel_values has type torch.uint8.*float"):
        lrp_fx.convert(BY_NAME["vit"].build())(pixel_values=torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_floats_where_integers_are_due(explain: lrp_fx.Explainer) -> None:
    with pytest.raises(lrp_fx.InputError, match="input_ids"):
        explain(input_ids=torch.zeros(1, 4))


@pytest.mark.parametrize("shape", [(1, 0), (0, 4)])
def test_empty_sequence(explain: lrp_fx.Explainer, shape: tuple[int, int]) -> None:
    with pytest.raises(lrp_fx.InputError, match="input_ids is empty"):
        explain(input_ids=torch.zeros(*shape, dtype=torch.int64))


def test_token_outside_the_vocabulary(explain: lrp_fx.Explainer) -> None:
    with pytest.raises(lrp_fx.InputError, match="forward"):
        explain(input_ids=torch.tensor([[1, 2, 99999]]))


def test_unknown_and_missing_arguments(explain: lrp_fx.Explainer) -> None:
    with pytest.raises(lrp_fx.InputError, match="no argument inputs_id"):
        explain(inputs_id=torch.tensor([[1, 2]]))
    with pytest.warns(UserWarning, match="position=1 goes to the \\*\\*kwargs of .*\n.*target=Class"):
        explain(input_ids=torch.tensor([[1, 2, 3]]), position=1)
    with pytest.raises(lrp_fx.InputError, match="no tensor"):
        explain()
    with pytest.raises(lrp_fx.InputError, match="none of the inputs attention_mask is content"):
        explain(attention_mask=torch.ones(1, 4, dtype=torch.int64))


class Wrapper(torch.nn.Module):
    """Its forward has no names, and hands all to one that is no child by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.place = torch.nn.Embedding(9, 3), torch.nn.Linear(3, 3)

    def forward(self, *args: object, **kwargs: Any) -> torch.Tensor:
        scores: torch.Tensor = self.place(self.words(kwargs["input_ids"])).mean(1) * kwargs["position"]
        return scores


def test_an_argument_of_the_model_that_is_called_position() -> None:
    model = Wrapper().eval()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="position")
        relevance = lrp_fx.convert(model)(input_ids=torch.tensor([[1, 2, 3]]), position=2, target=0)
    assert torch.equal(relevance.output, model(input_ids=torch.tensor([[1, 2, 3]]), position=2))


def test_wrong_options() -> None:
    model = BY_NAME["bert"].build()
    with pytest.raises(lrp_fx.InputError, match="no ruleset 'lrp'; there are"):
        lrp_fx.convert(model, rules="lrp")
    with pytest.raises(lrp_fx.InputError, match="conserve='yes'"):
        lrp_fx.convert(model, conserve="yes")
    with pytest.raises(lrp_fx.InputError, match="takes a torch.nn.Module"):
        lrp_fx.convert(3)
    with pytest.raises(lrp_fx.InputError, match="there is no folder"):
        lrp_fx.convert("./nowhere")
    with pytest.raises(lrp_fx.InputError, match="unknown rules: linear.nothing"):
        lrp_fx.convert(model, rules=lrp_fx.Ruleset("mine", frozenset({"content"}), kinds={"linear": "linear.nothing"}))
    with pytest.raises(lrp_fx.InputError, match="role"):
        lrp_fx.convert(model, roles={"input_ids": "words"})


def test_nothing_to_inspect_before_capture() -> None:
    with pytest.raises(lrp_fx.InputError, match="nothing captured yet"):
        _ = lrp_fx.convert(BY_NAME["bert"].build()).sites


class Drawing(nn.Module):
    """Draws random numbers: no graph can be compared with it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand_like(x)


def test_a_model_that_cannot_be_captured() -> None:
    with pytest.raises(lrp_fx.CaptureError) as caught:
        lrp_fx.convert(Drawing().eval())(x=torch.randn(2, 4))
    message = str(caught.value)
    assert "Drawing could not be captured" in message
    assert all(f"{method}: " in message for method in ("dynamic", "static", "concrete"))
    assert "next:" in message


class Odd(nn.Module):
    """A determinant: of no class that a rule covers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 9), nn.Linear(1, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        matrices = self.embed(input_ids).sum(1).reshape(-1, 3, 3)
        return self.head(torch.log(torch.linalg.det(matrices).abs() + torch.cosh(matrices.sum((1, 2)))).unsqueeze(1))


def test_strict_refuses_what_is_approximated_and_says_what_to_do() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    loose = lrp_fx.convert(Odd().eval())
    with pytest.warns(UserWarning, match=r"% of the score is unexplained in examples 0, 1: .*strict=True"):
        relevance = loose(input_ids=ids)
    assert "unexplained" in relevance.ledger.sinks
    assert loose.coverage["unexplained"]
    with pytest.raises(lrp_fx.UnsupportedOperatorError) as caught:
        lrp_fx.convert(Odd().eval(), strict=True)(input_ids=ids)
    message = str(caught.value)
    for part in ("aten.log", "test_errors.py", "closest:", "next:", "docs/adding_a_rule.md"):
        assert part in message, part


def test_all_errors_are_one_family() -> None:
    for error in (
        lrp_fx.CaptureError,
        lrp_fx.ConservationError,
        lrp_fx.InputError,
        lrp_fx.TargetError,
        lrp_fx.UnsupportedOperatorError,
    ):
        assert issubclass(error, lrp_fx.LrpError)


def test_the_model_is_not_modified() -> None:
    model = BY_NAME["llama"].build("sdpa")
    model.config.use_cache = True
    before = copy.deepcopy(model.state_dict())
    config = copy.deepcopy(model.config.to_dict())
    grads = {n: p.requires_grad for n, p in model.named_parameters()}
    lrp_fx.convert(model)(**BY_NAME["llama"].inputs())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.config.to_dict() == config
    assert grads == {n: p.requires_grad for n, p in model.named_parameters()}
    assert all(p.grad is None for p in model.parameters())
    assert not model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())


class Centred(nn.Module):
    """Takes the mean over all examples of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 2)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.map(x - x.mean())
        return out


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_all_examples_share_is_refused_and_one_example_is_not() -> None:
    with pytest.raises(lrp_fx.LrpError, match=r"%mean.*one value for all examples(?s:.*)one example at a time"):
        lrp_fx.convert(Centred())(torch.randn(2, 3), target=0)
    assert lrp_fx.convert(Centred())(torch.randn(1, 3), target=0).ledger.error.max() < 1e-5


def test_verify_takes_inputs_by_position_too() -> None:
    model, given = Centred(), torch.randn(1, 3)
    expected = str(lrp_fx.verify(model, {"x": given}, target=0))
    for inputs in ((given,), [given], given):
        assert str(lrp_fx.verify(model, inputs, target=0)) == expected
    with pytest.raises(lrp_fx.InputError, match=r"got 'a text'\n    next: give a dictionary"):
        lrp_fx.verify(model, "a text")


def test_tensors_without_numbers_or_without_a_length(explain: lrp_fx.Explainer) -> None:
    ids = INPUTS["input_ids"]
    explain(input_ids=ids)
    with pytest.raises(lrp_fx.InputError, match="input_ids is on the meta device"):
        explain(input_ids=ids.to("meta"))
    ragged = torch.nested.nested_tensor([ids[0], ids[0, :2]], layout=torch.jagged)
    with pytest.raises(lrp_fx.InputError, match="nested tensor.*\n.*to_padded_tensor"):
        explain(input_ids=ragged)


def test_complex_weights_are_not_called_quantised() -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(20, 8, dtype=torch.complex64), nn.Linear(8, 3)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(self.words(input_ids).abs().mean(1))  # type: ignore[no-any-return]

    with pytest.raises(lrp_fx.CaptureError, match="complex") as refused:
        lrp_fx.convert(Waves().eval())(input_ids=torch.tensor([[1, 2, 3]]))
    assert "quantised" not in str(refused.value)
