"""Values that a model's Python reads out of tensors: the same function has the same relevance, and what cannot be
followed is said.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrp_fx

IDS = torch.arange(6)[None]
Function = Callable[[Tensor], Tensor]


class Body(nn.Module):
    """Words, a function of their mean, three classes."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.function = function
        self.double().eval()

    def forward(self, input_ids: Tensor) -> Tensor:
        classes: Tensor = self.head(self.function(self.words(input_ids).mean(1)))
        return classes


#: What a model may write with a number, and the same with a tensor.
SAME: dict[str, tuple[Function, Function]] = {
    "list": (lambda h: h + torch.tensor(h.tolist(), dtype=h.dtype), lambda h: h + h),
    "times": (lambda h: h * h.sum().item(), lambda h: h * h.sum()),
    "divided": (lambda h: h / h.abs().max().item(), lambda h: h / h.abs().max()),
    "arithmetic": (
        lambda h: h * (2 * h.mean().item() + 1) - h.sum().item() / 3,
        lambda h: h * (2 * h.mean() + 1) - h.sum() / 3,
    ),
    "root": (lambda h: h / math.sqrt(h.pow(2).sum().item() + 1), lambda h: h / (h.pow(2).sum() + 1).sqrt()),
    "float": (lambda h: h * float(h.sum()), lambda h: h * h.sum()),
    "from": (lambda h: h.max().item() - h, lambda h: h.max() - h),
    "power": (lambda h: h.abs() ** h.abs().max().item(), lambda h: h.abs() ** h.abs().max()),
    "base": (lambda h: h.abs().max().item() ** h, lambda h: h.abs().max() ** h),
    "alpha": (lambda h: torch.add(h, h.abs(), alpha=h.mean().item()), lambda h: h + h.mean() * h.abs()),
    "value": (lambda h: torch.addcmul(h, h, h, value=h.mean().item()), lambda h: torch.addcmul(h, h.mean() * h, h)),
    "full": (lambda h: h + torch.full((8,), h.sum().item(), dtype=h.dtype), lambda h: h + h.sum()),
    "full like": (lambda h: h + torch.full_like(h, h.sum().item()), lambda h: h + h.sum()),
    "clamp": (
        lambda h: h.clamp(-1, h.max().item() * 0.5),
        lambda h: torch.minimum(h.clamp(min=-1), h.max() * 0.5),
    ),
    "where": (lambda h: torch.where(h > 0, h, h.min().item()), lambda h: torch.where(h > 0, h, h.min())),
    "fill": (lambda h: h.masked_fill(h < 0, h.max().item()), lambda h: torch.where(h < 0, h.max(), h)),
    "decides": (lambda h: h * 2 if h.sum().item() > -100 else h, lambda h: h * 2),
    "whole": (lambda h: h * abs(h.sum().item()) + (h.sum().item() % 2), lambda h: h * h.sum().abs() + h.sum() % 2),
    "counted": (lambda h: h + h.sum().item() * (h > 0).sum().item(), lambda h: h + h.sum() * (h > 0).sum()),
    "full like another": (
        lambda h: h + torch.full_like(torch.arange(8), h.mean().item() * 30, dtype=h.dtype),
        lambda h: h + h.mean() * 30,
    ),
    "new full": (lambda h: h + h.new_full((8,), h.sum().item()), lambda h: h + h.sum()),
    "beside a size": (
        lambda h: h.clamp(-h.shape[1], h.max().item() / 2),
        lambda h: torch.minimum(h.clamp(min=-8), h.max() / 2),
    ),
    # with tensors: kernels that take a value without axes
    "filled": (lambda h: h.masked_fill(h < 0, h.max()), lambda h: torch.where(h < 0, h.max(), h)),
    "filled rows": (
        lambda h: h.index_fill(1, torch.tensor([1, 2]), h.max()),
        lambda h: torch.cat([h[:, :1], h.max().expand(1, 2), h[:, 3:]], 1),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_a_number_read_of_a_tensor_is_worth_what_the_tensor_is(name: str, quiet: None) -> None:
    written, plain = (
        lrp_fx.convert(Body(function), conserve="site")(input_ids=IDS).content["input_ids"] for function in SAME[name]
    )
    assert torch.allclose(written, plain, rtol=1e-10, atol=1e-12 * float(plain.abs().max()))


@pytest.mark.parametrize("name", ["list", "times", "arithmetic", "float", "clamp", "filled"])
def test_no_gradient_passes_a_number(name: str, quiet: None) -> None:
    model = Body(SAME[name][0])
    found = lrp_fx.convert(model, rules="gradient")(input_ids=IDS).content["input_ids"]
    words = model.words(IDS).detach().requires_grad_()
    classes = model.head(model.function(words.mean(1)))
    (gradient,) = torch.autograd.grad(classes.max(), words)
    assert torch.allclose(found, (gradient * words).sum(-1), rtol=1e-10)


#: A number that is computed with where another was decided by: such a model is recorded on its call, as it runs.
LOST: dict[str, Function] = {
    "added": lambda h: h + h.sum().item() if h.sum().item() > -100 else h,
    "decided elsewhere": lambda h: (h * 2 if h.max() > -100 else h) + h.sum().item() / 2,
    "by the standard library": lambda h: h * math.exp(-h.pow(2).sum().item()),
    "float": lambda h: h * float(h.sum()),
    "list": lambda h: (h * 2 if h.max() > -100 else h) + torch.tensor(h[0].tolist()),
    "array": lambda h: h + torch.from_numpy(h.detach().numpy() * 2),
    "array of numbers": lambda h: h + torch.from_numpy(np.array(h.tolist())),
}


@pytest.mark.parametrize("name", LOST)
def test_what_leaves_torch_is_said_to_be_lost(name: str) -> None:
    with pytest.warns(UserWarning, match=r"leave torch.*test_numbers.py(.|\n)*booked as bias"):
        relevance = lrp_fx.convert(Body(LOST[name]))(input_ids=IDS)
    assert relevance.ledger.error.max() <= 1e-12
    with pytest.raises(lrp_fx.UnsupportedOperatorError, match="leave torch"):
        lrp_fx.convert(Body(LOST[name]), strict=True)(input_ids=IDS)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*leave torch.*")  # autograd does not follow it either
        lrp_fx.convert(Body(LOST[name]), rules="gradient", strict=True)(input_ids=IDS)


def test_a_number_that_no_operation_takes_as_a_tensor_is_said_to_be_lost() -> None:
    with pytest.warns(UserWarning, match="leave torch"):
        lrp_fx.convert(Body(lambda h: nn.functional.threshold(h, 0.0, h.max().item())))(input_ids=IDS)


def test_a_number_of_a_weight_that_stays_one_is_no_loss() -> None:
    """No operation takes it as a tensor; it is none of the inputs'."""
    model = Body(lambda h: nn.functional.threshold(h, -9.0, model.head.bias.max().item()))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*leave torch.*")
        lrp_fx.convert(model, strict=True)(input_ids=IDS)


def test_an_output_of_arrays_alone_is_refused_with_the_reason(quiet: None) -> None:
    model = Body(lambda h: torch.from_numpy(h.detach().numpy() * 2))
    with pytest.raises(lrp_fx.TargetError, match=r"does not depend on any input(.|\n)*leave torch"):
        lrp_fx.convert(model)(input_ids=IDS)


#: What is read of these is no loss.
HARMLESS: dict[str, Function] = {
    "indices": lambda h: h[:, torch.from_numpy(torch.arange(8).numpy()[::-1].copy())],
    "a decision": lambda h: h * 2 if h.sum().item() > -100 else h,
    "an array of zeros": lambda h: h + torch.from_numpy(torch.zeros_like(h).numpy()) if h.max() > -100 else h,
    "an integer": lambda h: h[:, : int((h > -100).sum().item()) - 1].sum(-1, keepdim=True) + h,
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_decides_is_no_loss(name: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*leave torch.*")
        lrp_fx.convert(Body(HARMLESS[name]), strict=True)(input_ids=IDS)


def test_a_mask_that_goes_through_numpy_is_no_loss() -> None:
    class Masked(Body):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:  # type: ignore[override]
            shown = torch.from_numpy(attention_mask.double().numpy())
            return super().forward(input_ids) * shown.mean()

    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*leave torch.*")
        lrp_fx.convert(Masked(lambda h: h), strict=True)(input_ids=IDS, attention_mask=torch.ones(1, 6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernels_of_half_precision_keep_the_number(dtype: torch.dtype, quiet: None) -> None:
    model = Body(lambda h: h * 300 / (h.double().pow(2).sum().item() * 1e5) * 300).to(dtype)
    relevance = lrp_fx.convert(model)(input_ids=IDS)
    with torch.no_grad():
        assert torch.allclose(relevance.score.to(dtype), model(IDS).max(), rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_number_of_times_has_the_range_of_float32(dtype: torch.dtype, quiet: None) -> None:
    model = Body(lambda h: torch.add(h, h * 1e-4, alpha=h.double().pow(2).sum().item() * 2e4)).to(dtype)
    relevance = lrp_fx.convert(model)(input_ids=IDS)
    with torch.no_grad():
        assert torch.allclose(relevance.score.to(dtype), model(IDS).max(), rtol=2e-2)


def test_a_number_and_a_size_are_one_tensor(quiet: None) -> None:
    """What Python computes of a number and of a length, in a program for any length."""

    class Mean(Body):
        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.words(input_ids)
            classes: Tensor = self.head(self.function(x).mean(1))
            return classes

    written = Mean(lambda x: x + x.sum().item() / x.shape[1])
    plain = Mean(lambda x: x + x.sum() / x.shape[1])
    by_number, by_tensor = lrp_fx.convert(written), lrp_fx.convert(plain)
    for length in (6, 4, 3):
        a, b = (e(input_ids=IDS[:, :length]).content["input_ids"] for e in (by_number, by_tensor))
        assert torch.allclose(a, b, rtol=1e-10)


def test_a_norm_without_arguments_divides(quiet: None) -> None:
    relevance = lrp_fx.convert(Body(lambda h: h / h.norm()), conserve="site")(input_ids=IDS)
    assert relevance.ledger.error.max() <= 1e-12


def test_a_number_of_an_island_of_float32_stays_one(quiet: None) -> None:
    """What no operation takes as a tensor, in a float64 model that reads it in float32."""
    relevance = lrp_fx.convert(Body(lambda h: nn.functional.threshold(h, -9.0, h.float().max().item())))(input_ids=IDS)
    assert relevance.ledger.error.max() <= 1e-12
