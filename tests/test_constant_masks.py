"""Boolean constants as indices pick the same elements in every call, and are captured for all of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

KEEP, PAIRS = torch.tensor([True, False, True, True]), torch.ones(4, 4, dtype=torch.bool).triu()
Pick = Callable[["Picking", Tensor], Tensor]


class Picking(nn.Module):
    def __init__(self, pick: Pick) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pick, self.table, self.head = pick, nn.Embedding(9, 4), nn.Linear(4, 2)
        self.register_buffer("keep", KEEP.clone())
        self.register_buffer("pairs", PAIRS.clone())
        self.double().eval()

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.table(input_ids)
        return self.head(self.pick(self, x @ x.mT).mean(1))  # type: ignore[no-any-return]


def written(m: Picking, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, m.keep] = x[:, m.keep]
    return y


def scores_of_pairs(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return x[:, first, second][:, :4].unsqueeze(1)


#: (as it is written, the same by index).
PICKS: dict[str, tuple[Pick, Pick]] = {
    "buffer": (lambda m, x: x[:, m.keep], lambda m, x: x[:, [0, 2, 3]]),
    "made in forward": (lambda m, x: x[:, torch.tensor([True, False, True, True])], lambda m, x: x[:, [0, 2, 3]]),
    "computed": (lambda m, x: x[:, m.keep & ~m.pairs[1].logical_not()], lambda m, x: x[:, [2, 3]]),
    "of two axes": (
        lambda m, x: x[:, m.pairs][:, :4].unsqueeze(1),
        lambda m, x: scores_of_pairs(x, *torch.triu_indices(4, 4)),
    ),
    "indices of it": (lambda m, x: x[:, m.keep.nonzero()[:, 0]], lambda m, x: x[:, [0, 2, 3]]),
    "where": (lambda m, x: x[:, torch.where(m.keep)[0]], lambda m, x: x[:, [0, 2, 3]]),
    "written": (written, lambda m, x: x * KEEP[:, None]),
    "selected": (
        lambda m, x: torch.masked_select(x, m.keep[:, None]).reshape(2, 3, 4),
        lambda m, x: x[:, [0, 2, 3]],
    ),
}


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("name", PICKS)
def test_a_constant_mask_is_an_index(name: str, dynamic: bool) -> None:
    by_mask, by_index = PICKS[name]
    ids = torch.randint(0, 9, (2, 4), generator=torch.Generator().manual_seed(0))
    explainer = lrp_fx.convert(Picking(by_mask), dynamic=dynamic)
    got, expected = explainer(ids, target=1), lrp_fx.convert(Picking(by_index), dynamic=False)(ids, target=1)
    assert explainer.rewritten.program.method != "concrete"
    assert torch.allclose(got.tokens, expected.tokens, rtol=1e-12, atol=1e-14)


def test_other_lengths_are_refused_as_the_model_refuses_them() -> None:
    explainer = lrp_fx.convert(Picking(PICKS["buffer"][0]), dynamic=True)
    explainer(torch.zeros(2, 4, dtype=torch.long), target=0)
    explainer(torch.zeros(3, 4, dtype=torch.long), target=0)
    with pytest.raises(lrp_fx.InputError, match="the model's own forward fails"):
        explainer(torch.zeros(2, 5, dtype=torch.long), target=0)


def test_a_mask_of_values_is_right_for_its_call_only() -> None:
    explainer = lrp_fx.convert(Picking(lambda m, x: x[x.sum(-1) > -1e9].reshape(x.shape)), dynamic=False)
    with pytest.warns(UserWarning, match="this very call"):
        explainer(torch.zeros(2, 4, dtype=torch.long), target=0)
    assert explainer.rewritten.program.method == "concrete"
