"""Places inside a model: read, gated, explained; whatever their layout, the books close."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.errors import InputError, TargetError
from lrp_fx.targets import At, Class, Direction
from testing import converted as shared
from testing.architectures import BY_NAME

torch.manual_seed(0)
IDS = torch.randint(0, 20, (3, 6))
DIM, HEADS = 8, 2


class Attention(nn.Module):
    """Heads merged with the batch (``bmm``), as a kernel, or beside it; ``turned``: tokens come before examples."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        turned = self.how == "turned"
        x = x.transpose(0, 1) if turned else x
        b, t, _ = x.shape
        q, k, v = (y.view(b, t, HEADS, -1).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        if self.how == "rotated":
            q, k = rotated(q), rotated(k)
        if self.how == "kernel":
            o = nn.functional.scaled_dot_product_attention(q, k, v)
        elif self.how == "bmm":
            q, k, v = (y.reshape(b * HEADS, t, -1) for y in (q, k, v))
            o = torch.bmm(torch.softmax(torch.bmm(q, k.mT) / 2, -1), v).view(b, HEADS, t, -1)
        else:
            o = torch.softmax(q @ k.mT / 2, -1) @ v
        o = self.out(o.transpose(1, 2).reshape(b, t, DIM))
        return o.transpose(0, 1) if turned else o


def rotated(x: Tensor) -> Tensor:
    """Half of the features, by the place of the token."""
    angle = torch.arange(x.shape[2], dtype=x.dtype).unsqueeze(1)
    turned = torch.cat([-x[..., 1:2], x[..., :1]], -1)
    return torch.cat([x[..., :2] * angle.cos() + turned * angle.sin(), x[..., 2:]], -1)


class Block(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(DIM), Attention(how)
        self.up, self.act, self.down = nn.Linear(DIM, 12), nn.GELU(), nn.Linear(12, DIM)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm(x))
        return x + self.drop(self.down(self.act(self.up(x))))


class Model(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.turned = how == "turned"
        self.table, self.places = nn.Embedding(20, DIM), nn.Embedding(9, DIM)
        self.blocks, self.head = nn.ModuleList([Block(how), Block(how)]), nn.Linear(DIM, 5)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.table(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        x = x.transpose(0, 1) if self.turned else x
        for block in self.blocks:
            x = block(x)
        x = x.transpose(0, 1) if self.turned else x
        return self.head(x)


def model(how: str = "kernel") -> Model:
    torch.manual_seed(1)
    return Model(how).double().eval()


@functools.cache
def converted(how: str = "kernel") -> lrp_fx.Explainer:
    """One for each layout, for all tests."""
    return lrp_fx.convert(model(how), conserve="site", dynamic=False)


@pytest.fixture
def explainer() -> lrp_fx.Explainer:
    return converted()


def hooked(net: nn.Module, path: str, call: Callable[[], Any]) -> tuple[Any, Tensor]:
    """What a call gives, and the result of a module in it."""
    kept: list[Tensor] = []
    handle = net.get_submodule(path).register_forward_hook(lambda *args: kept.append(args[2]))
    try:
        return call(), kept[0]
    finally:
        handle.remove()


@pytest.mark.parametrize("how", ["bmm", "turned"])
def test_coefficients_of_the_gradient_preset_are_derivatives(how: str) -> None:
    net = model(how)
    paths = ["blocks.0.attn", "blocks.1.down", "blocks.1.act", "blocks.0"]
    relevance = lrp_fx.convert(net, rules="gradient", dynamic=False)(
        input_ids=IDS, target=Class(2, position=-1), at=paths
    )
    for path in paths:
        logits, value = hooked(net, path, lambda: net(IDS))
        value.retain_grad()
        (slope,) = torch.autograd.grad(logits[:, -1, 2].sum(), value)
        if how == "turned":
            slope, value = slope.transpose(0, 1), value.transpose(0, 1)
        found = relevance.at[path]
        assert found.axes == ("batch", "tokens", "features"), how
        torch.testing.assert_close(found.value, value.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(found.coefficient, slope, rtol=0, atol=1e-12)


@pytest.mark.parametrize("how", ["kernel", "bmm", "turned", "beside"])
def test_kinds_are_found_by_dataflow(how: str) -> None:
    relevance = converted(how)(input_ids=IDS, at=["heads", "attention", "mlp", "neurons", "residual"])
    assert [n for n in relevance.at if n.startswith("heads")] == ["heads.0", "heads.1"]
    heads = relevance.at["heads.1"]
    assert heads.axes == ("batch", "heads", "tokens", "features")
    assert heads.value.shape == (3, HEADS, 6, DIM // HEADS)
    assert relevance.at["neurons.0"].value.shape == (3, 6, 12)
    assert relevance.at.by("heads", "heads").shape == (2, 3, HEADS)
    depth = relevance.at.by("residual", "tokens")
    torch.testing.assert_close(depth, relevance.depth, rtol=0, atol=1e-12)
    # a branch is a linear map of its heads and a bias
    bias = sum(
        t for name, _, module, t in relevance.ledger.sink_sites if (name, module) == ("bias", "blocks.1.attn.out")
    )
    torch.testing.assert_close(heads.total, relevance.at["attention.1"].total - bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize("how", ["kernel", "bmm"])
def test_scores(how: str) -> None:
    """Of a kernel, too, which is written out for them, while other calls go on with it."""
    explain = converted(how)
    relevance = explain(input_ids=IDS, at="scores")
    scores = relevance.at["scores.0"]
    assert scores.axes == ("batch", "heads", "queries", "keys") and scores.value.shape == (3, HEADS, 6, 6)
    assert scores.by("queries", "keys").shape == (3, 6, 6)
    assert scores.position is not None and not bool(scores.position.any()), "position is in the tokens here"
    torch.testing.assert_close(relevance.tokens, explain(input_ids=IDS).tokens, rtol=0, atol=1e-12)
    assert any("scaled_dot" in n.name for n in explain.graph.graph.nodes) == (how == "kernel")


def test_scores_alone_can_be_looked_at_and_saved(tmp_path: Path) -> None:
    explain = lrp_fx.convert(model())
    relevance = explain(input_ids=IDS, target=1, at="scores")
    assert explain.sites and explain.history and explain.relevance_graph is not None
    explain.save(tmp_path / "model.lrpfx")
    read = lrp_fx.load(tmp_path / "model.lrpfx")(input_ids=IDS, target=1)
    torch.testing.assert_close(read.tokens, relevance.tokens, rtol=0, atol=1e-12)


def test_pairs_give_rotation_half_of_what_is_rotated() -> None:
    relevance = converted("rotated")(input_ids=IDS, at="scores")
    for scores in relevance.at.values():
        _check_pairs(scores, relevance)
        assert 0 < float(scores.position.abs().sum()) < float(scores.relevance.abs().sum())


def _check_pairs(scores: Any, relevance: lrp_fx.Relevance) -> None:
    assert scores.position is not None and scores.content is not None
    sites = [site for site in relevance.position if site.module == scores.module and site.share.any()]
    expected = sum((site.share * relevance.score for site in sites), torch.zeros_like(relevance.score))
    torch.testing.assert_close(scores.position.flatten(1).sum(1), expected, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(scores.content + scores.position, scores.relevance, rtol=0, atol=1e-12)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("bloom", ""),
        pytest.param("llama", "eager", marks=SLOW),
        pytest.param("deberta_v2", "", marks=SLOW),
        pytest.param("t5", "eager", marks=SLOW),
    ],
)
@pytest.mark.usefixtures("quiet")
def test_pairs_give_position_what_its_sites_got(name: str, attention: str) -> None:
    """By rotation, ALiBi, rows of a table, and a learned bias."""
    model = shared.converted(name, attention, torch.float64)
    relevance = model.explainer(**model.inputs, at="scores")
    for scores in relevance.at.values():
        _check_pairs(scores, relevance)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.usefixtures("quiet")
def test_kinds_of_every_architecture(name: str) -> None:
    model = shared.converted(name, "", torch.float64)
    plain = model.explainer(**model.inputs, **given(name))
    kinds = list(dict.fromkeys(place.kind for place in model.explainer.places))
    read = model.explainer(**model.inputs, at=kinds, **given(name))
    assert all(torch.equal(read.content[n], R) for n, R in plain.content.items())
    for kind in {"heads", "mlp", "residual"} & set(kinds):
        place = next(p for p in reversed(model.explainer.places) if p.kind == kind and p.axes[0] == "batch")
        part = model.explainer(**model.inputs, through={place.name: True}, **given(name))
        passed = part.score - part.ledger.sinks["elsewhere"]
        torch.testing.assert_close(passed, read.at[place.name].total, rtol=1e-9, atol=1e-12)


def given(name: str) -> dict[str, Any]:
    """The target, where the default does not fit."""
    return {"target": shared.TARGETS[name]} if name in shared.TARGETS else {}


@pytest.mark.parametrize("how", ["kernel", "bmm", "turned"])
def test_what_passes_a_gate_and_what_does_not_is_all(how: str) -> None:
    explain = converted(how)
    captures = explain.statistics.captures
    whole = explain(input_ids=IDS, at="heads")
    parts = [explain(input_ids=IDS, through={"heads.0": h}) for h in range(HEADS)]
    both = explain(input_ids=IDS, through={"heads.0": True})
    for h, part in enumerate(parts):
        passed = whole.at["heads.0"].by("heads")[:, h]
        torch.testing.assert_close(part.score - part.ledger.sinks["elsewhere"], passed, rtol=0, atol=1e-12)
    total = sum(part.content["input_ids"] for part in parts)
    torch.testing.assert_close(total, both.content["input_ids"], rtol=0, atol=1e-12)
    assert explain.statistics.captures == max(captures, 1)


def test_masks_of_any_shape_are_numbers_of_the_same_graph(explainer: lrp_fx.Explainer) -> None:
    tokens = torch.zeros(1, 6, 1)
    tokens[:, [1, 4]] = 1
    by_mask = explainer(input_ids=IDS, through={"mlp.0": tokens})
    by_name = explainer(input_ids=IDS, through={"mlp.0": {"tokens": [1, 4]}})
    made = explainer.statistics.transposes
    other = explainer(input_ids=IDS, through={"mlp.0": {"tokens": [0]}})
    assert explainer.statistics.transposes == made
    torch.testing.assert_close(by_mask.tokens, by_name.tokens, rtol=0, atol=0)
    assert not torch.equal(other.tokens, by_name.tokens)
    last = explainer(input_ids=IDS, through={"residual.2": {"tokens": [-1]}})
    torch.testing.assert_close(last.tokens, explainer(input_ids=IDS).tokens, rtol=0, atol=1e-12)


def test_relevance_passes_all_gates(explainer: lrp_fx.Explainer) -> None:
    first = explainer(input_ids=IDS, through={"mlp.1": True}, at="heads.0")
    edge = explainer(input_ids=IDS, through={"heads.0": [1], "mlp.1": True})
    passed = first.at["heads.0"].by("heads")[:, 1]
    torch.testing.assert_close(edge.score - edge.ledger.sinks["elsewhere"], passed, rtol=0, atol=1e-12)
    assert edge.ledger.error.abs().max() < 1e-12


def test_embeddings_are_a_place(explainer: lrp_fx.Explainer) -> None:
    whole = explainer(input_ids=IDS, at="table")
    part = explainer(input_ids=IDS, through={"table": {"tokens": [2]}})
    expected = torch.zeros_like(whole.content["input_ids"])
    expected[:, 2] = whole.content["input_ids"][:, 2]
    torch.testing.assert_close(part.content["input_ids"], expected, rtol=0, atol=1e-12)
    assert not any(part.ledger.leaves.get("position", torch.zeros(1)).tolist())


@pytest.mark.parametrize("how", ["kernel", "turned"])
def test_a_value_inside_is_explained(how: str) -> None:
    explain = converted(how)
    net = explain.model
    vector = torch.arange(float(DIM)).double()
    _, value = hooked(net, "blocks.0", lambda: net(IDS))
    value = (value.transpose(0, 1) if how == "turned" else value).detach()
    last = explain(input_ids=IDS, target=At("blocks.0", Direction(vector)))
    torch.testing.assert_close(last.score, value[:, -1] @ vector, rtol=0, atol=1e-12)
    whole = explain(input_ids=IDS, target=At("residual.1", Direction(vector, position=None)))
    torch.testing.assert_close(whole.score, (value @ vector).sum(1), rtol=0, atol=1e-12)
    function = explain(input_ids=IDS, target=At("blocks.0", lambda x: x[:, 2].square().sum(-1)))
    torch.testing.assert_close(function.score, value[:, 2].square().sum(-1), rtol=0, atol=1e-12)
    assert "target" in function.ledger.sinks and function.ledger.error.abs().max() < 1e-12
    feature = explain(input_ids=IDS, target=At("blocks.0.act", 3))
    assert feature.target.name == "At('blocks.0.act', Class(index=3, position=-1))"


def test_directions_read_outputs_too(explainer: lrp_fx.Explainer) -> None:
    picked = torch.eye(5).double()[3]
    by_direction, by_class = explainer(input_ids=IDS, targets=[Direction(picked), Class(3)])
    torch.testing.assert_close(by_direction.tokens, by_class.tokens, rtol=0, atol=1e-12)
    own = explainer(input_ids=IDS, target=Direction(torch.eye(5).double()[[3, 0, 1]], position=[0, -1, 2]))
    each = explainer(input_ids=IDS, target=[Class(3, position=0), Class(0), Class(1, position=2)])
    torch.testing.assert_close(own.tokens, each.tokens, rtol=0, atol=1e-12)


def test_a_direction_at_padding_is_said() -> None:
    class Masked(Model):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return super().forward(input_ids) * attention_mask.unsqueeze(-1)

    explain = lrp_fx.convert(Masked("kernel").eval(), dynamic=False)
    mask = torch.ones_like(IDS)
    mask[1, 4:] = 0
    for target in (Direction(torch.ones(5), position=5), At("mlp.1", Direction(torch.ones(DIM), position=5))):
        with pytest.warns(UserWarning, match="row 5 of the output is padding in example 1"):
            explain(input_ids=IDS, attention_mask=mask, target=target)


def test_several_values_of_one_place_share_a_graph(explainer: lrp_fx.Explainer) -> None:
    made = explainer.statistics.transposes
    each = explainer(input_ids=IDS, targets=[At("heads.0", Direction(v, position=None)) for v in torch.eye(4).double()])
    assert explainer.statistics.transposes == made + 1
    whole = explainer(input_ids=IDS, target=At("heads.0", Direction(torch.ones(4).double(), position=None)))
    torch.testing.assert_close(sum(r.tokens for r in each), whole.tokens, rtol=0, atol=1e-12)


def test_asked_of_places_nothing_is_as_before(explainer: lrp_fx.Explainer) -> None:
    plain = explainer(input_ids=IDS)
    read = explainer(input_ids=IDS, at=["heads", "neurons", "residual"])
    assert torch.equal(plain.tokens, read.tokens) and torch.equal(plain.output, read.output)
    assert not plain.at and len(read.at) == 7


@pytest.mark.parametrize("options", [{"keep_output": False, "checkpoint": True}, {"dynamic": True}])
def test_with_other_options(options: dict[str, Any], explainer: lrp_fx.Explainer) -> None:
    asked: dict[str, Any] = {"input_ids": IDS, "at": ["heads.1", "mlp.0"]}
    other = lrp_fx.convert(model(), **{"dynamic": False, **options})
    found, known = other(**asked), explainer(**asked)
    if "dynamic" in options:
        part = other(input_ids=IDS[:2, :5], through={"mlp.1": {"tokens": [0]}})
        again = other(input_ids=IDS[:1, :4], through={"mlp.1": {"tokens": [-1]}})
        assert other.statistics.captures == 1
        assert max(float(r.ledger.error.abs().max()) for r in (part, again)) < 1e-12
    for name in known.at:
        torch.testing.assert_close(found.at[name].value, known.at[name].value, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.at[name].coefficient, known.at[name].coefficient, rtol=0, atol=1e-12)


def test_examples_and_files(explainer: lrp_fx.Explainer, tmp_path: Path) -> None:
    whole = explainer(input_ids=IDS, at=["heads.0"])
    one = whole[1]
    assert one.at["heads.0"].value.shape[0] == 1
    torch.testing.assert_close(one.at["heads.0"].total, whole.at["heads.0"].total[1:2])
    whole.save(tmp_path / "kept.safetensors")
    again = lrp_fx.Relevance.load(tmp_path / "kept.safetensors")
    assert torch.equal(again.at["heads.0"].relevance, whole.at["heads.0"].relevance)
    assert again.at["heads"].axes == whole.at["heads.0"].axes


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"at": "block.0.attn"}, "close names are blocks.0.attn"),
        ({"at": "blocks.0.drop"}, "leaves nothing in the graph"),
        ({"at": "mixer"}, "no mixer in this model"),
        ({"at": [3]}, "at= takes names"),
        ({"through": ["heads.0"]}, "takes a dictionary"),
        ({"through": {"heads": True}}, "'heads' is 2 places"),
        ({"through": {"heads.0": [2]}}, "2 is none of its 2 heads"),
        ({"through": {"heads.0": {"tokens": 9}}}, "9 is none of its 6 tokens"),
        ({"through": {"heads.0": {"rows": 1}}}, "no axis 'rows'; there are heads, tokens, features"),
        ({"through": {"mlp.0": torch.ones(7)}}, "(3, 6, 8) (batch 3, tokens 6, features 8)"),
        ({"through": {"blocks.0.attn": True, "heads.0": True, "neurons.1": [0], "attention.1": [2]}}, ""),
        ({"target": At("blocks.9", 0)}, "close names are"),
        ({"through": {"mlp.0": [0], "blocks.0.down": [0, 1]}}, "are one value"),
        ({"through": {"mlp.0": torch.ones(3, 6, dtype=torch.int64)}}, "an axis for each"),
        ({"through": {"mlp.0": torch.tensor([1, 1, 0])}}, "come twice"),
        ({"through": {"mlp.0": torch.full((1, 6, 1), 2.0)}}, "numbers from 0 to 1"),
        ({"through": {"mlp.0": torch.full((1, 6, 1), torch.nan)}}, "numbers from 0 to 1"),
        ({"through": {"mlp.0": None}}, "neither numbers nor a mask"),
        ({"through": {"mlp.0": {"tokens": "a"}}}, "neither numbers nor a mask"),
        ({"at": 3}, "a name or a list of names"),
    ],
)
def test_what_is_not_there(asked: dict[str, Any], said: str, explainer: lrp_fx.Explainer) -> None:
    if not said:  # a chain of four, all of which lie on one way
        assert explainer(input_ids=IDS, **asked).ledger.error.abs().max() < 1e-12
        return
    with pytest.raises(InputError) as raised:
        explainer(input_ids=IDS, **asked)
    assert said in str(raised.value)
    assert explainer(input_ids=IDS).score.shape == (3,), "nothing that fails changes what comes later"


def test_gates_side_by_side_let_nothing_through() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.a, self.b, self.head = (
                nn.Embedding(20, 4),
                nn.Linear(4, 4),
                nn.Linear(4, 4),
                nn.Linear(4, 3),
            )

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.table(input_ids)
            return self.head(self.a(x) + self.b(x))

    with pytest.raises(InputError, match="no relevance gets there after"):
        lrp_fx.convert(Beside().eval())(input_ids=IDS, through={"a": True, "b": True})


class Twice(nn.Module):
    """A module that is called twice, and one that gives two values."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.a(x), self.b(x)

    def __init__(self) -> None:
        super().__init__()
        self.table, self.f, self.two, self.head = nn.Embedding(20, 4), nn.Linear(4, 4), Twice.Two(), nn.Linear(4, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        a, b = self.two(self.f(torch.relu(self.f(self.table(input_ids)))))
        return self.head(a * b)


def test_calls_of_one_module_are_apart_and_results_are_one() -> None:
    torch.manual_seed(2)
    net = Twice().double().eval()
    explain = lrp_fx.convert(net, rules="gradient", dynamic=False)
    relevance = explain(input_ids=IDS, at="f@*")
    first = net.f(net.table(IDS))
    torch.testing.assert_close(relevance.at["f@0"].value, first, rtol=0, atol=1e-12)
    torch.testing.assert_close(relevance.at["f@1"].value, net.f(torch.relu(first)), rtol=0, atol=1e-12)
    with pytest.raises(InputError, match=r"called several times: f@0, f@1"):
        explain(input_ids=IDS, at="f")
    with pytest.raises(InputError, match=r"several values of the module are read outside"):
        explain(input_ids=IDS, at="two")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: Direction("a"), "floating numbers"),
        (lambda: Direction([1, 2]), "floating numbers"),
        (lambda: Direction(torch.ones(2, 2, 2)), "position=None"),
        (lambda: At("", 1), "name of a place"),
        (lambda: At("mlp.0", None), "what to explain there"),
    ],
)
def test_targets_that_are_none(given: Callable[[], Any], said: str) -> None:
    with pytest.raises(TargetError, match=said):
        given()


@pytest.mark.parametrize("target", [3, lambda value: value[:, -1].sum(-1), lrp_fx.targets.Direction([1.0] * 8)])
def test_a_target_where_relevance_ends(target: Any) -> None:
    model = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(48, 2)).double().eval()
    with pytest.raises(TargetError, match="where relevance ends"):
        lrp_fx.convert(model)(IDS, target=lrp_fx.targets.At("0", target))


def test_a_direction_of_another_size(explainer: lrp_fx.Explainer) -> None:
    with pytest.raises(TargetError, match=r"\(5,\) for a value of shape \(3, 6, 8\)"):
        explainer(input_ids=IDS, target=At("mlp.0", Direction(torch.ones(5))))
