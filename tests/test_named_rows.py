"""Arguments with one entry for each example, and forwards that register hooks for the time of one call."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

IDS = torch.tensor([[1, 2, 3, 7, 5], [4, 4, 5, 6, 1]])


class Named(nn.Module):
    """A factor for each example, by name, which a hook applies: it stays where the call fails inside."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.inner, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.factors = nn.ParameterDict({name: torch.randn(8) for name in "ab"})

    def forward(self, ids: Tensor, names: list[str] | None = None) -> Tensor:
        if names is None:
            return self._run(ids)

        def scaled(module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
            if len(names) != len(given[0]):
                raise ValueError("as many names as examples")
            return (given[0] * torch.stack([self.factors[n] for n in names])[:, None],)

        handle = self.inner.register_forward_pre_hook(scaled)
        result = self._run(ids)
        handle.remove()
        return result

    def _run(self, ids: Tensor) -> Tensor:
        return self.head(self.inner(self.words(ids)).tanh().mean(1))  # type: ignore[no-any-return]


def _check(model: Named, explainer: lrp_fx.Explainer, ids: Tensor, names: list[str] | None) -> None:
    given = {} if names is None else {"names": names}
    found = explainer(ids=ids, target=1, **given)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    torch.testing.assert_close(found.score, model(ids, names)[:, 1].detach())
    for row in range(len(ids)):
        alone = lrp_fx.convert(model)(
            ids=ids[row : row + 1], target=1, **{n: v[row : row + 1] for n, v in given.items()}
        )
        torch.testing.assert_close(found.content["ids"][row], alone.content["ids"][0])


def test_names_of_examples_are_those_of_the_batch() -> None:
    model = Named().double().eval()
    explainer = lrp_fx.convert(model)
    _check(model, explainer, IDS, ["a", "b"])
    _check(model, explainer, IDS[:1], ["a"])
    _check(model, explainer, IDS, ["b", "b"])
    _check(model, explainer, torch.cat([IDS, IDS[:1]])[:, :4], ["b", "a", "b"])
    _check(model, explainer, IDS[:1], None)


def test_hooks_of_a_call_that_fails_do_not_stay() -> None:
    model = Named().double().eval()
    kept = model.inner.register_forward_pre_hook(lambda module, given: None)
    with pytest.raises(lrp_fx.InputError, match="as many names"):
        lrp_fx.convert(model)(ids=IDS, names=["a"], target=1)
    assert list(model.inner._forward_pre_hooks) == [kept.id]
    kept.remove()
    assert not model.inner._forward_pre_hooks
