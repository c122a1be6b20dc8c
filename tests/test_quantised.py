"""Weights however they are held, and activations however they are rounded: one function, one relevance."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lrp_fx
from lrp_fx.capture.reasons import reason

IDS = torch.randint(0, 20, (2, 5), generator=torch.Generator().manual_seed(1))
D = 8


def draw(*sizes: int, seed: int) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Held(nn.Module):
    """One matrix, held in one of several ways; all give the same numbers."""

    def __init__(self, how: str, seed: int) -> None:
        super().__init__()
        self.how = how
        codes = ((draw(D, D, seed=seed) * 3).round().clamp(-7, 8) + 7).to(torch.uint8)
        scale = 0.1 + 0.01 * torch.arange(D, dtype=torch.float64)
        code_book = torch.arange(-7, 9, dtype=torch.float64)
        whole = code_book[codes.long()] * scale
        if how == "parameter":
            self.w = nn.Parameter(whole)
        elif how == "buffer":
            self.register_buffer("w", whole)
        elif how == "attribute":
            self.w = whole
        else:
            packed = how.startswith("packed")
            self.register_buffer("codes", codes[:, 0::2] | codes[:, 1::2] << 4 if packed else codes)
            self.register_buffer("scale", scale)
            self.register_buffer("book", code_book)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "scaled":
            return F.linear(x, (self.codes.to(x.dtype) - 7) * self.scale)
        if self.how == "code book":
            return F.linear(x, self.book[self.codes.long()] * self.scale)
        if self.how == "packed":
            codes = torch.stack([self.codes & 15, self.codes >> 4], -1).flatten(1)
            return F.linear(x, (codes.to(x.dtype) - 7) * self.scale)
        if self.how == "packed, by a counter":
            both = (self.codes[..., None] >> torch.arange(0, 8, 4)) & 15
            codes = both.flatten(1)[:, torch.arange(D).flip(0)].flip(1)
            return F.linear(x, (codes.to(x.dtype) - 7) * self.scale)
        return F.linear(x, self.w)


def rounded(x: Tensor, w: Tensor, how: str) -> Tensor:
    """A product with activations rounded to 127 steps, whatever holds them."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    q = (x / scale).round()
    if how == "not":
        return x @ w.to(x.dtype)
    if how == "integer product":
        flat = torch.cat([q.flatten(0, 1), q.new_zeros(32, D)]).to(torch.int8)  # the kernel wants 17 rows
        return torch._int_mm(flat, w)[: x.shape[0] * x.shape[1]].unflatten(0, x.shape[:2]) * scale
    if how == "from zero":
        low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
        scale = (high - low) / 254
        zero = (-low / scale).round()
        q = ((x / scale).round() + zero).clamp(0, 255).to(torch.uint8)
        return ((q.to(torch.int32) - zero.to(torch.int32)).to(x.dtype) @ w.to(x.dtype)) * scale
    if how == "cast":
        q = q.to(torch.int8).to(x.dtype)
    return q @ w.to(x.dtype) * scale


class Net(nn.Module):
    """Attention and a gated map on a residual stream: what a map is decides how its products share."""

    def __init__(self, held: str = "parameter", how: str | None = None) -> None:
        super().__init__()
        self.how = how
        self.embed = nn.Embedding(20, D)
        self.embed.weight = nn.Parameter(draw(20, D, seed=7))
        self.maps = nn.ModuleList(Held(held, seed) for seed in range(5))
        self.register_buffer("whole", (draw(D, D, seed=9) * 30).round().clamp(-127, 127).to(torch.int8))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        q, k, v, up, out = self.maps
        x = x + (q(x) @ k(x).mT / 3).softmax(-1) @ v(x)
        if self.how is not None:
            x = x + rounded(x, self.whole, self.how) / 100
        return out(F.silu(up(x)) * x).mean(1)


@cache
def explained(held: str, how: str | None = None) -> lrp_fx.Relevance:
    return lrp_fx.convert(Net(held, how).double().eval(), strict=True, conserve="site")(input_ids=IDS, target=1)


@pytest.mark.parametrize("held", ["buffer", "attribute", "scaled", "code book", "packed", "packed, by a counter"])
def test_a_weight_is_a_weight_however_it_is_held(held: str) -> None:
    expected, found = explained("parameter"), explained(held)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=0, atol=1e-12)
    assert found.ledger.sinks.keys() == expected.ledger.sinks.keys()


@pytest.mark.parametrize("how", ["cast", "integer product"])
def test_rounding_passes_relevance_through_integers(how: str) -> None:
    """The same numbers held floating and as integers."""
    expected, found = explained("parameter", "floating"), explained("parameter", how)
    torch.testing.assert_close(found.output, expected.output)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=0, atol=1e-12)


@pytest.mark.parametrize("how", ["floating", "from zero"])
def test_a_scale_that_is_put_back_takes_no_share(how: str) -> None:
    """Rounding is fine here: relevance is nearly that of the map without it."""
    expected, found = explained("parameter", "not"), explained("parameter", how)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=0, atol=0.03 * float(expected.tokens.abs().max()))


class Bits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ((x * 8).to(torch.int32) & 12).to(x.dtype).sum(-1, keepdim=True)


class Float8(nn.Module):
    """Weights in float8; and activations, too."""

    def __init__(self, *, activations: bool) -> None:
        super().__init__()
        self.activations = activations
        self.register_buffer("weight", torch.linspace(-2, 2, 12).reshape(3, 4).to(torch.float8_e4m3fn))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.float8_e4m3fn).to(x.dtype) if self.activations else x
        return x @ self.weight.to(x.dtype).T  # type: ignore[no-any-return]


def test_activations_in_float8_are_refused_and_weights_are_not() -> None:
    x = torch.rand(2, 4)
    relevance = lrp_fx.convert(Float8(activations=False).eval())(x, target=1)
    torch.testing.assert_close(relevance.content["x"], x * torch.linspace(-2, 2, 12).reshape(3, 4)[1], rtol=0.1, atol=0)
    with pytest.raises(lrp_fx.UnsupportedOperatorError, match="quantised"):
        lrp_fx.convert(Float8(activations=True).eval())(x, target=1)


def test_what_an_integer_has_no_room_for_is_lost_as_in_the_model() -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, D), nn.Linear(D, 3)

        def forward(self, input_ids: Tensor) -> Tensor:
            held = (200 * self.embed(input_ids)).to(torch.int8)  # some wrap around
            return self.head(held.double().mean(1) / 200)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Narrow().double().eval()
    assert bool(((200 * model.embed(IDS)).abs() > 128).any())
    relevance = lrp_fx.convert(model, conserve="site")(input_ids=IDS, target=1)
    torch.testing.assert_close(relevance.output, model(IDS), rtol=1e-12, atol=1e-12)


def test_bits_of_an_activation_are_refused() -> None:
    with pytest.raises(lrp_fx.UnsupportedOperatorError, match="integers that hold content"):
        lrp_fx.convert(Bits().eval())(torch.rand(2, 3, 4, dtype=torch.float64))


class Binned(nn.Module):
    """Values times the row of a table that an integer made of them picks, or times the integer."""

    def __init__(self, *, pick: bool) -> None:
        super().__init__()
        self.pick = pick
        self.register_buffer("table", torch.arange(32.0, dtype=torch.float64).reshape(8, 4) + 1)

    def forward(self, x: Tensor) -> Tensor:
        held = (x * 6).to(torch.int64)
        kept = torch.where(held > 2, held, torch.zeros_like(held))
        if self.pick:
            return (x * (F.one_hot(kept.amax(-1), 8).to(x.dtype) @ self.table)).sum(-1, keepdim=True)
        return kept.to(x.dtype).sum(-1, keepdim=True)


def test_zeros_like_an_integer_hold_nothing_of_it() -> None:
    x = torch.linspace(0.1, 0.9, 8, dtype=torch.float64).reshape(2, 4)
    relevance = lrp_fx.convert(Binned(pick=False).eval(), conserve="site")(x)
    torch.testing.assert_close(relevance.content["x"], ((x * 6).trunc() * ((x * 6).trunc() > 2)), rtol=0, atol=1e-12)


def test_which_class_an_integer_is_is_a_choice() -> None:
    x, model = torch.linspace(0.1, 0.9, 8, dtype=torch.float64).reshape(2, 4), Binned(pick=True).eval()
    relevance = lrp_fx.convert(model, conserve="site")(x)
    held = (x * 6).long().amax(-1)
    torch.testing.assert_close(relevance.output, model(x), rtol=0, atol=0)
    torch.testing.assert_close(relevance.content["x"], x * model.table[held * (held > 2)], rtol=0, atol=1e-12)
    assert relevance.content.keys() == {"x"}


class Prompted(nn.Module):
    """Rows of a table in front of the text, picked by an index, counted, or the parameter itself."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.embed, self.map = nn.Embedding(20, D), nn.Linear(D, D, bias=False)
        self.embed.weight, self.map.weight = nn.Parameter(draw(20, D, seed=7)), nn.Parameter(draw(D, D, seed=8))
        self.prompt = nn.Embedding(3, D)
        self.prompt.weight = nn.Parameter(draw(3, D, seed=5))
        self.register_buffer("index", torch.arange(3))

    def forward(self, input_ids: Tensor) -> Tensor:
        rows = {
            "parameter": self.prompt.weight,
            "index": self.prompt(self.index),
            "counted": self.prompt(torch.arange(3)),
        }[self.how]
        x = torch.cat([rows[None].expand(len(input_ids), -1, -1), self.embed(input_ids)], 1)
        return ((x @ x.mT / 3).softmax(-1) @ self.map(x)).mean(1)


def test_a_soft_prompt_is_learned_however_its_rows_are_picked() -> None:
    found = [lrp_fx.convert(Prompted(how).eval())(input_ids=IDS, target=1) for how in ("parameter", "index", "counted")]
    for relevance in found:
        assert relevance.ledger.leaves.keys() == {"content", "learned"}
        torch.testing.assert_close(relevance.tokens, found[0].tokens, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------- layers of quantisers
class Coded(nn.Module):
    """A linear layer as quantisers write them: codes and scales, and a kernel of its own."""

    def __init__(self, how: str, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features, self.how = D, D, how
        self.register_buffer("codes", (draw(D, D, seed=3) * 3).round().to(torch.int8))
        self.register_buffer("scale", 0.1 + 0.01 * torch.arange(D, dtype=torch.float64)[:, None])
        self.bias = nn.Parameter(draw(D, seed=4)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "own operation":
            y = coded_product()(x, self.codes, self.scale)
        elif self.how in ("rounds", "mixes rows"):
            y = other_product()(x, self.codes, self.scale, self.how)
        else:
            y = (x @ (self.codes * self.scale).mT).square()
        return y if self.bias is None else y + self.bias


@cache
def coded_product() -> object:
    """An operation of another library: autograd follows its kernel, which a trace does not see."""
    torch.library.define("lrp_fx_tests::coded_product", "(Tensor x, Tensor codes, Tensor scale) -> Tensor")
    torch.library.impl(
        "lrp_fx_tests::coded_product", "default", lambda x, codes, scale: x @ (codes * scale).mT.contiguous()
    )
    return torch.ops.lrp_fx_tests.coded_product.default


@cache
def other_product() -> object:
    def product(x: Tensor, codes: Tensor, scale: Tensor, how: str) -> Tensor:
        return ((x * 8).round() / 8 if how == "rounds" else x.cumsum(-2)) @ (codes * scale).mT.contiguous()

    torch.library.define("lrp_fx_tests::other_product", "(Tensor x, Tensor codes, Tensor scale, str how) -> Tensor")
    torch.library.impl("lrp_fx_tests::other_product", "default", product)
    return torch.ops.lrp_fx_tests.other_product.default


class Word(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.words, self.layer, self.head = nn.Embedding(20, D), layer, nn.Linear(D, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(self.words(input_ids))).mean(1))  # type: ignore[no-any-return]


def coded(how: str, **options: bool) -> nn.Module:
    torch.manual_seed(0)
    return Word(Coded(how, **options)).double().eval()


@pytest.mark.parametrize("bias", [True, False])
def test_a_dequantised_copy_computes_the_same(bias: bool) -> None:
    model = coded("own operation", bias=bias)
    plain = lrp_fx.dequantised(model)
    assert type(plain.layer) is nn.Linear and (plain.layer.bias is not None) == bias
    torch.testing.assert_close(plain(IDS), model(IDS), rtol=1e-12, atol=1e-12)
    assert type(model.layer) is Coded and plain.words.weight is not model.words.weight
    assert lrp_fx.convert(plain, conserve="site")(input_ids=IDS).ledger.error.max() < 1e-10


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rules", ["pa-lrp", "gradient"])
def test_a_kernel_that_is_a_linear_map_is_its_matrix(rules: str, bias: bool) -> None:
    """A trace sees no derivative of it; what it computes can be asked of it."""
    model = coded("own operation", bias=bias)
    explainer = lrp_fx.convert(model, rules=rules, conserve="site", strict=True)
    with pytest.warns(UserWarning, match=r"coded_product: .* learned linear map.* \(1 tensors, 0 KiB"):
        found = explainer(input_ids=IDS, target=1)
    expected = lrp_fx.convert(lrp_fx.dequantised(model), rules=rules)(input_ids=IDS, target=1)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=0, atol=1e-12)
    torch.testing.assert_close(explainer(input_ids=IDS[:, :3], target=1).output, model(IDS[:, :3]))
    assert "lrp_fx_tests" not in explainer.rewritten.print_readable()


def test_codes_that_are_written_to_are_read_again() -> None:
    model = coded("own operation")
    explainer = lrp_fx.convert(model)
    explainer(input_ids=IDS, target=1)
    model.layer.codes.neg_()
    found = explainer(input_ids=IDS, target=1)
    torch.testing.assert_close(found.output, model(IDS))
    expected = lrp_fx.convert(lrp_fx.dequantised(model))(input_ids=IDS, target=1)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=0, atol=1e-12)


def test_a_kernel_of_torch_without_a_formula_is_its_matrix() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("codes", (draw(8, 32, seed=3) * 40).round().to(torch.int8))
            self.register_buffer("scale", torch.linspace(0.5, 1, 8))

        def forward(self, x: Tensor) -> Tensor:
            return torch.ops.aten._weight_int8pack_mm(x, self.codes, self.scale)  # type: ignore[no-any-return]

    x = draw(2, 32, seed=1).float()
    relevance = lrp_fx.convert(Packed().eval())(x, target=1)
    expected = x * Packed().codes[1] * Packed().scale[1]
    torch.testing.assert_close(relevance.content["x"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["rounds", "mixes rows"])
@pytest.mark.parametrize("rules", ["pa-lrp", "gradient"])
def test_a_kernel_that_shows_no_derivative_is_refused_and_not_passed_over(rules: str, how: str) -> None:
    """Its relevance would vanish. One quantises what it is given, one is linear and maps other axes, too."""
    with pytest.raises(lrp_fx.UnsupportedOperatorError, match=r"lrp_fx_tests.other_product[\s\S]*lrp_fx.dequantised"):
        lrp_fx.convert(coded(how), rules=rules)(input_ids=IDS)


def test_layers_that_round_what_they_are_given_are_named() -> None:
    class Rounding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Sequential(Rounded(), nn.Linear(4, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))  # type: ignore[no-any-return]

    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 16).round().to(torch.int8).to(x.dtype) / 16

    explainer = lrp_fx.convert(Rounding().double().eval())
    with pytest.warns(UserWarning, match=r"activations are rounded \(second\.0\).*straight through"):
        explainer(draw(2, 4, seed=1), target=0)
    assert {site.module for site in explainer.sites if site.kind == "rounding"} == {"second.0"}


def test_what_is_not_captured_says_that_its_weights_are_quantised() -> None:
    found = reason(coded("own operation"), {"input_ids": IDS})
    assert found is not None and "quantised (layer: " in found[0] and "lrp_fx.dequantised(model)" in found[1]


def test_what_cannot_be_dequantised_is_said() -> None:
    with pytest.raises(lrp_fx.InputError, match="layer .Coded. is no linear map"):
        lrp_fx.dequantised(coded("squared"))
    with pytest.raises(lrp_fx.InputError, match="nothing to dequantise"):
        lrp_fx.dequantised(nn.Sequential(nn.Linear(2, 2)))
