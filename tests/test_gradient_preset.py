"""The preset ``gradient`` is gradient x input, to the last digits: the check of capture and transpose."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lrp_fx
from lrp_fx.capture.backwards import watching
from lrp_fx.runtime import captures
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
    "max_unpool1d": lambda x: functional.max_unpool1d(*functional.max_pool1d(x, 2, return_indices=True), 2),
    "max_unpool2d": lambda x: functional.max_unpool2d(
        *functional.max_pool2d(x[:, None], (1, 2), return_indices=True), (1, 2)
    )[:, 0],
    "power": lambda x: x.abs().add(1) ** x,
}


def without_gradients(x: Tensor) -> Tensor:
    """A region without gradients, and one with them inside."""
    with torch.no_grad():
        mean = x.mean(1, keepdim=True)
        with torch.enable_grad():
            grown = x.exp()
        spread = (x - mean).square().mean(-1, keepdim=True)
    return (x - mean) / (spread + 1).sqrt() + grown


def handed_back(x: Tensor, gradients: bool = False) -> Tensor:
    """A region whose operations return the very tensor they are given, which keeps its gradient, and a view of it."""
    with torch.set_grad_enabled(gradients):
        mean = x.to(x.dtype).mean(1, keepdim=True)
        same, alike, view = x.contiguous(), x.type_as(mean), x.view(x.shape)
    return (x - mean) * same + alike.sin() * view


#: What is detached gets no gradient; the same functions where it is not.
DETACHED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "detached": (lambda x: x + x.sin().detach() * x, lambda x: x + x.sin() * x),
    "in place": (lambda x: x + (x + 0.5).detach_() * x, lambda x: x + (x + 0.5) * x),
    "data": (lambda x: x + x.sin().data * x, lambda x: x + x.sin() * x),
    "a region": (
        without_gradients,
        lambda x: (x - (m := x.mean(1, keepdim=True))) / ((x - m).square().mean(-1, keepdim=True) + 1).sqrt() + x.exp(),
    ),
    "what a region returns as it was": (handed_back, lambda x: handed_back(x, gradients=True)),
    "straight-through": (lambda x: x * (x + (x.round() - x).detach()), lambda x: x * (x + (x.round() - x))),
    "a kernel": (
        lambda x: torch.exp(x - x.amax(-1, keepdim=True).detach()) @ x.mT @ x,
        lambda x: torch.exp(x - x.amax(-1, keepdim=True)) @ x.mT @ x,
    ),
}
#: Values that are one for all examples of the batch.
SHARED: dict[str, Callable[[Tensor], Tensor]] = {
    "two means": lambda x: x * (x.mean() * x.square().mean()),
    "two maxima": lambda x: x / (x.abs().sum(-1).max() * x.abs().sum(1).max()),
    "a mean in front": lambda x: x + (x.mean() * x.square().mean()).reshape(1, 1, 1),
}
OTHERS = {name: function for name, (function, _) in DETACHED.items()} | {
    "solve": lambda x: torch.linalg.solve(x @ x.mT + 5 * torch.eye(x.shape[1], dtype=x.dtype), x),
    "inverse": lambda x: torch.linalg.inv(x @ x.mT + 5 * torch.eye(x.shape[1], dtype=x.dtype)) @ x,
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


def check(function: Callable[[Tensor], Tensor], given: Tensor, conserve: str = "total") -> None:
    model = ready(Model(function))
    values = model.words(given).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.by_values(values)[:, 1].sum(), values)
    found = lrp_fx.convert(model, rules="gradient", conserve=conserve)(input_ids=given, target=1)
    expected = (gradient * values).sum(-1).detach()
    assert torch.allclose(found.content["input_ids"], expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_is_what_autograd_says(name: str, rows: int) -> None:
    check(FUNCTIONS[name], ids(rows))


@pytest.mark.parametrize("name", OTHERS)
def test_it_is_what_autograd_says_of_others(name: str) -> None:
    check(OTHERS[name], ids(3))


@pytest.mark.parametrize("name", SHARED)
def test_it_is_what_autograd_says_of_what_examples_share(name: str) -> None:
    check(SHARED[name], ids(3), conserve="off")
    with pytest.raises(lrp_fx.ConservationError, match="one example at a time"):
        check(SHARED[name], ids(3))


@pytest.mark.parametrize("name", DETACHED)
def test_relevance_asks_what_is_computed_and_not_what_is_detached(name: str) -> None:
    detached, plain = (ready(Model(function)) for function in DETACHED[name])
    plain.load_state_dict(detached.state_dict())
    found, expected = (lrp_fx.convert(m)(input_ids=ids(2), target=1) for m in (detached, plain))
    assert torch.equal(found.content["input_ids"], expected.content["input_ids"])


@pytest.mark.parametrize(("function", "made"), [(DETACHED["detached"][0], 2), (FUNCTIONS["square"], 1)])
def test_a_capture_is_shared_by_presets_unless_something_is_detached(
    function: Callable[[Tensor], Tensor], made: int
) -> None:
    model = ready(Model(function))
    for rules in ("pa-lrp", "gradient", "pa-lrp", "gradient"):
        lrp_fx.convert(model, rules=rules)(input_ids=ids(2), target=1)
    assert len(captures._SHARED[model]) == made


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


def _write(name: str) -> Callable[[Tensor], Tensor]:
    """A function that writes past autograd into a value that it reads with its gradient."""

    def detached(x: Tensor) -> None:
        x.detach().mul_(2.0)

    def through_a_view(x: Tensor) -> None:
        part = x.detach()[:, 1:]
        part[:, 0] = 0.0

    def data(x: Tensor) -> None:
        x.data.add_(1.0)

    def data_of_others(x: Tensor) -> None:
        x.data.copy_(x.cos())

    def region(x: Tensor) -> None:
        with torch.no_grad():
            x.mul_(2.0)

    def part_in_a_region(x: Tensor) -> None:
        with torch.no_grad():
            x[:, 0] = 0.0

    def bounded_in_a_region(x: Tensor) -> None:
        with torch.no_grad():
            x.clamp_(max=0.3)

    def given_out(x: Tensor) -> None:
        with torch.no_grad():
            torch.mul(x.detach(), 2.0, out=x)

    write = locals()[name]

    def function(x: Tensor) -> Tensor:
        y = x.sin()
        write(y)
        return y * x

    return function


PAST_AUTOGRAD = (
    "detached through_a_view data data_of_others region part_in_a_region bounded_in_a_region given_out".split()
)


@pytest.mark.parametrize("name", PAST_AUTOGRAD)
@pytest.mark.parametrize("dynamic", [True, False])
def test_writes_that_autograd_does_not_follow_are_refused(name: str, dynamic: bool) -> None:
    """Their numbers are new and their gradients old, which no graph says: no number rather than a wrong one."""
    model = ready(Model(_write(name)))
    with pytest.raises(lrp_fx.UnsupportedOperatorError, match=r"autograd does not see[\s\S]*test_gradient_preset.py:"):
        lrp_fx.convert(model, rules="gradient", dynamic=dynamic)(input_ids=ids(2), target=1)
    assert lrp_fx.convert(model, dynamic=dynamic)(input_ids=ids(2), target=1).ledger.error.max() < 1e-9


def _kept_before(x: Tensor) -> Tensor:
    """What was detached before a followed write sees it, and has no gradient."""
    y = x.sin()
    before = y.detach()
    y.mul_(2.0)
    return y + before * x


def _own_value(x: Tensor) -> Tensor:
    """What a region makes and writes into is its own."""
    with torch.no_grad():
        scale = x.mean(1, keepdim=True)
        scale.mul_(2.0)
        places = torch.arange(x.shape[1], dtype=x.dtype)
        places[0] = 3.0
    return x * scale + places[:, None]


@pytest.mark.parametrize("function", [_kept_before, _own_value])
def test_writes_without_a_gradient_are_no_matter(function: Callable[[Tensor], Tensor]) -> None:
    check(function, ids(3))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return -3 * gradient


class Backwards(nn.Module):
    """Defines derivatives in its forward, or in hooks of a module."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.embed, self.head, self.how = nn.Embedding(V, F), nn.Linear(F, 3), how
        if how == "head":
            self.head.register_full_backward_hook(lambda module, given, got: None)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = torch.tanh(self.embed(input_ids))
        if self.how == "hook" and x.requires_grad:
            x.register_hook(lambda gradient: -3 * gradient)
        return self.head(Reversed.apply(x).mean(1) if self.how == "function" else x.mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("function", r"\(Reversed\)"),
        ("hook", r"\(a hook of a tensor at \w+\.py:\d+\)"),
        ("head", r"\(backward hooks of h"),
    ],
)
def test_derivatives_that_the_model_defines_itself_are_named(how: str, says: str) -> None:
    """By this preset, once; relevance asks what forward computes."""
    model = ready(Backwards(how))
    methods = vars(torch.autograd.Function)["apply"], vars(Tensor)["register_hook"]
    explain = lrp_fx.convert(model, rules="gradient")
    with pytest.warns(UserWarning, match=f"defines derivatives itself {says}(?s:.*)operations of forward"):
        found = explain(ids(), target=0)
    assert methods == (vars(torch.autograd.Function)["apply"], vars(Tensor)["register_hook"])
    x = torch.tanh(values := model.embed(ids()))  # type: ignore[operator]
    score = model.head((2 * x if how == "function" else x).mean(1))[:, 0]  # type: ignore[operator]
    (gradient,) = torch.autograd.grad(score.sum(), values)
    assert torch.allclose(found.content["input_ids"], (gradient * values).sum(-1).detach(), rtol=1e-9)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        explain(ids(3), target=0)
        lrp_fx.convert(model, rules="pa-lrp")(ids(), target=0)
    assert not [str(w.message) for w in told if "derivatives itself" in str(w.message)]


def test_what_others_call_meanwhile_is_not_noted() -> None:
    with watching() as found:
        thread = threading.Thread(target=lambda: Reversed.apply(torch.ones(2)))
        thread.start()
        thread.join()
        assert not found
        assert torch.equal(Reversed.apply(torch.ones(2)), torch.full((2,), 2.0))  # type: ignore[no-untyped-call]
    assert found == ["Reversed"]
    with pytest.raises(ValueError, match="inside"), watching():
        raise ValueError("inside")
    assert "watching" not in vars(torch.autograd.Function)["apply"].__func__.__qualname__
