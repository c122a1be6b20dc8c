"""The preset ``gradient`` is gradient x input, to the last digits: the check of capture and transpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lrp_fx
from testing.handmade import F, V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")
#: Functions of (B, T, F): values that are factors of themselves, kernels that take memory as it lies, and others.
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "square": lambda x: x * x,
    "cube": lambda x: x * x * x,
    "quotient by itself": lambda x: x / (1 + x * x),
    "gate by itself": lambda x: x * torch.sigmoid(x),
    "matrix product with itself": lambda x: x @ x.mT @ x,
    "distance": lambda x: x * (x - x.mean(1, keepdim=True)),
    "group_norm of a transposed value": lambda x: functional.group_norm(x.mT, 2).mT,
    "group_norm": lambda x: functional.group_norm(x.mT.contiguous(), 4).mT,
    "instance_norm": lambda x: functional.instance_norm(x.mT).mT * x,
    "layer_norm": lambda x: functional.layer_norm(x, (F,)),
    "rms_norm": lambda x: functional.rms_norm(x, (F,)),
    "softmax": lambda x: x.softmax(-1) * x,
    "attention": lambda x: functional.scaled_dot_product_attention(x, x, x),
    "maximum": lambda x: torch.maximum(x, x.roll(1, 1)),
    "logsumexp": lambda x: x + x.logsumexp(-1, keepdim=True),
    "scores behind a mask of content": lambda x: (
        x.masked_fill(x < x.mean(-1, keepdim=True), -torch.inf).softmax(-1) * x
    ),
    "power": lambda x: x.abs().add(1) ** x,
}


class Model(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.words, self.inner, self.head = nn.Embedding(V, F), nn.Linear(F, F), nn.Linear(F, 3)

    def by_values(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.inner(x)).mean(1))  # type: ignore[no-any-return]

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.by_values(self.words(input_ids))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_is_what_autograd_says(name: str, rows: int) -> None:
    model = ready(Model(FUNCTIONS[name]))
    given = ids(rows)
    values = model.words(given).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.by_values(values)[:, 1].sum(), values)
    found = lrp_fx.convert(model, rules="gradient")(input_ids=given, target=1)
    expected = (gradient * values).sum(-1).detach()
    assert torch.allclose(found.content["input_ids"], expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def test_a_coefficient_is_laid_out_for_a_kernel_that_reads_memory_as_it_lies() -> None:
    """Traced, the coefficient of the group norm lies as its kernel wants it; in the graph it does not."""

    class Normed(Model):
        def by_values(self, x: Tensor) -> Tensor:
            normed = functional.group_norm(x.mT.contiguous(), 4).mT
            mixed = normed + (x + self.inner(normed))
            return self.head(functional.local_response_norm(mixed.mT, 3, alpha=0.5).mT.amax(1))  # type: ignore[no-any-return]

    model = ready(Normed(lambda x: x))
    given = ids(3)
    values = model.words(given).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.by_values(values)[:, 1].sum(), values)
    found = lrp_fx.convert(model, rules="gradient")(input_ids=given, target=1)
    assert torch.allclose(found.content["input_ids"], (gradient * values).sum(-1).detach(), rtol=1e-9, atol=1e-12)
