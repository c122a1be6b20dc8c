"""What a table is does not depend on the method of capture, nor on how a product with it is written."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lrp_fx
from testing.handmade import Small, V, ids, ready

D, T, N = 8, 5, 16


class Scores(nn.Module):
    """Scores of queries with the rows of a table cut to length: one for each key, or shifted to distances."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.embed, self.q, self.k, self.v = nn.Embedding(20, D), nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.table = nn.Parameter(torch.randn(N, D))

    def forward(self, ids: Tensor) -> Tensor:
        x, n = self.embed(ids), ids.shape[1]
        q, scores = self.q(x), self.q(x) @ self.k(x).mT
        if self.how == "columns":
            return (scores + q @ self.table[:n].T).softmax(-1) @ self.v(x)
        far = q @ self.table[N - n :].T
        far = F.pad(far, (1, 0)).reshape(len(ids), n + 1, n)[:, 1:]
        return (scores + far).softmax(-1) @ self.v(x)


@pytest.mark.parametrize("how", ["columns", "shifted"])
def test_a_table_cut_to_length_is_position_in_static_captures_too(how: str) -> None:
    ids = torch.randint(0, 20, (2, T), generator=torch.Generator().manual_seed(1))
    model = Scores(how).double().eval()
    dynamic, static = (lrp_fx.convert(model, dynamic=d)(ids, target=1) for d in (True, False))
    assert [p.kind for p in dynamic.position] == [p.kind for p in static.position] == ["disentangled"]
    torch.testing.assert_close(static.content["ids"], dynamic.content["ids"], rtol=0, atol=1e-12)


class CountedDown(nn.Module):
    """Sinusoids of distances that are counted down by steps of -1.0, shifted as Transformer-XL does: how many there are
    is computed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.q, self.k, self.v = nn.Embedding(20, D), nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.map = nn.Linear(D, D)
        self.register_buffer("speeds", torch.rand(D))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        b, n, _ = x.shape
        q, far = self.q(x), torch.arange(n - 1, -1, -1.0, dtype=x.dtype)
        far = q @ self.map(torch.outer(far, self.speeds).sin()).mT
        far = torch.cat([torch.zeros(b, n, 1, dtype=x.dtype), far], 2).view(b, n + 1, n)[:, 1:].view_as(far)
        return self.v((q @ self.k(x).mT + far).softmax(-1) @ self.v(x))


def test_how_many_distances_there_are_may_be_computed() -> None:
    ids = torch.randint(0, 20, (2, T), generator=torch.Generator().manual_seed(1))
    dynamic, static = (lrp_fx.convert(CountedDown().double().eval(), dynamic=d)(ids, target=1) for d in (True, False))
    assert [p.kind for p in dynamic.position] == [p.kind for p in static.position] == ["disentangled"]
    torch.testing.assert_close(static.tokens, dynamic.tokens, rtol=0, atol=1e-12)


class Columns(nn.Module):
    """Each number has a vector of its own: as a product (with rows that a fixed index picks), or as one linear map."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.w, self.v, self.o = nn.Parameter(torch.randn(4, D)), nn.Linear(D, D), nn.Linear(D, 3)
        self.register_buffer("columns", torch.arange(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "product":
            t = x.unsqueeze(-1) * self.w
        elif self.how == "rows":
            t = x.unsqueeze(-1) * F.embedding(self.columns, self.w)
        else:
            t = F.linear(x, torch.block_diag(*[c.unsqueeze(1) for c in self.w])).unflatten(1, (4, D))
        return self.o((t @ t.mT).softmax(-1).matmul(self.v(t)).mean(1))


@pytest.mark.parametrize("written", ["product", "rows"])
def test_vectors_of_columns_are_weights(written: str) -> None:
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    product, linear = (lrp_fx.convert(Columns(how).double().eval())(x, target=1) for how in (written, "linear"))
    assert not product.position
    torch.testing.assert_close(product.content["x"], linear.content["x"], rtol=0, atol=1e-12)


class Bounded(Small):
    """Its lookups write their rows, scaled, back into the table."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embed, self.tied = nn.Embedding(V, D, max_norm=0.5), tied

    def forward(self, input_ids: Tensor) -> Tensor:
        x = torch.tanh(self.embed(input_ids) + self.embed(input_ids.flip(1))).mean(1)
        return x @ self.embed.weight.T if self.tied else self.head(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("rules", ["gradient", "attnlrp", "pa-lrp", "pa-lrp-path"])
def test_a_table_that_lookups_scale_is_one_that_was_scaled_before(rules: str) -> None:
    model = ready(Bounded())
    scaled = copy.deepcopy(model)
    scaled(torch.arange(V)[None])  # writes all rows
    scaled.embed.max_norm = None  # type: ignore[union-attr]
    found, expected = (lrp_fx.convert(m, rules=rules)(ids(), target=0) for m in (model, scaled))
    assert torch.allclose(found.score, expected.score, rtol=1e-12)
    assert torch.allclose(found.content["input_ids"], expected.content["input_ids"], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("rules", ["gradient", "pa-lrp"])
def test_a_table_that_is_written_into_and_read_elsewhere_is_refused(rules: str) -> None:
    with pytest.raises(lrp_fx.UnsupportedOperatorError, match=r"writes into its own table(?s:.*)next: scale the table"):
        lrp_fx.convert(ready(Bounded(tied=True)), rules=rules)(ids(), target=0)
