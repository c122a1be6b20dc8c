"""Same function, same relevance: pairs of spellings, where there are too few for a family of `testing.spellings`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
Function = Callable[[Tensor], Tensor]
ROWS, COLUMNS = torch.tensor([0, 1]), torch.tensor([1, 2])


class Body(nn.Module):
    """Words, a function of them that keeps their shape, what all of them say together."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.map, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.function = function
        self.double().eval()

    def forward(self, input_ids: Tensor) -> Tensor:
        classes: Tensor = self.head(self.function(self.map(self.words(input_ids))).mean(1))
        return classes


def put(value: Function, *places: Tensor | slice) -> Function:
    """A function that writes a value to places of a copy."""

    def function(x: Tensor) -> Tensor:
        y = x.clone()
        y[places] = value(x)
        return y

    return function


def norm(x: Tensor) -> Tensor:
    return x.abs() + 0.1


def learned(*shape: int) -> Tensor:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)).double())


ALL = slice(None)
ONE, TWO, BIASES = learned(), learned(2), learned(3, 8)
MAPS, HIDDEN = learned(3, 8, 8), torch.tensor([False, True, False, False])[:, None]


def gated(hide: Function) -> Function:
    """A product of two, some rows of it made zero, times a third: the chain has three factors."""

    def function(x: Tensor) -> Tensor:
        a, b, c = (x @ m for m in MAPS)
        return x + hide(a * b) * c

    return function


def gate_of_parts(take: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Function:
    """A product of three, and a gate for it: the parts of one value that holds both."""

    def function(x: Tensor) -> Tensor:
        a, b, c = (x @ m for m in MAPS)
        value, gate = take(a * b * c, x + 1)
        return value * torch.sigmoid(gate)

    return function


def gated_taps(squashed: Function) -> Function:
    """A convolution tap by tap, times a gate: no recurrence, whatever reads it more than once."""

    def function(x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (0, 0, 1, 1))
        y = sum((padded[:, i : i + x.shape[1]] @ MAPS[i] for i in range(3)), start=x)
        return squashed(y * (y @ MAPS[0]).sigmoid())

    return function


def normed(norm: Function) -> Function:
    """A norm of what learned weights have scaled before."""
    return lambda x: norm(x * BIASES[0])


def mapped(biased: Function) -> Function:
    """A product of two, a map with a bias, and a gate: the bias ends the chain."""
    return lambda x: biased((x @ MAPS[0]) * (x @ MAPS[1])) * (x @ MAPS[2])


def averaged(gate: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """A running average step by step, then a gate: that is no step of it."""

    def function(x: Tensor) -> Tensor:
        state, rows = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            state = 0.8 * state + 0.2 * x[:, t]
            rows.append(state)
        return gate(torch.stack(rows, 1), x @ MAPS[0])

    return function


def experts(mixed: Callable[[Tensor, Tensor], Tensor]) -> Function:
    """A mixture of experts, then attention of features to one another: no recurrence, as nothing goes from token to
    token.
    """

    def function(x: Tensor) -> Tensor:
        y = mixed((x @ MAPS[0])[..., :3].softmax(-1), x)
        return (((y @ MAPS[1]).mT @ (y @ MAPS[2])).softmax(-1) @ y.mT).mT

    return function


def modulated(product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Function:
    """Three factors, one of them around a number."""
    return lambda x: product(*((x @ m).roll(i, 1) for i, m in enumerate(MAPS)))


def expert(x: Tensor) -> Tensor:
    return x[..., :3].argmax(-1)


#: Two ways to write each.
SAME: dict[str, tuple[Function, Function]] = {
    "floor": (lambda x: x + torch.div(x, 0.3, rounding_mode="floor"), lambda x: x + (x / 0.3).floor()),
    "trunc": (lambda x: x + torch.div(x, 0.3, rounding_mode="trunc"), lambda x: x + (x / 0.3).trunc()),
    "whole": (lambda x: x + x // 0.3, lambda x: x + (x / 0.3).floor()),
    "by content": (lambda x: x + x // norm(x), lambda x: x + (x / norm(x)).floor()),
    "rounded by content": (
        lambda x: x + torch.div(x, norm(x), rounding_mode="trunc"),
        lambda x: x + (x / norm(x)).trunc(),
    ),
    "rows": (put(lambda x: x.mean((1, 2))[:, None], ALL, ROWS, COLUMNS),
             put(lambda x: x.mean((1, 2))[:, None].expand(-1, 2), ALL, ROWS, COLUMNS)),
    "a weight": (put(lambda x: ONE, ALL, ROWS, COLUMNS),
                 put(lambda x: ONE.expand(x.shape[0], 2), ALL, ROWS, COLUMNS)),
    "weights": (put(lambda x: TWO, ALL, ROWS, COLUMNS), put(lambda x: TWO.expand(x.shape[0], 2), ALL, ROWS, COLUMNS)),
    "weights apart": (put(lambda x: TWO[:, None], ALL, ROWS, ALL),
                      put(lambda x: TWO[:, None].expand(x.shape[0], 2, 8), ALL, ROWS, ALL)),
    "one expert's bias": (lambda x: x + BIASES[expert(x)],
                          lambda x: x + BIASES.index_select(0, expert(x).flatten()).reshape(x.shape)),
    "a product filled": (gated(lambda y: y.masked_fill(HIDDEN, 0.0)), gated(lambda y: y * ~HIDDEN)),
    "a product chosen": (gated(lambda y: torch.where(HIDDEN, 0.0, y)), gated(lambda y: y * ~HIDDEN)),
    "halves of what was joined": (gate_of_parts(lambda a, b: torch.cat([a, b], -1).chunk(2, -1)),
                                  gate_of_parts(lambda a, b: (a, b))),
    "slices of what was joined": (
        gate_of_parts(lambda a, b: (torch.cat([a, b], -1)[..., :8], torch.cat([b, a], -1)[..., :8])),
        gate_of_parts(lambda a, b: (a, b)),
    ),
    "pieces of what was joined": (
        gate_of_parts(lambda a, b: torch.cat([a[..., :2], a[..., 2:], b], -1).split([8, 8], -1)),
        gate_of_parts(lambda a, b: (a, b)),
    ),
    "stacked and taken apart": (gate_of_parts(lambda a, b: torch.stack([a, b]).unbind(0)),
                                gate_of_parts(lambda a, b: (a, b))),
    "stacked and selected": (gate_of_parts(lambda a, b: (torch.stack([b, a], 2)[:, :, 1], torch.stack([b, a])[0])),
                             gate_of_parts(lambda a, b: (a, b))),
    "joined and selected": (
        gate_of_parts(lambda a, b: (torch.cat([a[:, None], b[:, None]], 1)[:, 0], torch.cat([a[None], b[None]])[1])),
        gate_of_parts(lambda a, b: (a, b)),
    ),
    "a sum of chains": (lambda x: (sum((x @ m)[..., :1] * (x @ MAPS[0]) for m in MAPS)) * (x @ MAPS[1]),
                        lambda x: (torch.stack([(x @ m)[..., 0] for m in MAPS], -1)[..., None, :]
                                   @ torch.stack([x @ MAPS[0]] * 3, -2)).squeeze(-2) * (x @ MAPS[1])),
    "a norm of what is scaled": (normed(lambda x: nn.functional.layer_norm(x, (8,))),
                                 normed(lambda x: (x - x.mean(-1, keepdim=True))
                                        / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt())),
    "a map with a bias": (mapped(lambda x: nn.functional.linear(x, MAPS[0], BIASES[0])),
                          mapped(lambda x: (MAPS[0] @ x.mT).mT + BIASES[0])),
    "a gate behind steps": (averaged(lambda a, g: a + a * g), averaged(lambda a, g: a * (1 + g))),
    "experts, then features": (experts(lambda p, x: torch.einsum("btn,btd,nde->bte", p, x, MAPS)),
                               experts(lambda p, x: sum(p[..., n, None] * (x @ MAPS[n]) for n in range(3)))),
    "a number in a chain": (modulated(lambda a, b, c: a * b * (1 + c)), modulated(lambda a, b, c: a * b + a * b * c)),
    "a number in its middle": (modulated(lambda a, b, c: a * b * (1 + c)),
                               modulated(lambda a, b, c: (1 + c[None])[0] * a * b)),
    "a number inside": (modulated(lambda a, b, c: a * b * (1 + c)), modulated(lambda a, b, c: b * ((c + 1) * a))),
    "two numbers": (modulated(lambda a, b, c: a * (1 + b) * (2 - c)), modulated(lambda a, b, c: (2 - c) * a * (b + 1))),
    "a sigmoid around its middle": (modulated(lambda a, b, c: a * torch.sigmoid(b)),
                                    modulated(lambda a, b, c: a * (0.5 * (1 + torch.tanh(0.5 * b))))),
    "a softmax of gated taps": (gated_taps(lambda y: (y - y.logsumexp(-1, keepdim=True)).exp()),
                                gated_taps(lambda y: y.softmax(-1))),
    "a norm of one element": (
        lambda x: nn.functional.normalize(x.unsqueeze(-2).softmax(-1), p=1.0, dim=-2).squeeze(-2),
        lambda x: x.softmax(-1) / x.softmax(-1).abs(),
    ),
    "a weight in a row": (put(lambda x: ONE, ALL, ROWS[0]), put(lambda x: ONE.expand(x.shape[0], 8), ALL, ROWS[0])),
}  # fmt: skip


@pytest.mark.parametrize("rules", ["pa-lrp", "gradient"])
@pytest.mark.parametrize("name", SAME)
def test_both_explain_alike(name: str, rules: str, quiet: None) -> None:
    one, other = (lrp_fx.convert(Body(f), rules=rules, conserve="site")(IDS, target=1) for f in SAME[name])
    torch.testing.assert_close(one.output, other.output, rtol=0, atol=1e-12)
    torch.testing.assert_close(one.content["input_ids"], other.content["input_ids"], rtol=0, atol=1e-12)
    assert not one.position and not other.position
    assert sum(map(len, (one.learned, other.learned))) in (0, 2)
    for mine, its in zip(one.learned.values(), other.learned.values(), strict=True):  # each by its own name
        torch.testing.assert_close(mine.sum(), its.sum(), rtol=0, atol=1e-12)


BOUNDS = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)
ROWS_OF_PLACES = learned(4, 8)


def places(x: Tensor) -> Tensor:
    return torch.arange(x.shape[1], dtype=x.dtype)


#: Which row of a table a place has.
OF_PLACES: dict[str, Function] = {
    "its number": lambda x: torch.arange(x.shape[1]),
    "its interval": lambda x: torch.bucketize(places(x), BOUNDS),
    "the nearest": lambda x: (places(x)[:, None] - torch.arange(4)).abs().argmin(-1),
    "cast": lambda x: places(x).round().long(),
}


@pytest.mark.parametrize("how", ["indexed", "embedded"])
@pytest.mark.parametrize("name", OF_PLACES)
def test_a_row_that_places_choose_is_position(name: str, how: str, quiet: None) -> None:
    def looked_up(index: Tensor) -> Tensor:
        return ROWS_OF_PLACES[index] if how == "indexed" else nn.functional.embedding(index, ROWS_OF_PLACES)

    found = lrp_fx.convert(Body(lambda x: torch.tanh(x + looked_up(OF_PLACES[name](x)))))(IDS, target=1)
    known = lrp_fx.convert(Body(lambda x: torch.tanh(x + ROWS_OF_PLACES[: x.shape[1]])))(IDS, target=1)
    assert [site.kind for site in found.position] == ["absolute"]
    torch.testing.assert_close(found.tokens, known.tokens, rtol=0, atol=1e-12)


def test_a_whole_number_that_rounding_would_reach_is_not_reached(quiet: None) -> None:
    """0.6 // 0.1 is 5 to the kernel, though the quotient is rounded to 6; to relevance, too."""

    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x // 0.1).sum(-1, keepdim=True)

    x = torch.tensor([[6.0, 0.6, 0.25, -0.3]], dtype=torch.float64)
    assert not torch.equal(x // 0.1, (x / 0.1).floor())
    found = lrp_fx.convert(Steps().eval(), conserve="site")(x, target=0)
    assert torch.equal(found.output, Steps()(x))
    one_less = ((x / 0.1).floor() > x // 0.1).sum()
    torch.testing.assert_close(found.content["x"], (x / 0.1).floor(), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.ledger.sinks["bias"].sum(), -one_less.to(torch.float64), rtol=0, atol=1e-9)


def test_what_replaces_infinite_numbers_is_kept() -> None:
    """A weight that a bound may reach is bounded: an exponential has no largest value."""
    model = Body(lambda x: torch.nan_to_num((4000 * x * x).exp(), posinf=2.0))
    (got,) = lrp_fx.convert(model, rules="gradient").trace(IDS, target=1).graph(IDS)
    assert bool((4000 * model.map(model.words(IDS)) ** 2).exp().isinf().any())
    torch.testing.assert_close(got, model(IDS))
