"""Dictionaries at places: the model as it was, relevance by way of latents, books that close."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.targets import At

B, T, D, H, N = 2, 5, 8, 12, 10
X = torch.randn(B, T, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.up, self.down, self.norm = nn.Linear(D, D), nn.Linear(D, H), nn.Linear(H, D), nn.LayerNorm(D)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x)
        x = x + torch.softmax(q @ x.mT, -1) @ x
        return x + self.mlp(self.norm(x))

    def mlp(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(D, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, -1])


class Sparse(nn.Module):
    """An autoencoder of latents, of one of the kinds that there are."""

    def __init__(self, kind: str = "relu", width: int = D) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.kind, self.k = kind, 3
        self.enc, self.dec = nn.Linear(width, N), nn.Linear(N, width)
        self.threshold = nn.Parameter(torch.full((N,), 0.2))
        self.double().eval()

    def encode(self, x: Tensor) -> Tensor:
        z = self.enc(x - self.dec.bias)
        if self.kind == "topk":
            values, index = torch.topk(torch.relu(z), self.k, -1)
            return torch.zeros_like(z).scatter_(-1, index, values)
        if self.kind == "jump":
            return z * (z > self.threshold)
        if self.kind == "gated":
            return ((self.enc(x) + self.threshold) > 0).to(z.dtype) * torch.relu(z)
        return torch.relu(z)

    def decode(self, z: Tensor) -> Tensor:
        return self.dec(z)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def explained(model: Model) -> lrp_fx.Explainer:
    return lrp_fx.convert(model, {"x": X}, conserve="site", dictionaries={"mlp.0": Sparse()}, dynamic=False)


def closed(relevance: lrp_fx.Relevance) -> None:
    """Each example's score is what its leaves and sinks got."""
    parts = [*relevance.ledger.leaves.values(), *relevance.ledger.sinks.values()]
    torch.testing.assert_close(torch.stack(parts).sum(0), relevance.score, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------ what is computed
@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("mlp.0", "gated"),
        ("residual.1", "topk"),
        pytest.param("mlp.0", "relu", marks=pytest.mark.slow),
        pytest.param("attention.1", "jump", marks=pytest.mark.slow),
    ],
)
def test_books_close_and_the_model_is_as_it_was(model: Model, place: str, kind: str) -> None:
    sae = Sparse(kind)
    explainer = lrp_fx.convert(model, conserve="site", dictionaries={place: sae}, dynamic=False)
    relevance = explainer(x=X, at=[place, "latents"])
    closed(relevance)
    plain = lrp_fx.convert(model, {"x": X}, dynamic=False)(x=X, at=[place])
    assert torch.equal(relevance.output, plain.output)
    here, latents = relevance.at[place], relevance.at[f"{place}.latents"]
    assert torch.equal(here.value, plain.at[place].value)
    torch.testing.assert_close(latents.value, sae.encode(here.value))
    assert latents.axes == ("batch", "tokens", "features") and latents.kind == "latents"
    # what arrives at the place goes to the latents, to the decoder's bias and to the error
    error = here.value - sae.decode(latents.value)
    torch.testing.assert_close((error * here.coefficient).sum((1, 2)), relevance.ledger.sinks["reconstruction error"])
    bias = (here.coefficient * sae.dec.bias.detach()).sum((1, 2))
    parts = latents.total + bias + relevance.ledger.sinks["reconstruction error"]
    torch.testing.assert_close(parts, here.total)
    # LRP-0 through the decoder: latents get what their column of it gets
    torch.testing.assert_close(latents.coefficient, here.coefficient @ sae.dec.weight.detach())
    assert bool((latents.value == 0).any()) and not bool(latents.relevance[latents.value == 0].any())


def test_a_perfect_dictionary_changes_nothing(model: Model) -> None:
    """An orthogonal map and back: no error, and the relevance of the inputs that there was."""
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    pair = (lambda x: x @ turn, lambda z: z @ turn.T)
    found = lrp_fx.convert(model, conserve="site", dictionaries={"blocks.1": pair}, dynamic=False)(x=X)
    plain = lrp_fx.convert(model, conserve="site", dynamic=False)(x=X)
    torch.testing.assert_close(found.content["x"], plain.content["x"])
    assert float(found.ledger.sinks["reconstruction error"].abs().max()) < 1e-9


def test_a_latent_as_target_and_as_gate(explained: lrp_fx.Explainer) -> None:
    latents = explained(x=X, at="latents").at["mlp.0.latents"]
    k = int(latents.value[:, -1].min(0).values.argmax())
    one = explained(x=X, target=At("mlp.0.latents", k))
    closed(one)
    torch.testing.assert_close(one.score, latents.value[:, -1, k])
    assert "reconstruction error" not in one.ledger.sinks  # it lies above
    passed = explained(x=X, through={"mlp.0.latents": [k]})
    closed(passed)
    got = passed.score - passed.ledger.sinks["elsewhere"]
    torch.testing.assert_close(got, latents.by("features")[:, k])
    every = explained(x=X, through={"mlp.0.latents": True})
    torch.testing.assert_close(every.score - every.ledger.sinks["elsewhere"], latents.total)


@pytest.mark.slow
def test_other_lengths_and_batches_share_the_graph(model: Model) -> None:
    explainer = lrp_fx.convert(model, {"x": X}, dictionaries={"mlp.0": Sparse("topk")}, dynamic=True)
    one, whole = explainer(x=X[:1, :3]), explainer(x=torch.cat([X, X])[:, :3])
    closed(one)
    closed(whole)
    torch.testing.assert_close(one.content["x"], whole.content["x"][2:3])
    assert explainer.statistics.captures == 1


def test_transcoder(model: Model) -> None:
    """It reads what goes into the MLP: relevance takes its way, and none goes through the MLP itself."""
    sae = Sparse()
    transcoder = lrp_fx.Dictionary(sae.encode, sae.decode, reads="blocks.0.norm")
    explainer = lrp_fx.convert(model, conserve="site", dictionaries={"mlp.0": transcoder}, dynamic=False)
    relevance = explainer(x=X, at=["mlp.0", "latents", "blocks.0.norm"])
    closed(relevance)
    assert torch.equal(relevance.output, model(X))
    here, latents = relevance.at["mlp.0"], relevance.at["mlp.0.latents"]
    torch.testing.assert_close(latents.value, sae.encode(relevance.at["blocks.0.norm"].value))
    bias = (here.coefficient * sae.dec.bias.detach()).sum((1, 2))
    torch.testing.assert_close(latents.total + bias + relevance.ledger.sinks["reconstruction error"], here.total)
    up = next(n for n in explainer.rewritten.program.graph.nodes if "blocks_0_up_weight" in n.name).users
    assert not any(user in explainer.rewritten.applications for user in up)


def test_two_dictionaries(model: Model) -> None:
    given = {"mlp.0": Sparse(), "residual.1": Sparse("topk")}
    relevance = lrp_fx.convert(model, conserve="site", dictionaries=given, dynamic=False)(x=X, at="latents")
    closed(relevance)
    assert sorted(relevance.at) == ["mlp.0.latents", "residual.1.latents"]


def test_a_dictionary_of_scores(model: Model) -> None:
    """Of attention's scores, with keys for features: the place stays one of its kind."""
    given = {"scores.0": Sparse(width=T)}
    explainer = lrp_fx.convert(model, {"x": X}, conserve="site", dictionaries=given, dynamic=False)
    relevance = explainer(x=X, at=["scores", "latents"])
    closed(relevance)
    assert [p.name for p in explainer.places if p.kind == "scores"] == ["scores.0", "scores.1"]
    assert float(relevance.at["scores.0.latents"].total.abs().min()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["attnlrp", "pa-lrp-path-gamma", "gradient"])
def test_other_rules(model: Model, rules: str) -> None:
    given = {"residual.1": Sparse(), "attention.1": Sparse("jump")}
    explainer = lrp_fx.convert(model, rules=rules, conserve="site", dictionaries=given, dynamic=False)
    closed(explainer(x=X))


def test_places_keep_their_names(model: Model, explained: lrp_fx.Explainer) -> None:
    names = [p.name for p in explained.places if p.kind != "latents"]
    assert names == [p.name for p in lrp_fx.convert(model, {"x": X}, dynamic=False).places]
    residual = lrp_fx.convert(model, {"x": X}, dictionaries={"residual.1": Sparse()}, dynamic=False)
    assert names == [p.name for p in residual.places if p.kind != "latents"]


def test_the_graph_has_weights_under_their_own_names(explained: lrp_fx.Explainer) -> None:
    nodes = {n.name: n for n in explained.graph.graph.nodes}
    assert nodes["mlp_0_enc_weight"].meta["origin"] == "parameter"
    assert "dictionary.reconstruction" in explained.coverage["rule"]
    assert not any("reconstructed" in str(n.target) for n in explained.relevance_graph.graph.nodes)


# ------------------------------------------------------------------------------------------------ what may change
def test_weights_that_are_trained_on_count_at_once(model: Model) -> None:
    sae = Sparse()
    explainer = lrp_fx.convert(model, {"x": X}, dictionaries={"mlp.0": sae}, dynamic=False)
    explainer(x=X)
    with torch.no_grad():
        sae.dec.weight.mul_(2.0)
    captures = explainer.statistics.captures
    fresh = lrp_fx.convert(model, dictionaries={"mlp.0": sae}, dynamic=False)(x=X)
    torch.testing.assert_close(explainer(x=X).content["x"], fresh.content["x"])
    assert explainer.statistics.captures == captures


def test_gradients_reach_its_weights(model: Model) -> None:
    sae = Sparse("topk")
    explainer = lrp_fx.convert(model, dictionaries={"mlp.0": sae}, differentiable=True)

    def measure() -> Tensor:
        return explainer(x=X).content["x"].square().sum()

    weight, step = sae.dec.weight, 1e-6
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2), dtype=weight.dtype)
    (found,) = torch.autograd.grad(measure(), weight)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step * direction)
            ends.append(measure())
            weight.sub_(sign * step * direction)
    torch.testing.assert_close((found * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("change", ["k", pytest.param("weight", marks=pytest.mark.slow)])
def test_what_was_replaced_is_noticed(model: Model, change: str) -> None:
    sae = Sparse("topk")
    explainer = lrp_fx.convert(model, {"x": X}, dictionaries={"mlp.0": sae}, dynamic=False)
    before = explainer(x=X).content["x"]
    if change == "k":
        sae.k = 1
    else:
        sae.enc.weight = nn.Parameter(sae.enc.weight.detach().flip(0))
    after = explainer(x=X).content["x"]
    fresh = lrp_fx.convert(model, dictionaries={"mlp.0": sae}, dynamic=False)(x=X)
    torch.testing.assert_close(after, fresh.content["x"])
    assert not torch.allclose(before, after)


def test_explainers_of_one_model_do_not_share_dictionaries(model: Model, explained: lrp_fx.Explainer) -> None:
    other = lrp_fx.convert(model, {"x": X}, conserve="site", dynamic=False)
    assert "reconstruction error" not in other(x=X).ledger.sinks
    assert "reconstruction error" in explained(x=X).ledger.sinks


def test_a_file_holds_the_dictionary(explained: lrp_fx.Explainer, tmp_path: Path) -> None:
    target = lrp_fx.targets.Class(1)
    before = explained(x=X, target=target)
    explained.save(tmp_path / "graph.lrp", targets=[target])
    after = lrp_fx.load(tmp_path / "graph.lrp")(x=X, target=target)
    assert torch.equal(before.content["x"], after.content["x"])
    assert torch.equal(before.ledger.sinks["reconstruction error"], after.ledger.sinks["reconstruction error"])


# ------------------------------------------------------------------------------------------------ what is refused
def by_value(x: Tensor) -> Tensor:
    return x if bool(x.sum() > 0) else -x


class Training(Sparse):
    def __init__(self) -> None:
        super().__init__()
        self.train()


def pair(encode: Callable[..., Any], decode: Callable[..., Any]) -> tuple[Any, Any]:
    return encode, decode


REFUSED: list[tuple[Any, str]] = [
    (5, "takes a dictionary: place -> what encodes and decodes"),
    ({"mlp.0": nn.Linear(D, D)}, r"'mlp.0'.*Linear has no encode and decode\n    next: give a module"),
    ({"mlp.0": (Sparse().encode, None)}, "its decoder is no function"),
    ({"mlp.0": Training()}, r"in training mode\n    next: call its eval\(\)"),
    ({"mlp.9": Sparse()}, r"no place 'mlp.9'.*\n    next: close names are mlp.1, mlp.0"),
    ({"mlp": Sparse()}, r"'mlp' is 2 places: mlp.0, mlp.1; name one"),
    ({"mlp.0": Sparse(), "blocks.0.down": Sparse()}, r"two dictionaries at one value.*\n    next: put one"),
    ({"mlp.0": Sparse().float()}, r"is torch.float32 on cpu.*\n    next: dictionary.to\('cpu', torch.float64\)"),
    ({"neurons.0": Sparse()}, r"'neurons.0' cannot be traced: encode of a value of shape .*\n    next: it reads"),
    ({"mlp.0": pair(by_value, lambda z: z)}, "cannot be traced: encode of a value"),
    ({"mlp.0": pair(lambda x: (x, x), lambda z: z[0])}, "encode returns tuple, not one floating-point tensor"),
    ({"mlp.0": pair(lambda x: x, lambda z: z[..., :3])}, r"makes \(2, 5, 3\) .*\n    next: put it at the place"),
    ({"mlp.0": pair(lambda x: x * 2, torch.zeros_like)}, r"reconstructs nothing of what it reads.*\n    next:"),
    ({"mlp.0": lrp_fx.Dictionary(Sparse().encode, Sparse().decode, reads="mlp.1")}, r"computed after .*\n    next:"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[m[:24] for _, m in REFUSED])
def test_what_is_no_dictionary_is_refused(model: Model, given: Any, message: str) -> None:
    with pytest.raises(lrp_fx.InputError, match=message):
        lrp_fx.convert(model, {"x": X}, dictionaries=given, dynamic=False)
