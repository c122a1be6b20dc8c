"""Dequantised copies: the type and the mode of each layer, and models that Python's own copy refuses."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import lrp_fx

IDS = torch.tensor([[1, 2, 3, 7], [4, 4, 5, 6]])


class Whole(nn.Module):
    """A linear layer of whole numbers, which computes in whatever it is given."""

    in_features = out_features = 8

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("codes", torch.randint(-127, 128, (8, 8), generator=generator, dtype=torch.int8))
        self.bias = nn.Parameter(torch.randn(8, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.codes.to(x.dtype)) / 256 + self.bias.to(x.dtype)


class WholeWords(nn.Embedding):
    """Rows of whole numbers."""

    def __init__(self) -> None:
        super().__init__(11, 8)
        codes = torch.randint(-127, 128, (11, 8), generator=torch.Generator().manual_seed(1), dtype=torch.int8)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(1 / 64))

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids].to(self.scale.dtype) * self.scale


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.norm, self.inner, self.head = WholeWords(), nn.LayerNorm(8), Whole(), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.inner(self.norm(self.words(ids))).tanh().mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_layers_have_the_type_and_the_mode_of_those_that_they_stand_for(dtype: torch.dtype) -> None:
    model = Net().to(dtype).eval()
    copy = lrp_fx.dequantised(model)
    assert type(copy.inner) is nn.Linear and type(copy.words) is nn.Embedding
    assert {p.dtype for p in copy.parameters()} == {dtype}
    assert not any(m.training for m in copy.modules())
    exact = model.inner.codes.double() / 256
    torch.testing.assert_close(copy.inner.weight.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-9)
    torch.testing.assert_close(copy(IDS), model(IDS))
    found, expected = (lrp_fx.convert(m)(IDS, target=1).content["ids"].double() for m in (copy, model))
    torch.testing.assert_close(found, expected, rtol=0.1 if dtype.itemsize == 2 else 1e-4, atol=dtype.itemsize**-9)


class Packed(Tensor):
    """Numbers held as codes and a scale; whatever is done to it, the result is plain, so that it has no clone."""

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor) -> Packed:
        return Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype)  # type: ignore[attr-defined, no-any-return]

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        self.codes, self.scale = codes, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], context: None, size: Any, stride: Any) -> Packed:
        return Packed(inner["codes"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return Packed(args[0].codes, args[0].scale)
        args, kwargs = pytree.tree_map_only(Packed, lambda p: p.codes.to(p.scale.dtype) * p.scale, (args, kwargs or {}))
        return func(*args, **kwargs)


class Convolved(Net):
    """A convolution whose weight is packed, which is no linear layer, and something computed of a weight."""

    def __init__(self) -> None:
        super().__init__()
        codes = torch.randint(-9, 9, (8, 8, 1), generator=torch.Generator().manual_seed(2))
        self.convolution = nn.Conv1d(8, 8, 1)
        self.convolution.weight = nn.Parameter(Packed(codes, torch.tensor(0.1)), requires_grad=False)
        self.double_scale = self.words.scale * 2

    def forward(self, ids: Tensor) -> Tensor:
        x = self.convolution(self.norm(self.words(ids)).mT).mT * self.double_scale
        return self.head(self.inner(x).mean(1))  # type: ignore[no-any-return]


def test_weights_that_have_no_clone_are_copied_by_their_parts() -> None:
    model = Convolved().eval()
    copy = lrp_fx.dequantised(model)
    torch.testing.assert_close(copy(IDS), model(IDS))
    weight, own = copy.convolution.weight, model.convolution.weight
    assert isinstance(weight, Packed) and weight is not own and weight.codes.data_ptr() != own.codes.data_ptr()


def test_a_model_that_cannot_be_copied_is_refused_in_a_sentence() -> None:
    model = Net().eval()
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(lrp_fx.InputError, match=r"Net cannot be copied .*lock.*\n    next: explain the model as it is"):
        lrp_fx.dequantised(model)
