"""Values that a model's Python reads out of tensors: the same function has the same relevance, and what cannot be
followed is said.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

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
    "full": (lambda h: h + torch.full((8,), h.sum().item(), dtype=h.dtype), lambda h: h + h.sum()),
    "full like": (lambda h: h + torch.full_like(h, h.sum().item()), lambda h: h + h.sum()),
    "clamp": (
        lambda h: h.clamp(-1, h.max().item() * 0.5),
        lambda h: torch.minimum(h.clamp(min=-1), h.max() * 0.5),
    ),
    "where": (lambda h: torch.where(h > 0, h, h.min().item()), lambda h: torch.where(h > 0, h, h.min())),
    "fill": (lambda h: h.masked_fill(h < 0, h.max().item()), lambda h: torch.where(h < 0, h.max(), h)),
    "decides": (lambda h: h * 2 if h.sum().item() > -100 else h, lambda h: h * 2),
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


def by_numpy(h: Tensor) -> Tensor:
    return h + torch.from_numpy(h.detach().numpy() * 2)


def test_what_numpy_computes_is_said_to_be_lost() -> None:
    with pytest.warns(UserWarning, match=r"taken to numpy .*test_numbers.py.*booked as bias"):
        relevance = lrp_fx.convert(Body(by_numpy))(input_ids=IDS)
    assert relevance.ledger.error.max() <= 1e-12
    with pytest.raises(lrp_fx.UnsupportedOperatorError, match="taken to numpy"):
        lrp_fx.convert(Body(by_numpy), strict=True)(input_ids=IDS)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*taken to numpy.*")  # autograd does not follow it either
        lrp_fx.convert(Body(by_numpy), rules="gradient", strict=True)(input_ids=IDS)


def test_an_output_of_numpy_alone_is_refused_with_the_reason(quiet: None) -> None:
    model = Body(lambda h: torch.from_numpy(h.detach().numpy() * 2))
    with pytest.raises(lrp_fx.TargetError, match=r"does not depend on any input(.|\n)*taken to numpy"):
        lrp_fx.convert(model)(input_ids=IDS)


def test_indices_made_by_numpy_are_no_loss() -> None:
    def chosen(h: Tensor) -> Tensor:
        return h[:, torch.from_numpy(torch.arange(8).numpy()[::-1].copy())]

    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*taken to numpy.*")
        lrp_fx.convert(Body(chosen), strict=True)(input_ids=IDS)
