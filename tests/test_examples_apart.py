"""Whose a value is: behind operations that no row of the table describes, and where a batch is cut and put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lrp_fx

T, D = 8, 6
Block = Callable[[Tensor], Tensor]
Operation = Callable[[Block, Tensor], Tensor]

#: (B, T, D) -> (B, any, D): an operation without a layout rule, then a block of attention with places and biases.
UNDESCRIBED: dict[str, Operation] = {
    "unfold": lambda g, x: g(F.pad(x, (0, 0, 1, 1)).unfold(1, 3, 1).mean(-1)),
    "im2col": lambda g, x: g(F.unfold(x[:, None], (1, D)).mT),
    "fold": lambda g, x: g(F.fold(F.unfold(x[:, None], (2, 2), stride=2), (T, D), (2, 2), stride=2)[:, 0]),
    "pixel_shuffle": lambda g, x: g(F.pixel_shuffle(F.pixel_unshuffle(x[:, None], 2), 2)[:, 0]),
    "fft": lambda g, x: g(torch.fft.irfft(torch.fft.rfft(x, dim=1), n=T, dim=1)),
    "interpolate": lambda g, x: g(F.interpolate(x.mT, scale_factor=0.5).mT),
    "diff": lambda g, x: g(x.diff(dim=1)),
    "take_along_dim": lambda g, x: g(torch.take_along_dim(x, torch.tensor([[[0], [3], [1]]]), 1)),
    "kron": lambda g, x: g(torch.kron(x, torch.ones(1, 2, 1))[:, :T]),
    "diagonal": lambda g, x: g((x.unsqueeze(1) * x.unsqueeze(2)).diagonal(dim1=1, dim2=2).mT),
    "cdist": lambda g, x: g(torch.cdist(x, x + 1)[..., :D]),
}
#: The batch cut, turned or put together along its own axis.
CUT: dict[str, Operation] = {
    "heads in front": lambda g, x: sum(g(torch.cat([x, x * x], 0)).split(x.shape[0], 0)),  # type: ignore[arg-type]
    "copies behind": lambda g, x: g(x.repeat_interleave(2, 0))[::2],
    "slices": lambda g, x: torch.cat([g(x[i : i + 1]) for i in range(x.shape[0])], 0),
    "parts": lambda g, x: torch.cat([g(part) for part in x.split(2, 0)], 0),
    "rows": lambda g, x: torch.stack([g(row[None])[0] for row in x], 0),
    "turned": lambda g, x: g(x.flip(0)).flip(0),
    "one row more": lambda g, x: g(torch.cat([x, torch.zeros(1, T, D)], 0))[:-1],
}


def _pairs(x: Tensor, places: int = 4) -> tuple[Tensor, Tensor]:
    """(example, token) of the first tokens of each, from the last of them to the first."""
    examples, tokens = torch.arange(x.shape[0]), torch.arange(places).flip(0)
    return examples.repeat_interleave(places), tokens.repeat(x.shape[0])


def _put(g: Block, x: Tensor, table: Tensor, between: Block = lambda rows: rows, order: Block = lambda i: i) -> Tensor:
    """A block of tokens that were gathered from all examples as rows and put into a table of (example, token)."""
    rows, tokens = (order(i) for i in _pairs(x))
    return g(table.index_put((rows, tokens), between(x[rows, tokens])))


def _written(x: Tensor) -> Tensor:
    """Numbers, and a row that is no example's, written to one place each."""
    y = x * 1.0
    y[:, 0] = 0.5
    y[:, 1] = 0.1 * torch.arange(D)
    y[..., 2].zero_()
    return y


#: Rows of all examples picked by constants and put into a table: whose each row is can be followed.
PUT: dict[str, Operation] = {
    "rows put": lambda g, x: _put(g, x, x.new_zeros(x.shape[0], 4, D)),
    "rows put turned": lambda g, x: _put(g, x, x.new_zeros(x.shape[0], 4, D), order=lambda i: i.flip(0)),
    "rows put over tokens": lambda g, x: _put(g, x, x * x),
    "rows mapped and put": lambda g, x: _put(g, x, x.new_zeros(x.shape[0], 4, D), lambda r: g(r[:, None])[:, 0]),
    "rows turned and put": lambda g, x: g(
        x.new_zeros(x.shape[0], 4, D).index_put(tuple(i.flip(0) for i in _pairs(x)), x[_pairs(x)].flip(0))
    ),
    "numbers written": lambda g, x: g(_written(x)),
    "rows put token first": lambda g, x: g(
        x.new_zeros(4, x.shape[0], D).index_put(_pairs(x)[::-1], x[_pairs(x)]).transpose(0, 1)
    ),
}


class Model(nn.Module):
    def __init__(self, operation: Operation) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.first, self.inner = nn.Embedding(50, D), nn.Linear(D, D), nn.Linear(D, D)
        self.places, self.more_places = nn.Parameter(torch.randn(T, D)), nn.Parameter(torch.randn(1, T, D))
        self.operation, self.head = operation, nn.Linear(D, 5)

    def block(self, x: Tensor) -> Tensor:
        x = self.inner(x) + self.more_places[:, : x.shape[1]]
        return (x @ x.mT).softmax(-1) @ x

    def body(self, x: Tensor) -> Tensor:
        return self.head(self.operation(self.block, self.first(x + self.places)).mean(1).tanh())

    def forward(self, ids: Tensor) -> Tensor:
        return self.body(self.words(ids))


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


IDS = torch.randint(0, 50, (3, T), generator=torch.Generator().manual_seed(1))


def _layouts(explainer: lrp_fx.Explainer, name: str) -> list[list[set[str]]]:
    """The kinds along each axis of the values that an operation gives."""
    rewritten = explainer.rewritten
    nodes = [n for n in rewritten.program.graph.nodes if str(n.target).startswith(f"aten.{name}.")]
    return [[{kind for kind, _ in axis} for axis in rewritten.facts.layout[n]] for n in nodes]


@pytest.mark.parametrize("name", [*UNDESCRIBED, *CUT, *PUT])
def test_an_example_gets_in_a_batch_what_it_gets_alone(name: str) -> None:
    model = Model({**UNDESCRIBED, **CUT, **PUT}[name]).eval()
    explainer = lrp_fx.convert(model, dynamic=False)
    together = explainer(IDS, target=1)  # raises unless every example closes
    alone = explainer(IDS[1:2], target=1)
    torch.testing.assert_close(together.tokens[1], alone.tokens[0], rtol=1e-9, atol=1e-12)
    for sink, total in together.ledger.sinks.items():
        torch.testing.assert_close(total[1], alone.ledger.sinks[sink][0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["fold", "fft", "heads in front", "slices", "parts", "one row more"])
def test_the_gradient_preset_is_the_gradient(name: str) -> None:
    model = Model({**UNDESCRIBED, **CUT}[name]).eval()
    words = model.words(IDS).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.body(words)[:, 1].sum(), words)
    relevance = lrp_fx.convert(model, rules="gradient", dynamic=False)(IDS, target=1)
    torch.testing.assert_close(relevance.content["ids"], (gradient * words).sum(-1).detach(), rtol=1e-9, atol=1e-12)


class Patches(nn.Module):
    """An image cut into patches, a table of places added."""

    def __init__(self, cut: Block) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cut, self.map, self.head = cut, nn.Linear(12, 8), nn.Linear(8, 3)
        self.places = nn.Parameter(torch.randn(1, 16, 8))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.map(self.cut(pixels)) + self.places
        return self.head(((x @ x.mT).softmax(-1) @ x).mean(1))


def test_patches_cut_by_unfold_have_places() -> None:
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def by_reshape(x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], 3, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    cuts: list[Block] = [lambda x: F.unfold(x, 2, stride=2).mT, by_reshape]
    (one, other) = (lrp_fx.convert(Patches(cut).eval())(pixels, target=0) for cut in cuts)
    assert [(p.kind, p.variant) for p in one.position] == [("absolute", "learned")]
    torch.testing.assert_close(one.position[0].total, other.position[0].total, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one.content["pixels"], other.content["pixels"], rtol=1e-9, atol=1e-12)


def test_what_mixes_examples_has_no_batch() -> None:
    def mixed(block: Block, x: Tensor) -> Tensor:
        return block(torch.fft.fft(x, dim=0).real)

    explainer = lrp_fx.convert(Model(mixed).eval(), dynamic=False, conserve="off")
    explainer(IDS, target=1)
    ((batch, tokens, features),) = _layouts(explainer, "fft_fft")
    assert "batch" not in batch | tokens | features
    assert tokens == {"token"} and features == {"feature"}
    with pytest.raises(lrp_fx.ConservationError, match="for the batch but not for each example"):
        lrp_fx.convert(Model(mixed).eval(), dynamic=False)(IDS, target=1)


class Grouped(nn.Module):
    """Frames that a mask keeps, two to a row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.inner, self.head = nn.Embedding(20, D), nn.Linear(2 * D, D), nn.Linear(D, 3)

    def forward(self, input_ids: Tensor, keep: Tensor) -> Tensor:
        return self.by_values(self.words(input_ids), keep)

    def by_values(self, x: Tensor, keep: Tensor) -> Tensor:
        rows = torch.tanh(self.inner(x[keep].reshape(-1, 2 * D)))
        return self.head(rows.mean(0, keepdim=True))  # type: ignore[no-any-return]


def test_rows_of_any_example_that_are_grouped_belong_to_no_known_one() -> None:
    model = Grouped().double().eval()
    keep = torch.tensor([[True] * 4 + [False] + [True] * 4])
    given = torch.randint(0, 20, (1, 9), generator=torch.Generator().manual_seed(1))
    found = lrp_fx.convert(model, rules="gradient", roles={"keep": "mask"})(input_ids=given, keep=keep, target=1)
    values = model.words(given).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.by_values(values, keep)[:, 1].sum(), values)
    assert torch.allclose(found.content["input_ids"], (gradient * values).sum(-1).detach(), rtol=1e-9, atol=1e-12)


def test_instance_norm_is_group_norm_of_single_channels() -> None:
    x = torch.randn(2, D, T, generator=torch.Generator().manual_seed(0))

    class Normed(nn.Module):
        def __init__(self, instance: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            weights = (nn.Parameter(torch.randn(D)), nn.Parameter(torch.randn(D)))
            self.weight, self.bias = weights
            self.head, self.instance = nn.Linear(T, 3), instance

        def forward(self, pixels: Tensor) -> Tensor:
            if self.instance:
                y = F.instance_norm(pixels, weight=self.weight, bias=self.bias)
            else:
                y = F.group_norm(pixels, D, self.weight, self.bias)
            return self.head(y.tanh().mean(1))

    explainers = [lrp_fx.convert(Normed(instance).eval(), strict=True) for instance in (True, False)]
    (one, other) = (explain(x, target=0) for explain in explainers)
    torch.testing.assert_close(one.content["pixels"], other.content["pixels"], rtol=1e-9, atol=1e-12)


def test_windows_by_strides_of_any_length() -> None:
    def strided(block: Block, x: Tensor) -> Tensor:
        rows, tokens = x.shape[:2]
        return block(x.contiguous().as_strided((rows, tokens - 1, D), (tokens * D, D, 1)))

    cut: Operation = lambda g, x: g(x[:, :-1])  # noqa: E731
    one, other = (lrp_fx.convert(Model(operation).eval()) for operation in (strided, cut))
    found, expected = (explain(IDS, target=1).content["ids"] for explain in (one, other))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
