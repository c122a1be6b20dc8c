"""Weights that counters help to compute are weights; counters that run along tokens are positions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lrp_fx

IDS = torch.tensor([[1, 2, 3, 7, 2], [4, 4, 5, 6, 1]])
D = 8
COUNT = {"dtype": torch.float64}


def _draw(*sizes: int, seed: int) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Codes(nn.Module):
    """Numbers from -8 to 7, as numbers, bits, and digits to base 3 (of those from -1 to 1), and how much one is."""

    def __init__(self, rows: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        codes = torch.randint(0, 16, (rows, D), generator=generator)
        digits = torch.randint(0, 3, (rows, D // 4, 4), generator=generator)
        self.register_buffer("codes", codes)
        self.register_buffer("bits", torch.stack([codes >> k & 1 for k in range(4)], -1))
        self.register_buffer("packed", (digits * torch.tensor([1, 3, 9, 27])).sum(-1))
        self.register_buffer("scale", torch.full((rows, 1), 0.1, **COUNT))
        self.register_buffer("levels", torch.arange(-8, 8, **COUNT))
        self.register_buffer("digits", digits.flatten(1).double() - 1)


def _masked(s: Codes) -> Tensor:
    power = 2 ** torch.arange(4)
    return (power * s.codes[..., None].bitwise_and(power).ne(0).long()).sum(-1).double() - 8


NUMBERS: dict[str, Callable[[Codes], Tensor]] = {
    "code book of a counter": lambda s: (torch.arange(16, **COUNT) - 8)[s.codes],
    "code book of steps": lambda s: torch.linspace(-8, 7, 16, **COUNT)[s.codes],
    "bits summed": lambda s: (s.bits * 2 ** torch.arange(4)).sum(-1).double() - 8,
    "bits multiplied": lambda s: s.bits.double() @ 2 ** torch.arange(4, **COUNT) - 8,
    "bits masked": _masked,
    "one-hot": lambda s: F.one_hot(s.codes, 16).double() @ (torch.arange(16, **COUNT) - 8),
}
DIGITS: dict[str, Callable[[Codes], Tensor]] = {
    "of whole numbers": lambda s: (s.packed[..., None] // 3 ** torch.arange(4) % 3).flatten(1).double() - 1,
    "of floats": lambda s: (
        (s.packed[..., None].double().div((3 ** torch.arange(4)).double(), rounding_mode="floor") % 3).flatten(1) - 1
    ),
}


class Net(nn.Module):
    """An attention and a gated map, all of whose weights are computed: of three axes, and of two behind a mean."""

    def __init__(self, numbers: Callable[[Codes], Tensor]) -> None:
        super().__init__()
        self.numbers = numbers
        self.maps = nn.ModuleList(Codes(D, seed) for seed in range(5))
        self.words = Codes(20, 7)

    def forward(self, ids: Tensor) -> Tensor:
        q, k, v, up, out = (self.numbers(m) * m.scale for m in self.maps)  # type: ignore[arg-type]
        x = F.embedding(ids, self.numbers(self.words) * self.words.scale)
        x = x + (F.linear(x, q) @ F.linear(x, k).mT / 3).softmax(-1) @ F.linear(x, v)
        return F.linear((F.silu(x @ up) * x).mean(1), out)


@pytest.mark.parametrize("how", [*NUMBERS, *DIGITS])
def test_counters_that_read_codes_are_no_positions(how: str) -> None:
    same, numbers = (lambda s: s.levels[s.codes], NUMBERS[how]) if how in NUMBERS else (lambda s: s.digits, DIGITS[how])
    expected, found = (lrp_fx.convert(Net(n).eval())(IDS, target=2) for n in (same, numbers))
    torch.testing.assert_close(found.content["ids"], expected.content["ids"], rtol=1e-12, atol=1e-14)
    assert found.ledger.shares().keys() == expected.ledger.shares().keys()
    assert not found.position


def test_a_code_book_of_a_counter_shares_out_by_hand() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.codes, self.words = Codes(3, 1), nn.Embedding.from_pretrained(_draw(11, D, seed=2))

        def weight(self) -> Tensor:
            return NUMBERS["code book of a counter"](self.codes) * self.codes.scale

        def forward(self, ids: Tensor) -> Tensor:
            return F.linear(self.words(ids).mean(1), self.weight())

    model = Mean().eval()
    by_hand = model.words.weight[IDS] @ model.weight()[2] / IDS.shape[1]
    torch.testing.assert_close(lrp_fx.convert(model)(IDS, target=2).content["ids"], by_hand, rtol=1e-12, atol=1e-14)


class Placed(nn.Module):
    """A counter meets content: along tokens (``decay``, ``table``), or along features (``waves``)."""

    def __init__(self, how: str, length: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.length = how, length
        self.words, self.head = nn.Embedding.from_pretrained(_draw(11, D, seed=3)), nn.Linear(D, 3).double()

    def forward(self, ids: Tensor) -> Tensor:
        x, places = self.words(ids), torch.arange(self.length or ids.shape[1], **COUNT)
        if self.how == "decay":
            x = F.linear(x.mT, (places[:, None] - places).abs().neg().exp()).mT
        elif self.how == "table":
            x = x + (places[:, None] * torch.arange(D, **COUNT)).sin()
        elif self.how == "waves":
            x = F.linear(x, (torch.arange(D, **COUNT)[:, None] * torch.arange(D, **COUNT)).cos())
        return self.head(x.mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("length", [None, IDS.shape[1]], ids=["any length", "one length"])
@pytest.mark.parametrize("how", ["decay", "table"])
def test_counters_along_tokens_are_positions(how: str, length: int | None) -> None:
    """The table is added: what it adds is its own. Distances are a factor of the values: each gets one half."""
    model = Placed(how, length).eval()
    found = lrp_fx.convert(model)(IDS, target=1)
    whole = found.score - model.head.bias[1]
    words = lrp_fx.convert(Placed("none").eval())(IDS, target=1).content["ids"].sum(-1)
    content = words if how == "table" else whole / 2
    torch.testing.assert_close(found.content["ids"].sum(-1), content, rtol=1e-9, atol=1e-12)
    alone = [lrp_fx.convert(model)(row[None], target=1).content["ids"][0] for row in IDS]
    torch.testing.assert_close(found.content["ids"], torch.stack(alone), rtol=1e-9, atol=1e-12)
    assert float(found.ledger.shares()["position"].abs().min()) > 1e-3


def test_a_matrix_of_features_is_a_weight_whatever_counted_it() -> None:
    model = Placed("waves").eval()
    found = lrp_fx.convert(model)(IDS, target=1)
    torch.testing.assert_close(found.content["ids"].sum(-1), found.score - model.head.bias[1], rtol=1e-9, atol=1e-12)
