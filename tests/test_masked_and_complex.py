"""Functions of masked scores that are no softmax, masks beside values, missing numbers, conjugates, recurrent cells.

The books close at every site, nothing is approximated, and ``gradient`` is what autograd says.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from testing.handmade import F, V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")
Function = Callable[["Model", Tensor], Tensor]


def scores(m: Model, x: Tensor, fill: float) -> Tensor:
    hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    return (m.inner(x) @ x.mT).masked_fill(hidden, fill)


def twice(m: Model, x: Tensor, fill: float) -> Tensor:
    """Attention by a sigmoid, in two layers: what the first makes of a mask is given to the second."""
    x = x + scores(m, x, fill).sigmoid() @ x
    return x + scores(m, x, fill).tanh() @ x


def nanmean(m: Model, x: Tensor) -> Tensor:
    """A norm over what is there."""
    gaps = torch.arange(x.shape[-1]) == 1
    there = x.masked_fill(gaps, float("nan"))
    return (x - there.nanmean(-1, keepdim=True)) / (there.square().nanmean(-1, keepdim=True) + 1e-3).sqrt()


def conjugated(m: Model, x: Tensor) -> Tensor:
    a, b = torch.fft.rfft(x), torch.fft.rfft(m.inner(x))
    return torch.fft.irfft(a.conj() * b, n=x.shape[-1])


def power(m: Model, x: Tensor) -> Tensor:
    spectrum = torch.fft.fft(x, norm="ortho")
    return (spectrum * spectrum.conj()).real


FUNCTIONS: dict[str, Function] = {
    "sigmoid of minus infinity": lambda m, x: twice(m, x, float("-inf")),
    "sigmoid of the lowest number": lambda m, x: twice(m, x, torch.finfo(x.dtype).min),
    "a mask beside values": lambda m, x: m.joined(
        torch.cat([x, (torch.arange(x.shape[1]) > 1)[None, :, None] + 0 * x], -1)
    ),
    "a norm with gaps": nanmean,
    "a sum with gaps": lambda m, x: x + x.masked_fill(torch.arange(F) == 0, float("nan")).nansum(-1, keepdim=True),
    "a conjugated spectrum": conjugated,
    "a power spectrum": power,
    "an imaginary part": lambda m, x: (m.inner(x) + 1j * x).abs(),
    "complex numbers": lambda m, x: (torch.complex(x, m.inner(x)) * (1 + 2j) / (2 - 1j)).imag,
    "a turn": lambda m, x: ((x.cos() + 1j * x.sin()) * (m.inner(x) + 1j * x)).real,
    "a GRU cell": lambda m, x: m.gru(x.flatten(0, 1), m.inner(x).flatten(0, 1)).view_as(x),
    "an LSTM cell": lambda m, x: m.lstm(x.flatten(0, 1))[0].view_as(x),
}


class Model(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.words, self.inner, self.head = nn.Embedding(V, F), nn.Linear(F, F), nn.Linear(F, 3)
        self.joined, self.gru, self.lstm = nn.Linear(2 * F, F), nn.GRUCell(F, F), nn.LSTMCell(F, F)

    def by_values(self, x: Tensor) -> Tensor:
        return self.head(self.function(self, x).mean(1))  # type: ignore[no-any-return]

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.by_values(self.words(input_ids))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_closes_and_is_what_autograd_says(name: str) -> None:
    model, given = ready(Model(FUNCTIONS[name])), ids(2)
    explainer = lrp_fx.convert(model, conserve="site", dynamic=False)
    relevance = explainer(input_ids=given, target=1)
    assert float(relevance.ledger.error.max()) < 1e-9
    assert not explainer.coverage["unexplained"], explainer.coverage["unexplained"]
    values = model.words(given).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.by_values(values)[:, 1].sum(), values)
    found = lrp_fx.convert(model, rules="gradient", dynamic=False)(input_ids=given, target=1)
    expected = (gradient * values).sum(-1).detach()
    assert torch.allclose(found.content["input_ids"], expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM, nn.RNN])
def test_a_recurrent_layer_is_its_cells(layer: type[nn.RNNBase]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.layer = nn.Embedding(V, F), layer(F, F, batch_first=True)
            self.head = nn.Linear(F, 3)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(self.layer(self.words(input_ids))[0][:, -1])  # type: ignore[no-any-return]

    explainer = lrp_fx.convert(ready(Recurrent()), conserve="site")
    relevance = explainer(input_ids=ids(2), target=1)
    assert float(relevance.ledger.error.max()) < 1e-9 and not explainer.coverage["unexplained"]


def _causal(x: Tensor) -> Tensor:
    return torch.ones(x.shape[1], x.shape[1], dtype=x.dtype).tril()


HELD = torch.zeros(4, 4, dtype=torch.float64).masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(1), float("-inf"))
BIASES: dict[str, Callable[[Tensor], Tensor]] = {
    "a logarithm": lambda x: _causal(x).log(),
    "a quotient": lambda x: 1 - 1 / _causal(x),
    "held": lambda x: HELD,
}


def _attended(bias: Callable[[Tensor], Tensor]) -> Function:
    return lambda m, x: x + (m.inner(x) @ x.mT + bias(x)).softmax(-1) @ x


@pytest.mark.parametrize("preset", ["pa-lrp", "attnlrp", "gradient"])
@pytest.mark.parametrize("name", BIASES)
def test_a_bias_that_is_minus_infinity_is_a_mask(name: str, preset: str) -> None:
    def filled(x: Tensor) -> Tensor:
        return torch.zeros_like(_causal(x)).masked_fill(_causal(x) == 0, float("-inf"))

    found, expected = (
        lrp_fx.convert(ready(Model(_attended(bias))), rules=preset)(input_ids=ids(2)[:, :4], target=1)
        for bias in (BIASES[name], filled)
    )
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-9, atol=1e-12)
    for sink, total in expected.ledger.sinks.items():
        torch.testing.assert_close(found.ledger.sinks[sink], total, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("preset", ["pa-lrp", "attnlrp", "gradient"])
def test_a_decay_that_ends_in_a_mask_closes(preset: str) -> None:
    def decay(x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1])
        return (0.9 ** (places[:, None] - places[None])).to(x.dtype).tril().log()

    relevance = lrp_fx.convert(ready(Model(_attended(decay))), rules=preset)(input_ids=ids(2), target=1)
    assert float(relevance.ledger.error.max()) < 1e-9
