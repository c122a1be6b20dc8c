"""Pairs of tokens for a similarity: the sum is the similarity of the model's own embeddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

D, V = 6, 20


class Encoder(nn.Module):
    """Ids to an embedding for each token, with learned positions and biases."""

    def __init__(self, width: int = D) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.places = nn.Embedding(V, D), nn.Embedding(12, D)
        self.q, self.out = nn.Linear(D, D), nn.Linear(D, width)
        self.double().eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.table(input_ids) + self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        x = x + torch.softmax(self.q(x) @ x.mT, -1) @ x
        return self.out(x.relu())


X, Y = torch.tensor([[3, 7, 1]]), torch.tensor([[5, 3, 2]])


@pytest.fixture(scope="module")
def explainer() -> lrp_fx.Explainer:
    return lrp_fx.convert(Encoder(), dynamic=False)


@pytest.mark.parametrize("measure", ["dot", "cosine"])
def test_books_close(explainer: lrp_fx.Explainer, measure: str) -> None:
    found = lrp_fx.pairs(explainer, {"input_ids": X}, {"input_ids": Y}, measure=measure, at_once=4)
    f, g = (explainer.model(ids).mean(1)[0].detach() for ids in (X, Y))
    own = torch.dot(f, g) if measure == "dot" else torch.cosine_similarity(f, g, 0)
    assert found.similarity == pytest.approx(float(own), rel=1e-10)
    assert found.total == pytest.approx(found.similarity, rel=1e-9)
    assert found.matrix.shape == (3, 3) and len(found.x) == 3 and len(found.y) == 3
    assert "bias" in found.x_alone and ("bias", "bias") in found.beside
    torch.testing.assert_close(found.embeddings[0], f)
    first = found.top(1)[0]
    assert abs(first[2]) == float(found.matrix.abs().max()) and first[0] in found.x and first[1] in found.y
    assert "similar" not in repr(found) and measure in repr(found)


def test_a_pair_is_the_product_of_two_explanations(explainer: lrp_fx.Explainer) -> None:
    found = lrp_fx.pairs(explainer, {"input_ids": X}, {"input_ids": Y}, pool="last")
    each = [lambda out, d=d: out[:, -1, d] for d in range(D)]
    one, two = (explainer(input_ids=ids, targets=each) for ids in (X, Y))
    matrix = sum(torch.outer(a.tokens[0], b.tokens[0]) for a, b in zip(one, two, strict=True))
    torch.testing.assert_close(found.matrix, matrix)


@pytest.mark.slow
def test_two_graphs_serve_all_dimensions() -> None:
    explainer = lrp_fx.convert(Encoder(), dynamic=False)
    lrp_fx.pairs(explainer, {"input_ids": X[:, :2]}, {"input_ids": Y}, at_once=2)
    assert explainer.statistics.transposes == 2  # one for each length
    wide = lrp_fx.pairs(explainer, {"input_ids": X[:, :2]}, {"input_ids": Y}, at_once=3)
    assert explainer.statistics.transposes == 2
    assert wide.matrix.shape == (2, 3) and len(wide.x) == 2
    assert wide.total == pytest.approx(wide.similarity, rel=1e-9)


@pytest.mark.slow
def test_an_input_is_symmetric_with_itself_and_two_models_may_be_compared(explainer: lrp_fx.Explainer) -> None:
    alike = lrp_fx.pairs(explainer, {"input_ids": X}, {"input_ids": X}, measure="cosine")
    assert alike.similarity == pytest.approx(1.0)
    torch.testing.assert_close(alike.matrix, alike.matrix.T)
    torch.manual_seed(5)
    other = lrp_fx.convert(Encoder(), dynamic=False)
    both = lrp_fx.pairs(explainer, {"input_ids": X}, {"input_ids": Y}, other=other, pool="first")
    assert both.total == pytest.approx(both.similarity, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": "l2"}, "measure='l2'; there are dot, cosine"),
        ({"pool": "max"}, "pool='max'; there are mean, first, last, or a function"),
        ({"at_once": 0}, "at_once=0: give how many"),
        ({"other": nn.Identity()}, "takes explainers, got a Identity\n    next: lrp_fx.convert"),
        ({"y": {"input_ids": torch.cat([Y, Y])}}, "y is 2 examples.*\n    next: call it for each pair"),
        (
            {"x": {"input_ids": X, "attention_mask": torch.tensor([[1, 1, 0]])}},
            r"x is padded \(attention_mask\).*\n    next: cut it off",
        ),
    ],
)
def test_what_is_refused(explainer: lrp_fx.Explainer, options: dict[str, Any], message: str) -> None:
    given = {"x": {"input_ids": X}, "y": {"input_ids": Y}, **options}
    with pytest.raises(lrp_fx.InputError, match=message):
        lrp_fx.pairs(explainer, given.pop("x"), given.pop("y"), **given)


def test_embeddings_of_two_sizes_are_refused(explainer: lrp_fx.Explainer) -> None:
    other = lrp_fx.convert(Encoder(4), dynamic=False)
    with pytest.raises(lrp_fx.InputError, match="x has 6 dimensions, that of y 4\n    next: compare what is projected"):
        lrp_fx.pairs(explainer, {"input_ids": X}, {"input_ids": Y}, other=other)
