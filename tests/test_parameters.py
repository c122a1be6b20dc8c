"""Relevance of parameters: what passes a weight is what passes its operation, whatever lies between the two."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.errors import InputError
from lrp_fx.report.parameters import ParameterRelevance
from lrp_fx.runtime.parameters import calls_of
from testing.architectures import ARCHITECTURES, BY_NAME
from testing.converted import best_attention, converted, inputs_of

pytestmark = pytest.mark.filterwarnings("ignore")  # random weights cancel
IDS = torch.tensor([[1, 7, 3, 9, 4, 0, 0], [1, 5, 5, 8, 2, 6, 4], [1, 3, 2, 4, 0, 0, 0]])
CALL = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}


class Small(nn.Module):
    """A gated map behind an embedding and a norm, with biases: every parameter is read once."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 8, padding_idx=3)
        self.norm = nn.LayerNorm(8)
        self.up, self.gate, self.down = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 4)
        nn.init.normal_(self.table.weight), nn.init.normal_(self.norm.bias)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.norm(self.table(input_ids))
        out: Tensor = self.down(self.up(x) * torch.sigmoid(self.gate(x))).mean(1)
        return out


class Attending(nn.Module):
    """Two blocks of causal attention with four heads over two of keys and values, behind tokens and their places."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(12, width, padding_idx=3), nn.Parameter(torch.randn(9, width))
        sizes = {"q": width, "k": width // 2, "v": width // 2, "o": width, "m": width}
        self.blocks = nn.ModuleList(nn.ModuleDict({n: nn.Linear(width, s) for n, s in sizes.items()}) for _ in range(2))
        self.head = nn.Linear(width, 4)
        nn.init.normal_(self.table.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        B, T = input_ids.shape
        x, keep = self.table(input_ids) + self.places[:T], attention_mask.bool()
        block: Any
        for block in self.blocks:
            q, k, v = (block[n](x).reshape(B, T, -1, 4).transpose(1, 2) for n in "qkv")
            k, v = (a.repeat_interleave(2, 1) for a in (k, v))
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, keep[:, None, None, :])
            x = x + block["o"](mixed.transpose(1, 2).flatten(2))
            x = x + torch.tanh(block["m"](x))
        out: Tensor = self.head((x * keep[..., None]).sum(1))
        return out


class Fused(nn.Module):
    """One map for queries, keys and values of three heads: blocks of heads, or heads of blocks."""

    def __init__(self, by_head: bool) -> None:
        super().__init__()
        self.by_head, self.table = by_head, nn.Embedding(12, 12)
        self.mixed, self.back = nn.Linear(12, 36), nn.Parameter(torch.randn(12, 12))

    def forward(self, input_ids: Tensor) -> Tensor:
        made = self.mixed(self.table(input_ids)).unflatten(-1, (3, 3, 4))
        q, k, v = (made.select(-2 if self.by_head else -3, i).transpose(1, 2) for i in range(3))
        weights = torch.softmax(q @ k.transpose(-1, -2), -1)
        out: Tensor = ((weights @ v).transpose(1, 2).flatten(2) @ self.back).mean(1)
        return out


class Routed(nn.Module):
    """Two of four experts for each token, their weights stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.router = nn.Embedding(12, 8), nn.Linear(8, 4, bias=False)
        self.up, self.down = nn.Parameter(torch.randn(4, 8, 6)), nn.Parameter(torch.randn(4, 6, 8))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.table(input_ids)
        weights, chosen = torch.softmax(self.router(x), -1).topk(2)
        hidden = torch.einsum("btd,btkdf->btkf", x, self.up[chosen])
        mixed = torch.einsum("btkf,btkfd->btkd", torch.relu(hidden), self.down[chosen])
        out: Tensor = (mixed * weights[..., None]).sum(2).mean(1)
        return out


def small(kind: Callable[[], nn.Module] = Small) -> nn.Module:
    torch.manual_seed(3)
    return kind().double().eval()


@lru_cache
def asked(kind: Any = Small) -> tuple[lrp_fx.Explainer, ParameterRelevance]:
    """An explainer with what it says of the parameters, for one target; both for reading."""
    explainer = lrp_fx.convert(small(kind), conserve="site" if kind in (Small, Attending) else "total")
    call = CALL if kind is Attending else {"input_ids": IDS}
    return explainer, explainer.parameters(call, target=1)


def assert_same(found: ParameterRelevance, other: Any, names: Any = None) -> None:
    for name in names or other:
        torch.testing.assert_close(found[name], other[name], rtol=1e-9, atol=1e-12)


def by_autograd(model: nn.Module, score: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Weight times gradient of the sum of all scores, of frozen weights too."""
    model.requires_grad_(True)
    parameters = dict(model.named_parameters())
    grads = torch.autograd.grad(score().sum(), list(parameters.values()), allow_unused=True)
    zeros = {n: torch.zeros_like(p) for n, p in parameters.items()}
    return zeros | {n: p.detach() * g for (n, p), g in zip(parameters.items(), grads, strict=True) if g is not None}


# ------------------------------------------------------------------------------------------------ the definition
def test_under_the_gradient_preset_it_is_weight_times_gradient() -> None:
    model = small()
    found = lrp_fx.convert(model, rules="gradient", conserve="off").parameters({"input_ids": IDS}, target=2)
    expected = by_autograd(model, lambda: model(IDS)[:, 2])
    expected.pop("table.weight")  # autograd leaves its padding row out
    assert_same(found, expected)
    assert float(found["table.weight"][3].abs().sum()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [a.name for a in ARCHITECTURES])
def test_so_it_is_in_every_architecture(name: str) -> None:
    architecture = BY_NAME[name]
    model, inputs = (
        architecture.build(best_attention(architecture), torch.float64),
        inputs_of(architecture, torch.float64),
    )
    explainer = lrp_fx.convert(model, rules="gradient", conserve="off")
    target = lrp_fx.targets.Custom(lambda y: y.flatten(1).sum(1))
    found = explainer.parameters(inputs, target=target, divided=False)
    outputs = explainer.trace(**inputs, target=target).rewritten.program.outputs
    expected = by_autograd(model, lambda: model(**inputs)[outputs.names[outputs.explained]].flatten(1).sum(1))
    for parameter, R in found.items():
        scale = max(float(expected[parameter].abs().max()), 1e-9)
        assert float((R - expected[parameter]).abs().max()) < 1e-4 * scale, parameter


WITH_GAMMA = lrp_fx.Ruleset("with gamma", frozenset({"content"}), kinds={"linear": ("linear.gamma", "*")})
WITH_EPSILON = lrp_fx.Ruleset("with epsilon", frozenset({"content"}), kinds={"linear": ("linear.epsilon", "*")})


SLOWLY = pytest.mark.slow


@pytest.mark.parametrize(
    "rules", ["pa-lrp", WITH_GAMMA, pytest.param(WITH_EPSILON, marks=SLOWLY)], ids=["zero", "gamma", "epsilon"]
)
def test_a_map_holds_what_it_passes_and_a_bias_what_its_sink_holds(rules: Any) -> None:
    """Euler: weights take what comes out less what sinks; with the bias, less only what the stabiliser absorbs."""
    explainer = lrp_fx.convert(small(), rules=rules, conserve="site") if rules != "pa-lrp" else asked()[0]
    found = explainer.parameters({"input_ids": IDS}, target=1) if rules != "pa-lrp" else asked()[1]
    ledger = explainer(input_ids=IDS, target=1).ledger
    sites = {site.name: site for site in ledger.sites}
    maps = [use for use in found.uses if use.rule.startswith("linear.") and use.parameters[0].endswith("weight")]
    assert len(maps) == 3
    for use in maps:
        site = sites[use.name]
        assert use.relevance == pytest.approx(site.outgoing - site.sinks, rel=1e-9)
        assert float(found[use.parameters[0]].sum()) == pytest.approx(use.relevance, rel=1e-9)
    biases = sum(float(R.sum()) for name, R in found.items() if name.endswith("bias"))
    assert biases == pytest.approx(float(ledger.sinks["bias"].sum()), rel=1e-9)


@pytest.mark.slow
def test_each_place_passes_what_the_books_of_its_site_say() -> None:
    explainer, found = asked(Attending)
    sites = {s.name: s for s in explainer(**CALL, target=1).ledger.sites}
    weights = [use for use in found.uses if use.rule == "linear.zero" and use.parameters[0].endswith("weight")]
    assert len(weights) == 11
    for use in weights:
        assert use.relevance == pytest.approx(sites[use.name].incoming, rel=1e-9), use.name


def test_rows_of_a_table_get_the_relevance_of_their_tokens_and_places() -> None:
    explainer, found = asked(Attending)
    relevance = explainer(**CALL, target=1)
    rows = torch.zeros(12).double().index_add(0, IDS.flatten(), relevance.content["input_ids"].flatten())
    torch.testing.assert_close(found["table.weight"].sum(1), rows)
    (site,) = relevance.position
    torch.testing.assert_close(found["places"][:7].sum(1), site.relevance.sum((0, 2)))
    assert not found["places"][7:].any()


@pytest.mark.slow
def test_position_that_carries_nothing_is_what_the_sink_holds() -> None:
    explainer = lrp_fx.convert(small(Attending), rules="attnlrp")
    found, sinks = explainer.parameters(CALL, target=1), explainer(**CALL, target=1).ledger.sinks
    biases = sum(float(R.sum()) for n, R in found.items() if n.endswith("bias") or n == "places")
    assert abs(float(found["places"].sum())) > 1e-3 and biases == pytest.approx(float(sinks["bias"].sum()))


# ------------------------------------------------------------------------------------------------ between the two
class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 8)
        self.weight, self.scale = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8))

    def forward(self, input_ids: Tensor) -> Tensor:
        out: Tensor = self.mapped(self.table(input_ids)).mean(1)
        return out

    def mapped(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.weight) * self.scale


class Moved(Plain):
    def mapped(self, x: Tensor) -> Tensor:
        top, bottom = self.weight.t().chunk(2, 1)
        return x @ torch.cat([bottom, top], 1).roll(4, 1) * self.scale.reshape(2, 4).flatten()[None, None]


class Scaled(Plain):
    def mapped(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.weight * self.scale[:, None])


class Looped(Plain):
    def mapped(self, x: Tensor) -> Tensor:
        return torch.stack([(x * self.weight[i]).sum(-1) * self.scale[i] for i in range(8)], -1)


@pytest.mark.parametrize("spelling", [Moved, Scaled, pytest.param(Looped, marks=SLOWLY)])
def test_spellings_agree(spelling: Any) -> None:
    assert_same(asked(spelling)[1], asked(Plain)[1])


class Tied(Plain):
    def mapped(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(torch.relu(super().mapped(x)), self.weight)


def test_a_shared_parameter_has_the_sum_of_its_uses() -> None:
    found = asked(Tied)[1]
    uses = found.uses_of("weight")
    assert len({use.name for use in uses}) == 2
    assert float(found["weight"].sum()) == pytest.approx(sum(use.relevance for use in uses))
    with pytest.raises(InputError, match="no parameter 'wait'"):
        found.uses_of("wait")


def test_a_parameter_that_nothing_passes_has_zeros() -> None:
    class Idle(Plain):
        def mapped(self, x: Tensor) -> Tensor:
            return torch.nn.functional.linear(x, self.weight)

    found = lrp_fx.convert(small(Idle)).parameters({"input_ids": IDS}, target=0)
    assert not found["scale"].any() and not found.uses_of("scale")


# ------------------------------------------------------------------------------------------------ many calls
def test_batches_add_up_whatever_their_padding() -> None:
    explainer, whole = asked(Attending)
    rows = [{n: v[i : i + 1, : int(CALL["attention_mask"][i].sum())] for n, v in CALL.items()} for i in range(3)]
    apart = explainer.parameters(iter(rows), target=1, divided=False)
    assert (whole.examples, whole.calls, apart.examples, apart.calls) == (3, 1, 3, 3)
    assert apart.score == pytest.approx(whole.score)
    assert_same(apart, whole)
    absolute = explainer.parameters(rows, target=1, absolute=True, divided=False)
    assert all(bool((absolute[n] >= apart[n].abs() - 1e-12).all()) for n in apart)
    assert "absolute" in repr(absolute) and "3 examples" in repr(absolute)


def test_a_target_for_all_or_for_each_batch() -> None:
    explainer, one = asked()
    two = explainer.parameters({"input_ids": IDS}, target=lrp_fx.targets.Contrast(2, 0))
    both = explainer.parameters(
        [{"input_ids": IDS, "target": 1}, {"input_ids": IDS, "target": lambda y: y[:, 2] - y[:, 0]}]
    )
    assert_same(both, {n: one[n] + two[n] for n in one})


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"keep_output": False, "checkpoint": True}, marks=SLOWLY),
        pytest.param({"dynamic": False}, marks=SLOWLY),
    ],
    ids=str,
)
def test_however_the_graph_is_made(options: dict[str, Any]) -> None:
    other = lrp_fx.convert(small(Attending), **options).parameters(CALL, target=1, divided=False)
    assert_same(other, asked(Attending)[1])


def test_graphs_of_those_who_do_not_ask_stay_as_they_are() -> None:
    model, call = small(), {"input_ids": IDS, "target": 1}
    explainer = lrp_fx.convert(model)
    before, code = explainer(**call), explainer.relevance_graph.code
    explainer.parameters(call)
    after = explainer(**call)
    assert explainer.relevance_graph.code == code and explainer.statistics.transposes == 1
    assert torch.equal(before.content["input_ids"], after.content["input_ids"])


@pytest.mark.slow
def test_half_precision_is_summed_in_single() -> None:
    found = lrp_fx.convert(small().bfloat16(), conserve="off").parameters([{"input_ids": IDS}] * 3, target=1)
    assert {R.dtype for R in found.values()} == {torch.float32}


# ------------------------------------------------------------------------------------------------ sums
def test_heads_are_found_by_the_flow_of_data() -> None:
    """Four heads that read two of keys and values."""
    _, found = asked(Attending)
    heads, of = found.by("head"), {n: found[f"blocks.1.{n}.weight"] for n in "qkvo"}
    of |= {f"{n} bias": found[f"blocks.1.{n}.bias"] for n in "qkv"}
    shared = sum(of[n].reshape(2, -1).sum(1).repeat_interleave(2) / 2 for n in ("k", "v", "k bias", "v bias"))
    own = sum(of[n].reshape(4, -1).sum(1) for n in ("q", "q bias"))
    expected = own + shared + of["o"].reshape(16, 4, 4).sum((0, 2))
    assert len(heads) == 8
    torch.testing.assert_close(
        torch.tensor(list(heads.values())[4:], dtype=torch.float64), expected, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(
    "by_head", [False, pytest.param(True, marks=SLOWLY)], ids=["blocks of heads", "heads of blocks"]
)
def test_heads_in_one_map_for_queries_keys_and_values(by_head: bool) -> None:
    found = lrp_fx.convert(small(lambda: Fused(by_head))).parameters({"input_ids": IDS}, target=1)
    shares = {(d.parameter, d.axis): d.shares for d in found.divisions}
    assert set(shares) == {("mixed.weight", 0), ("mixed.bias", 0), ("back", 0)}
    feature = torch.arange(36)
    own = feature // 12 if by_head else feature % 12 // 4
    assert torch.equal(shares["mixed.weight", 0], nn.functional.one_hot(own).T.double())
    assert torch.equal(shares["back", 0], nn.functional.one_hot(torch.arange(12) // 4).T.double())


def test_layers_rows_columns_and_modules_add_up() -> None:
    _, found = asked(Attending)
    everything = sum(float(R.sum()) for R in found.values())
    for what in ("layer", "module", "parameter"):
        assert sum(found.by(what).values()) == pytest.approx(everything)
    assert list(found.by("layer")) == [0, 1, None]
    rows, columns = found.by("row"), found.by("column")
    torch.testing.assert_close(rows["head.weight"], found["head.weight"].sum(1))
    torch.testing.assert_close(columns["head.weight"], found["head.weight"].sum(0))
    assert set(rows) - set(columns) == {n for n, R in found.items() if R.dim() == 1}
    with pytest.raises(InputError, match="cannot be summed by 'neuron'"):
        found.by("neuron")
    with pytest.raises(InputError, match="divided among experts"):
        found.by("expert")


@pytest.mark.slow
def test_experts_are_slices_of_what_a_router_chooses_from() -> None:
    _, found = asked(Routed)
    assert {d.parameter for d in found.divisions} == {"up", "down"}
    expected = found["up"].sum((1, 2)) + found["down"].sum((1, 2))
    torch.testing.assert_close(torch.tensor(list(found.by("expert").values()), dtype=torch.float64), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "heads", "experts"), [("llama", 8, 0), ("mixtral", 8, 4), ("gpt_neox", 6, 0)])
def test_heads_and_experts_of_architectures(name: str, heads: int, experts: int) -> None:
    made = converted(name)
    kinds = [d.kind for d in made.explainer.parameters(made.inputs).divisions]
    assert (kinds.count("head"), kinds.count("expert")) == (heads, experts)


def test_a_table_of_them() -> None:
    pandas = pytest.importorskip("pandas")
    found = asked()[1]
    assert isinstance(found.to_frame(), pandas.DataFrame) and len(found.to_frame()) == len(found)
    assert list(found.to_frame("row").columns) == ["parameter", "row", "relevance"]


# ------------------------------------------------------------------------------------------------ files, refusals
def test_kept_in_a_file(tmp_path: Path) -> None:
    found = asked()[1]
    found.save(tmp_path / "of.safetensors")
    again = ParameterRelevance.load(tmp_path / "of.safetensors")
    assert all(torch.equal(again[n], R) for n, R in found.items())
    assert (again.uses, again.score, repr(again)) == (found.uses, found.score, repr(found))
    (tmp_path / "of.safetensors").write_bytes(b"something else")
    with pytest.raises(InputError, match="ParameterRelevance"):
        ParameterRelevance.load(tmp_path / "of.safetensors")


def test_texts_are_one_call_and_lists_of_texts_are_several() -> None:
    rows = {"input_ids": IDS}
    assert [len(list(calls_of(data))) for data in (rows, [rows, rows], IDS, "a", ["a", "b"], ("a", "b"))] == [
        1, 2, 1, 1, 1, 1,
    ]  # fmt: skip
    assert list(calls_of([["a", "b"], ["c"]])) == [((["a", "b"],), {}), ((["c"],), {})]
    assert list(calls_of(iter([(IDS, 3)]))) == [((IDS, 3), {})]


@pytest.mark.parametrize(("data", "said"), [([], "no item"), (3, "got a int"), ("a text", "tokenizer")], ids=str)
def test_what_is_no_data(data: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        asked()[0].parameters(data)


def test_codes_have_no_relevance() -> None:
    class Coded(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 4)
            weight = self.weight.detach()
            del self.weight
            self.register_buffer("weight", (weight * 100).to(torch.int8))

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.weight.to(x.dtype) / 100).t()

    model = nn.Sequential(nn.Linear(8, 8), Coded()).eval()
    with pytest.raises(InputError, match="1 is quantised"):
        lrp_fx.convert(model).parameters(torch.randn(2, 8))


def test_a_file_needs_the_model(tmp_path: Path) -> None:
    explainer = asked()[0]
    explainer(input_ids=IDS, target=1)
    explainer.save(tmp_path / "saved.lrp")
    with pytest.raises(InputError, match="convert the model"):
        lrp_fx.load(tmp_path / "saved.lrp").parameters({"input_ids": IDS})
