"""Half precision and autocast: relevance is finite everywhere, zeros included, and the books close within rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.ir.layout import BatchAxis
from lrp_fx.transpose.vjp import constant_per_example
from testing.architectures import BY_NAME

#: Closure demanded, relative to all absolute relevance: the type's spacing, added up at random over some hundred
#: operations.
CLOSES = {torch.bfloat16: 5e-2, torch.float16: 1e-2, torch.float32: 1e-5}


pytestmark = pytest.mark.usefixtures("quiet")


def gap(relevance: lrp_fx.Relevance) -> float:
    """What the books miss, relative to the sum of all absolute relevances."""
    ledger = relevance.ledger
    return float(((ledger.score - ledger.total).abs() / torch.maximum(ledger.magnitude, ledger.score.abs())).max())


def finite(relevance: lrp_fx.Relevance) -> bool:
    parts = [
        *relevance.content.values(),
        *(p for s in relevance.position for p in s.parts.values()),
        *relevance.learned.values(),
        *relevance.ledger.sinks.values(),
    ]
    return all(bool(p.isfinite().all()) for p in parts)


@pytest.mark.parametrize(
    "name",
    [
        "llama",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("bert", "vit", "gemma2", "t5", "swin", "mixtral", "gpt2", "whisper", "deberta_v2")
        ),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_half_precision_is_finite_and_closes(name: str, dtype: torch.dtype) -> None:
    architecture = BY_NAME[name]
    model = architecture.build("sdpa" if architecture.fused else "eager", dtype)
    inputs = {n: v.to(dtype) if v.is_floating_point() else v for n, v in architecture.inputs().items()}
    relevance = lrp_fx.convert(model, conserve="off")(**inputs)
    assert finite(relevance)
    assert gap(relevance) <= CLOSES[dtype]


def test_experts_in_the_grouped_kernel() -> None:
    """The kernel leaves rows beyond the last group undefined: it is listed, for it cannot be probed."""
    architecture = BY_NAME["mixtral"]
    model: Any = architecture.build("sdpa", torch.bfloat16)
    model.set_experts_implementation("grouped_mm")
    explain = lrp_fx.convert(model, conserve="off", strict=True)
    relevance = explain(**architecture.inputs())
    assert any("grouped_mm" in str(n.target) for n in explain.graph.graph.nodes)
    assert finite(relevance)
    assert gap(relevance) <= CLOSES[torch.bfloat16]


class Zeros(nn.Module):
    """Activations and a norm whose inputs are exactly zero at the first token, under a mask that hides the last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.up, self.head = (
            nn.Embedding(9, 8, padding_idx=0),
            nn.RMSNorm(8, eps=1e-6),
            nn.Linear(8, 8, bias=False),
            nn.Linear(8, 3),
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        x = (
            x
            + torch.nn.functional.silu(self.up(self.norm(x)))
            + torch.nn.functional.gelu(self.up(x))
            + torch.tanh(x)
            + torch.relu(x) * 20
        )
        scores = (x @ x.mT).masked_fill(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1), float("-inf"))
        return self.head((scores.softmax(-1) @ self.up(x)).mean(1))


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32], ids=["bfloat16", "float16", "float32"]
)
def test_zeros_and_minus_infinity_make_no_nan(dtype: torch.dtype) -> None:
    relevance = lrp_fx.convert(Zeros().to(dtype).eval(), conserve="off")(
        input_ids=torch.tensor([[0, 3, 0, 5], [0, 0, 0, 0]])
    )
    assert finite(relevance)
    assert gap(relevance) <= CLOSES[dtype]


def test_autocast_is_part_of_what_is_captured() -> None:
    model = BY_NAME["bert"].build("eager")
    inputs = BY_NAME["bert"].inputs()
    explain = lrp_fx.convert(model, conserve="off")
    plain = explain(**inputs, target=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = explain(**inputs, target=0)
        expected = model(**inputs).logits
    assert cast.output.logits.dtype == expected.dtype == torch.bfloat16
    assert torch.allclose(cast.output.logits, expected, rtol=2e-2, atol=2e-2)
    assert finite(cast)
    assert gap(cast) <= CLOSES[torch.bfloat16]
    again = explain(**inputs, target=0)
    assert explain.statistics.captures == 2, "one program inside, one outside"
    assert torch.equal(again.content["input_ids"], plain.content["input_ids"])


def test_complex_constants_keep_their_imaginary_part() -> None:
    constant, c = torch.randn(3, dtype=torch.complex128), torch.randn(2, 5, 3, dtype=torch.complex128)
    found = constant_per_example(constant, c, BatchAxis(0, 1, 1), 2, safe=False)
    assert torch.allclose(found, (constant.real * c.real + constant.imag * c.imag).sum((1, 2)), rtol=1e-12)


def test_weights_of_a_long_text_do_not_underflow_with_their_coefficients() -> None:
    """Both are as small as the text is long: their product is none of float16, and is booked in float32."""

    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.q, self.k, self.v, self.head = (nn.Linear(8, n) for n in (8, 8, 8, 8, 3))

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x)
            weights = torch.softmax(self.q(h) @ self.k(h).transpose(1, 2) * 0.35, -1)
            mixed: Tensor = self.head((weights @ self.v(h)).mean(1))
            return mixed

    torch.manual_seed(0)
    half = Pool().half().eval()
    x = torch.randn(2, 1024, 8).half()
    exact = Pool().double().eval()
    exact.load_state_dict({n: p.double() for n, p in half.state_dict().items()})
    got, expected = (
        lrp_fx.convert(m)(x=v, target=1).ledger.sinks["softmax"].double() for m, v in ((half, x), (exact, x.double()))
    )
    assert float((got - expected).abs().max()) < 0.1 * float(expected.abs().max())


class Mixed(nn.Module):
    """A body of one type, and an output of a wider one: by a cast, or by autocast inside."""

    def __init__(self, body: torch.dtype | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.embed = body, nn.Embedding(20, 16)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 3)
        if body is not None:
            self.embed.to(body), self.norm.to(body), self.up.to(body), self.down.to(body)

    def forward(self, input_ids: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.body is None):
            x = self.embed(input_ids)
            x = x + self.down(torch.relu(self.up(self.norm(x))))
        return self.head(x.mean(1).to(self.head.weight.dtype))


@pytest.mark.parametrize("body", [torch.bfloat16, torch.float16, None], ids=["bfloat16", "float16", "autocast"])
@pytest.mark.parametrize("conserve", ["total", "site"])
def test_a_wider_output_is_allowed_the_rounding_of_what_it_is_computed_from(
    body: torch.dtype | None, conserve: str
) -> None:
    relevance = lrp_fx.convert(Mixed(body).eval(), conserve=conserve)(torch.tensor([[3, 4, 5], [6, 7, 8]]), target=1)
    assert relevance.score.dtype == torch.float32
    assert relevance.ledger.dtype == (body or torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_coarse_factor_that_is_frozen_allows_nothing(dtype: torch.dtype) -> None:
    """Conservation holds for any number in the place of a frozen statistic."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.head = nn.Embedding(20, 16), nn.Linear(16, 3)
            self.register_buffer("scale", torch.rand(16).bfloat16())

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embed(input_ids)
            return self.head(x * self.scale.to(x.dtype)).mean(1)

    relevance = lrp_fx.convert(Scaled().to(dtype).eval())(torch.tensor([[3, 4, 5]]), target=1)
    assert relevance.ledger.dtype == dtype


class Distances(nn.Module):
    """One head whose scores lose a number times the distance of their tokens, as whole numbers; ``how``: written so
    that torch takes its default type, float32, whatever the model's is.
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.embed, self.head = how, nn.Embedding(20, 8), nn.Linear(8, 3)
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        places = torch.arange(ids.shape[1])
        distance = (places[:, None] - places).abs()
        if self.how == "times":
            bias = -0.1 * distance
        elif self.how == "power":
            bias = 0.9**distance / (1 + distance)
        else:
            bias = torch.where(distance > 2, 0.3, distance)
        scores = self.query(x) @ self.key(x).mT + bias
        return self.head((scores.softmax(-1) @ x).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["times", "power", "chosen"])
def test_integers_become_float64_where_the_model_is(how: str) -> None:
    """The books of a float64 model close to its own rounding, not to that of the type that torch takes by default."""
    explainer = lrp_fx.convert(Distances(how).double().eval())
    relevance = explainer(torch.arange(12).reshape(2, 6), target=1)
    assert gap(relevance) < 1e-14
    types = {getattr(node.meta.get("val"), "dtype", None) for node in explainer.graph.graph.nodes}
    assert torch.float64 in types and torch.float32 not in types
    assert relevance.position and all(bool(p.total.abs().max() > 0) for p in relevance.position)
