"""Recurrences: relevance flows through values and states, coefficients made from content are frozen (MambaLRP)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import lrp_fx
from testing.architectures import ARCHITECTURES, BATCH, BY_NAME
from testing.converted import explain
from testing.recurrent import MODELS, ids
from testing.spellings.common import HEADS, WIDTH, Attending, Spelling, Tokens, build, input_ids
from testing.spellings.scan import Scanning, loop

PRESETS = ("pa-lrp", "attnlrp", "cp-lrp")
UNIFORM = lrp_fx.Ruleset(
    "all products alike", frozenset({"content", "learned", "segment"}), kinds={"scan": "scan.uniform"}
)


def run(
    model: nn.Module, inputs: dict[str, Tensor], rules: Any = "attnlrp", target: Any = 0
) -> tuple[lrp_fx.Explainer, lrp_fx.Relevance]:
    explainer = lrp_fx.convert(model, rules=rules, conserve="site", dynamic=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cancellation in random models
        return explainer, explainer(**inputs, target=target)


def rules_used(explainer: lrp_fx.Explainer) -> dict[str, int]:
    return explainer.coverage["rule"]


# ------------------------------------------------------------------------------------------------ the published rule
class SelectiveScan(nn.Module):
    """A state space block as in Mamba: convolution, SiLU, selective scan, skip, gate; steps and states per channel."""

    def __init__(self, states: int = 3, rank: int = 2) -> None:
        super().__init__()
        self.table = nn.Embedding(11, WIDTH)
        self.inputs = nn.Linear(WIDTH, 2 * WIDTH)
        self.convolution = nn.Conv1d(WIDTH, WIDTH, 3, groups=WIDTH, padding=2)
        self.select = nn.Linear(WIDTH, rank + 2 * states, bias=False)
        self.step = nn.Linear(rank, WIDTH)
        self.rates, self.skip = nn.Parameter(torch.rand(WIDTH, states)), nn.Parameter(torch.randn(WIDTH))
        self.output, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.sizes = (rank, states, states)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.read(self.table(input_ids), frozen=lambda x: x, silu=F.silu, gate=torch.mul)

    def read(
        self,
        e: Tensor,
        frozen: Callable[[Tensor], Tensor],
        silu: Callable[[Tensor], Tensor],
        gate: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """The model on embeddings; a relevance rule is a choice of ``frozen``, ``silu`` and ``gate``."""
        u, z = self.inputs(e).chunk(2, -1)
        u = silu(self.convolution(u.transpose(1, 2))[..., : e.shape[1]].transpose(1, 2))
        r, B, C = self.select(u).split(self.sizes, -1)
        dt = F.softplus(self.step(r))
        decay = frozen(torch.exp(dt[..., None] * -self.rates.exp()))
        written = frozen(dt[..., None] * B[:, :, None]) * u[..., None]
        state, results = torch.zeros_like(written[:, 0]), []
        for t in range(e.shape[1]):
            state = decay[:, t] * state + written[:, t]
            results.append((state @ frozen(C[:, t])[..., None]).squeeze(-1))
        y = gate(torch.stack(results, 1) + self.skip * u, silu(z))
        return self.head((e + self.output(y)).mean(1))  # type: ignore[no-any-return]


def test_selective_scan_is_mambalrp() -> None:
    """Gradient x input of the model with A, B, C and the step detached, SiLU as x times a constant, half of the
    gate's.
    """
    torch.manual_seed(0)
    model = SelectiveScan().double().eval()
    e = model.table(input_ids()).detach().requires_grad_()

    def silu(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x).detach()

    def gate(a: Tensor, b: Tensor) -> Tensor:
        return (a * b.detach() + a.detach() * b) / 2

    score = model.read(e, torch.Tensor.detach, silu, gate)[:, 0]
    assert torch.allclose(score, model(input_ids())[:, 0], rtol=1e-12)
    (gradient,) = torch.autograd.grad(score.sum(), e)
    explainer, relevance = run(model, {"input_ids": input_ids()})
    R = relevance.content["input_ids"]
    expected = (e * gradient).sum(-1).detach()
    assert float((R - expected).abs().max()) <= 1e-9 * float(expected.abs().max())
    used = rules_used(explainer)
    assert used["gate.uniform"] == 1
    assert "product.uniform" not in used
    assert not explainer.coverage["unexplained"]
    (site,) = [s for s in explainer.sites if s.kind == "scan"]
    assert (site.variant, site.rule) == ("step by step", "scan.frozen")
    assert "test_scan.py" in site.source


def test_a_ruleset_may_let_coefficients_carry() -> None:
    torch.manual_seed(0)
    model = SelectiveScan().double().eval()
    _, frozen = run(model, {"input_ids": input_ids()})
    explainer, uniform = run(model, {"input_ids": input_ids()}, UNIFORM)
    used = rules_used(explainer)
    assert used["scan.uniform"] > 0
    assert "scan.frozen" not in used
    assert not torch.allclose(uniform.content["input_ids"], frozen.content["input_ids"], rtol=1e-3)


def test_gradient_preset_differentiates_scans() -> None:
    torch.manual_seed(0)
    model = SelectiveScan().double().eval()
    e = model.table(input_ids()).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.read(e, lambda x: x, F.silu, torch.mul)[:, 0].sum(), e)
    relevance = lrp_fx.convert(model, rules="gradient", dynamic=False, conserve="off")(input_ids=input_ids(), target=0)
    assert torch.allclose(relevance.content["input_ids"], (e * gradient).sum(-1), rtol=1e-9)


def test_padding_before_and_after() -> None:
    """A scan reads from the left: what follows the explained token gets nothing."""
    torch.manual_seed(0)
    model = build(Scanning, loop)
    relevance = lrp_fx.convert(model, dynamic=False)(input_ids=input_ids())
    assert relevance.ledger.error.max() <= 1e-12


# ------------------------------------------------------------------------------------------------ linear attention
class Linear(Attending):
    """Linear attention of positive queries and keys, with decays f, write strengths b and gates g where a family has
    them.
    """

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.f, self.b, self.g = nn.Linear(WIDTH, HEADS), nn.Linear(WIDTH, HEADS), nn.Linear(WIDTH, WIDTH)

    def between(self, x: Tensor) -> Tensor:
        q, k, v, g = (w(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for w in (self.q, self.k, self.v, self.g))
        log_decay, b = F.logsigmoid(self.f(x)).transpose(1, 2), torch.sigmoid(self.b(x)).transpose(1, 2)
        y = self.spelling(F.elu(q) + 1, F.elu(k) + 1, v, log_decay, b)
        return x + self.o((y * F.silu(g)).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def causal(n: int) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool).tril()


def plain_loop(q: Tensor, k: Tensor, v: Tensor, f: Tensor, b: Tensor) -> Tensor:
    S, n, y = 0.0, 0.0, []
    for t in range(q.shape[2]):
        S, n = S + k[:, :, t, :, None] * v[:, :, t, None], n + k[:, :, t]
        y.append((q[:, :, t, None] @ S).squeeze(-2) / (q[:, :, t] * n).sum(-1, keepdim=True))
    return torch.stack(y, 2)


def plain_sum(q: Tensor, k: Tensor, v: Tensor, f: Tensor, b: Tensor) -> Tensor:
    S = torch.einsum("bhtd,bhte->bhtde", k, v).cumsum(2)
    return torch.einsum("bhtd,bhtde->bhte", q, S) / torch.einsum("bhtd,bhtd->bht", q, k.cumsum(2)).unsqueeze(-1)


def plain_weights(q: Tensor, k: Tensor, v: Tensor, f: Tensor, b: Tensor) -> Tensor:
    weights = (q @ k.mT).masked_fill(~causal(q.shape[2]), 0)
    return (weights / weights.sum(-1, keepdim=True)) @ v


def plain_divided_last(q: Tensor, k: Tensor, v: Tensor, f: Tensor, b: Tensor) -> Tensor:
    weights = (q @ k.mT) * causal(q.shape[2])
    return weights @ v / weights.sum(-1, keepdim=True)


def gated_loop(q: Tensor, k: Tensor, v: Tensor, f: Tensor, b: Tensor) -> Tensor:
    S, y = torch.zeros(*q.shape[:2], q.shape[-1], v.shape[-1], dtype=q.dtype), torch.zeros_like(v)
    for t in range(q.shape[2]):
        S = f[:, :, t, None, None].exp() * S + (k[:, :, t] * b[:, :, t, None])[..., None] * v[:, :, t, None]
        y[:, :, t] = torch.einsum("bhd,bhde->bhe", q[:, :, t], S)
    return y


def gated_weights(q: Tensor, k: Tensor, v: Tensor, f: Tensor, b: Tensor) -> Tensor:
    total = f.cumsum(-1)
    D = (total[..., :, None] - total[..., None, :]).masked_fill(~causal(q.shape[2]), float("-inf")).exp()
    return (q @ k.mT * D) @ (v * b.unsqueeze(-1))


def gated_sum(q: Tensor, k: Tensor, v: Tensor, f: Tensor, b: Tensor) -> Tensor:
    total = f.cumsum(-1).unsqueeze(-1)
    S = torch.einsum("bhtd,bhte->bhtde", k * (-total).exp(), b.unsqueeze(-1) * v).cumsum(2)
    return torch.einsum("bhtd,bhtde->bhte", q * total.exp(), S)


def delta_loop(q: Tensor, k: Tensor, v: Tensor, f: Tensor, b: Tensor) -> Tensor:
    k, S, y = F.normalize(k, dim=-1), torch.zeros(*q.shape[:2], q.shape[-1], v.shape[-1], dtype=q.dtype), []
    for t in range(q.shape[2]):
        S = S * f[:, :, t, None, None].exp()
        error = v[:, :, t] - (k[:, :, t, :, None] * S).sum(-2)
        S = S + k[:, :, t, :, None] * (b[:, :, t, None] * error).unsqueeze(-2)
        y.append((q[:, :, t, :, None] * S).sum(-2))
    return torch.stack(y, 2)


def delta_in_place(q: Tensor, k: Tensor, v: Tensor, f: Tensor, b: Tensor) -> Tensor:
    k, y = F.normalize(k, dim=-1), torch.zeros_like(v)
    S = torch.zeros(*q.shape[:2], q.shape[-1], v.shape[-1], dtype=q.dtype)
    for t, (q_t, k_t, v_t, f_t, b_t) in enumerate(
        zip(q.unbind(2), k.unbind(2), v.unbind(2), f.exp().unbind(2), b.unbind(2), strict=True)
    ):
        S *= f_t[..., None, None]
        S += torch.einsum("bhd,bhe->bhde", k_t, (v_t - torch.einsum("bhd,bhde->bhe", k_t, S)) * b_t[..., None])
        y[:, :, t] = (q_t.unsqueeze(-2) @ S).squeeze(-2)
    return y


def delta_solved(q: Tensor, k: Tensor, v: Tensor, f: Tensor, b: Tensor) -> Tensor:
    """All tokens at once: the errors are ``(1 + tril(b k k^T D))^-1 b v``, inverted row by row."""
    k, total, n = F.normalize(k, dim=-1), f.cumsum(-1), q.shape[2]
    D = (total[..., :, None] - total[..., None, :]).masked_fill(~causal(n), float("-inf")).exp()
    system = -((k * b.unsqueeze(-1)) @ k.mT * D).tril(-1)
    for i in range(1, n):
        row = system[..., i, :i].clone()
        system[..., i, :i] = row + (row.unsqueeze(-1) * system[..., :i, :i].clone()).sum(-2)
    inverse = system + torch.eye(n, dtype=q.dtype)
    return (q @ k.mT * D) @ (inverse @ (v * b.unsqueeze(-1)))


FAMILIES = {
    "plain": (plain_loop, plain_sum, plain_weights, plain_divided_last),
    "gated": (gated_loop, gated_weights, gated_sum),
    "delta": (delta_loop, delta_in_place, delta_solved),
}
CASES = [
    pytest.param(s, family, marks=[] if s is FAMILIES[family][-1] else pytest.mark.slow, id=s.__name__)
    for family, spellings in FAMILIES.items()
    for s in spellings
]


@cache
def linear_attention(spelling: Spelling) -> tuple[lrp_fx.Explainer, lrp_fx.Relevance]:
    return run(build(Linear, spelling), {"input_ids": input_ids()})


@cache
def values_alone(spelling: Spelling) -> Tensor:
    """Relevance with everything but values detached: gradient x input of table rows and what is gated with them."""
    model = build(Linear, spelling)
    e = model.embed(input_ids()).detach().requires_grad_()

    def unsqueeze(w: nn.Linear, x: Tensor) -> Tensor:
        return w(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)  # type: ignore[no-any-return]

    q, k, v, g = (unsqueeze(w, e) for w in (model.q, model.k, model.v, model.g))
    f, b = F.logsigmoid(model.f(e)).transpose(1, 2), torch.sigmoid(model.b(e)).transpose(1, 2)  # type: ignore[operator]
    y = spelling((F.elu(q) + 1).detach(), (F.elu(k) + 1).detach(), v, f.detach(), b.detach())
    s = g * torch.sigmoid(g).detach()
    z = model.o(((y * s.detach() + y.detach() * s) / 2).transpose(1, 2).flatten(2))
    (gradient,) = torch.autograd.grad(model.head((e + z).mean(1))[:, 0].sum(), e)
    return (gradient * model.table(input_ids())).sum(-1).detach()


@pytest.mark.parametrize(("spelling", "family"), CASES)
def test_linear_attention(spelling: Spelling, family: str) -> None:
    explainer, relevance = linear_attention(spelling)
    R, expected = relevance.content["input_ids"], values_alone(FAMILIES[family][0])
    assert float((R - expected).abs().max()) <= 1e-9 * float(expected.abs().max()), explainer.rewritten.print_readable()
    used = rules_used(explainer)
    assert used["gate.uniform"] == 1
    assert "product.uniform" not in used
    assert "product.quotient" not in used
    assert not explainer.coverage["unexplained"]
    assert [s.kind for s in explainer.sites].count("scan") == 1


# ------------------------------------------------------------------------------------------------ what is no scan
class Accumulated(Tokens):
    """Experts added one by one with weights from a router: a loop, but not over tokens and without a state that is
    read.
    """

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.router, self.experts = nn.Linear(WIDTH, 3), nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def between(self, x: Tensor) -> Tensor:
        weights, y = self.router(x).softmax(-1), torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            y = y + weights[..., i, None] * expert(x)
        return x + y


class Excited(Tokens):
    """Squeeze and excitation, then a gated unit."""

    def __init__(self, spelling: Spelling) -> None:
        super().__init__(spelling)
        self.squeeze, self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def between(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(self.squeeze(x.mean(1, keepdim=True)))
        a, b = self.up(x).chunk(2, -1)
        return x + self.down(a * torch.sigmoid(b))  # type: ignore[no-any-return]


def softmaxed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / 2).softmax(-1) @ v


def sigmoids(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / 2).sigmoid() @ v


def one_by_one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, its weighted sum written as a loop over keys."""
    p, y = (q @ k.mT / 2).softmax(-1), torch.zeros_like(q)
    for s in range(k.shape[2]):
        y = y + p[..., s, None] * v[:, :, s, None]
    return y


@pytest.mark.parametrize(
    ("host", "spelling"),
    [(Accumulated, None), (Excited, None), (Attending, softmaxed), (Attending, sigmoids), (Attending, one_by_one)],
)
def test_what_is_no_scan_is_left_alone(host: type[Tokens], spelling: Any) -> None:
    explainer, _ = run(build(host, spelling), {"input_ids": input_ids()})
    assert not any(name.startswith("scan") for name in rules_used(explainer))


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_architectures_without_recurrence_have_no_scan(name: str) -> None:
    architecture = BY_NAME[name]
    explainer = lrp_fx.convert(architecture.build(), architecture.inputs(), dynamic=False)
    assert not any(rule.startswith("scan") for rule in rules_used(explainer))
    assert len(ARCHITECTURES) == len(BY_NAME)


# ------------------------------------------------------------------------------------------------ library models
#: Solves a triangular system with another algorithm while exported, in float32 whatever the model's type: no capture of
#: it equals a float64 model to float64's rounding.
FLOAT32 = ("qwen3_next",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "mamba2" else pytest.mark.slow) for n in MODELS])
def test_models_with_recurrences(name: str) -> None:
    architecture, scans, gates, products = MODELS[name]
    dtype = torch.float32 if name in FLOAT32 else torch.float64
    found = explain(architecture, "eager", dtype, dict(rules="attnlrp", conserve="site", dynamic=False))
    explainer, relevance = found.explainer, found.relevance
    # In float64 what models force to float32 inside is computed in float64: the output differs by float32's rounding.
    assert found.difference() * torch.finfo(dtype).eps <= 64 * torch.finfo(torch.float32).eps
    assert relevance.ledger.error.max() <= (1e-5 if name in FLOAT32 else 1e-9)
    assert max(s.error for s in relevance.ledger.sites) <= (1e-4 if name in FLOAT32 else 1e-9)
    assert [s.kind for s in explainer.sites].count("scan") == scans
    used = rules_used(explainer)
    assert used.get("gate.uniform", 0) == gates, used
    assert used.get("product.uniform", 0) == products, used
    assert ("scan.frozen" in used) == (scans > 0)
    assert "product.quotient" not in used
    assert not explainer.coverage["unexplained"]
    assert relevance.content["input_ids"].shape == (BATCH, 8)
    assert all(s.rule == "scan.frozen" and s.module for s in explainer.sites if s.kind == "scan")


@pytest.mark.slow
@pytest.mark.parametrize("rules", PRESETS)
def test_every_preset_freezes_coefficients(rules: str) -> None:
    explainer, relevance = run(MODELS["mamba"][0].build(dtype=torch.float64), ids(), rules, target=None)
    assert rules_used(explainer)["scan.frozen"] > 0
    assert relevance.ledger.error.max() <= 1e-9
    assert transformers.MambaConfig.model_type == "mamba"
