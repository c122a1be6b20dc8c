"""Numbers of a model that are written past torch's count of versions (``tensor.data``, arrays), where constants of a
program were made of them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lrp_fx
from lrp_fx.ir.read import WHOLE, Read

pytestmark = pytest.mark.usefixtures("quiet")
IDS = torch.tensor([[3, 4, 6, 7]])


class Words(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.inner, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(width, 3)
        self.double().eval()


class Cast(Words):
    """A buffer of float32 in a model of float64: programs have a copy of it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.full((8,), 2.0))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(input_ids) * self.factor).mean(1))  # type: ignore[no-any-return]

    def write(self) -> None:
        self.factor.data.fill_(5.0)  # type: ignore[union-attr, operator]


class Decided(Words):
    """A weight decides by what all is multiplied: the record of one call."""

    def forward(self, input_ids: Tensor) -> Tensor:
        factor = int(self.inner.bias.argmax()) + 1.0
        return self.head(torch.tanh(self.inner(self.words(input_ids) * factor)).mean(1))  # type: ignore[no-any-return]

    def write(self) -> None:
        self.inner.bias.data.copy_(self.inner.bias.data.roll(1))


class Picked(Words):
    """A mask that picks features, as the indices of its true elements."""

    def __init__(self) -> None:
        super().__init__(2)
        self.register_buffer("kept", torch.arange(8) < 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(input_ids)[:, :, self.kept]).mean(1))  # type: ignore[no-any-return]

    def write(self) -> None:
        self.kept.data.copy_(self.kept.roll(1))  # type: ignore[union-attr, operator]


class Causal(Words):
    """A mask that was found to be causal, and is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(8, 8).bool().tril())

    def forward(self, input_ids: Tensor) -> Tensor:
        x, n = self.words(input_ids)[:, None], input_ids.shape[1]
        mask: Tensor = self.mask  # type: ignore[assignment]
        return self.head(F.scaled_dot_product_attention(x, x, x, attn_mask=mask[:n, :n])[:, 0].mean(1))  # type: ignore[no-any-return]

    def write(self) -> None:
        self.mask.numpy()[:] = True  # type: ignore[operator]


MODELS: list[Callable[[], Words]] = [Cast, Decided, Picked, Causal]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("how", ["changes", "every", "another", "verify"])
def test_what_is_written_past_the_versions_counts(kind: Callable[[], Words], how: str) -> None:
    model = kind()
    explain = lrp_fx.convert(model, check="every" if how == "every" else "changes", progress=False)
    before = explain(IDS).output
    version = [b._version for b in model.buffers()]
    model.write()  # type: ignore[operator]
    assert [b._version for b in model.buffers()] == version
    if how == "verify":
        assert explain.verify(IDS).ok is (kind is Causal)  # what a mask says is looked at in every call
    found = (lrp_fx.convert(model, progress=False) if how == "another" else explain)(IDS).output
    torch.testing.assert_close(found, model(IDS), rtol=0, atol=1e-12)
    assert not torch.allclose(found, before)


def test_what_is_not_written_to_is_as_it_was() -> None:
    held = [torch.randn(5), torch.tensor([1.0, float("nan")]), torch.arange(4), torch.randn(2 * WHOLE)]
    held += [torch.randn(400, 500).mT, torch.empty(3, device="meta"), torch.eye(3).to_sparse(), torch.ones(3).bool()]
    read = [Read(tensor) for tensor in held]
    assert not any(one.changed() for one in read)
    for tensor in held[:5]:
        tensor.data.add_(1)
    assert [one.changed() for one in read] == [True] * 5 + [False] * 3


def test_a_weight_that_no_constant_was_made_of_may_be_written_to() -> None:
    model = Cast()
    explain = lrp_fx.convert(model, progress=False)
    explain(IDS)
    model.words.weight.data.mul_(2)
    torch.testing.assert_close(explain(IDS).output, model(IDS), rtol=0, atol=1e-12)
    assert explain.statistics.captures == 1
