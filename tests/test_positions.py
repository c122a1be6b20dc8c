"""Every way to inject position that is known of: found, described, laid out by token, and in books that close."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from testing.handmade import F, V, ids, ready
from testing.positions import KINDS, Kind
from testing.positions.small import Small, distance

TOLERANCE = 1e-10


def cases() -> list[Any]:
    return [
        pytest.param(kind, marks=[pytest.mark.slow] if kind.slow else [], id=f"{kind.name}-{kind.architecture}")
        for kind in KINDS
    ]


@pytest.mark.parametrize("kind", cases())
def test_position_is_found_and_accounted_for(kind: Kind) -> None:
    explainer, relevance = explain(kind)
    assert {(site.kind, site.variant) for site in relevance.position} == kind.expected
    assert len(relevance.learned) == kind.learned
    assert explainer.coverage["unexplained"] == {}
    check_books(relevance)
    check_rows(relevance)
    if not kind.learned and not any(value.is_floating_point() for value in kind.inputs().values()):
        assert all(site.owner() is not None for site in relevance.position), (
            "what a text's tokens received is credited to them"
        )


def explain(kind: Kind) -> tuple[lrp_fx.Explainer, lrp_fx.Relevance]:
    model = kind.build().double()
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in kind.inputs().items()}
    explainer = lrp_fx.convert(model, conserve="site", **kind.options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cancellation in random models
        return explainer, explainer(**inputs, target=kind.target)


def check_books(relevance: lrp_fx.Relevance) -> None:
    """Every example closes, at every depth, and what the sites say is what the ledger says."""
    ledger = relevance.ledger
    assert float(ledger.error.max()) <= TOLERANCE
    assert all(float(depth.error.max()) <= TOLERANCE for depth in ledger.depths)
    total = sum((site.total for site in relevance.position), torch.zeros_like(ledger.score))
    booked = ledger.leaves.get("position", torch.zeros_like(ledger.score))
    assert torch.allclose(total, booked, rtol=0, atol=TOLERANCE * float(ledger.magnitude.max()))


def check_rows(relevance: lrp_fx.Relevance) -> None:
    """Position that counts the tokens of a text is laid out as that text is."""
    for site in relevance.position:
        assert len(site.owners) == len(site.token_axes)
        for credit in ("key", "query"):
            owner = site.owner(credit)
            if owner is not None:
                rows = site.per_token(credit=credit)
                assert rows is not None
                text = relevance.inputs[owner].shape
                assert site.of_owner(rows, credit, text[1]).shape == text, "other rows may stand beside the text's"
                assert torch.allclose(
                    rows.sum(1), site.total, rtol=0, atol=TOLERANCE * float(relevance.ledger.magnitude.max())
                )


def windowed(folded: bool) -> Any:
    """A bias by distance and a mask of distant pairs, the mask added to the bias or to the scores."""

    def scores(model: Any, q: Tensor, k: Tensor) -> Tensor:
        bias = -0.3 * distance(q).abs()
        mask = torch.zeros_like(bias).masked_fill(distance(q).abs() > 4, -100.0)
        products = q @ k.transpose(-1, -2)
        return products + (bias + mask) if folded else (products + bias) + mask

    return scores


def test_a_mask_folded_into_a_bias_is_no_position() -> None:
    """Pairs without weight have no coefficient: whatever is added to hide them, relevance is that of the bias."""
    apart, folded = (
        explain(Kind("", "", lambda f=f: Small(scores=windowed(f)), "bias", "fixed"))[1] for f in (False, True)
    )
    assert [(site.kind, site.token_axes, site.owners) for site in folded.position] == [
        (site.kind, site.token_axes, site.owners) for site in apart.position
    ]
    for credit in ("key", "query"):
        assert torch.allclose(
            folded.per_token(content=False, credit=credit),
            apart.per_token(content=False, credit=credit),
            rtol=1e-9,
            atol=1e-14,
        )
    assert torch.allclose(folded.content["input_ids"], apart.content["input_ids"], rtol=1e-9, atol=1e-14)


def test_rows_of_a_table_know_their_example() -> None:
    """One product for each query, with all examples in its rows: a text is explained as it is by itself."""
    kind = next(kind for kind in KINDS if kind.name == "disentangled, a row per pair, by hand")
    explainer, together = explain(kind)
    for b, row in enumerate(kind.inputs()["input_ids"]):
        alone = explainer(input_ids=row[None])
        for here, there in zip(together.position, alone.position, strict=True):
            assert torch.allclose(here.relevance[b], there.relevance[0], rtol=1e-9, atol=1e-14)
            assert torch.allclose(here.pairs[b], there.pairs[0], rtol=1e-9, atol=1e-14)


class Weighed(nn.Module):
    """Tokens weighed against each other by numbers that differ by place and feature, and turned by an angle."""

    def __init__(self, how: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.how = how
        self.words, self.inner, self.head = nn.Embedding(V, F), nn.Linear(F, F), nn.Linear(F, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.inner(self.words(input_ids))
        places = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * torch.linspace(0.1, 1, F, dtype=x.dtype)
        return self.head((x + self.how(x, places)).mean(1))  # type: ignore[no-any-return]


def convolved(x: Tensor, places: Tensor) -> Tensor:
    n = x.shape[1]
    spectra = torch.fft.rfft(x, n=2 * n, dim=1) * torch.fft.rfft(torch.exp(-places), n=2 * n, dim=0)
    return torch.fft.irfft(spectra, n=2 * n, dim=1)[:, :n]


def turned_state(x: Tensor, places: Tensor) -> Tensor:
    decay = torch.exp(torch.complex(-places, 3 * places))
    return (decay * x.cumsum(1)).real


def turned_and_back(x: Tensor, places: Tensor) -> Tensor:
    """A linear recurrence with factors of modulus one."""
    steps = torch.exp(torch.complex(torch.zeros_like(places), places))
    return (steps * (steps.conj() * x).cumsum(1)).real


def turned_and_back_in_parts(x: Tensor, places: Tensor) -> Tensor:
    return places.cos() * (places.cos() * x).cumsum(1) + places.sin() * (places.sin() * x).cumsum(1)


def turned(x: Tensor, places: Tensor) -> Tensor:
    return x * places.cos() + torch.cat([-x[..., F // 2 :], x[..., : F // 2]], -1) * places.sin()


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        (convolved, "kernel"),
        (turned_state, "kernel"),
        (lambda x, places: torch.exp(-places) * x + (1 - torch.exp(-places)) * x.roll(1, 1), "kernel"),
        (turned_and_back, "kernel"),
        (turned_and_back_in_parts, "kernel"),
        (turned, "rotary"),
    ],
)
def test_a_kernel_is_no_rotation(how: Callable[[Tensor, Tensor], Tensor], kind: str) -> None:
    relevance = lrp_fx.convert(ready(Weighed(how)))(input_ids=ids(2), target=1)
    assert {site.kind for site in relevance.position} == {kind}
