"""Images laid out as third-party models lay them out: patches behind channels, padded cut-outs, windows by einsum."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def seeded(model: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return model().double().eval()


class PatchesBehindChannels(nn.Module):
    """A norm of patches (B, pixels * channels, rows, columns), written out, with a weight for each pixel of a patch."""

    def __init__(self, *, places: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(1, 12, 1, 1)), nn.Parameter(torch.randn(1, 12, 1, 1))
        self.map, self.head = nn.Conv2d(12, 5, 1), nn.Linear(5, 3)
        self.places = nn.Parameter(torch.randn(1, 12, 4, 4)) if places else None

    def forward(self, image: Tensor) -> Tensor:
        x = image.reshape(-1, 3, 4, 2, 4, 2).permute(0, 3, 5, 1, 2, 4).flatten(1, 3)
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt() * self.weight + self.bias
        x = x if self.places is None else x + self.places
        classes: Tensor = self.head(self.map(x).relu().mean((2, 3)))
        return classes


@pytest.mark.parametrize("places", [False, True])
def test_weights_of_the_pixels_of_a_patch_are_no_places(places: bool, quiet: None) -> None:
    found = lrp_fx.convert(seeded(partial(PatchesBehindChannels, places=places)))(IMAGES, target=1)
    assert [(site.kind, tuple(site.relevance.shape)) for site in found.position] == [
        ("absolute", (2, 12, 4, 4))
    ] * places
    assert ("position" in found.ledger.leaves) == places


class PaddedCuts(nn.Module):
    """Patches that overlap, cut out of a padded image; a learned row is added to each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(27, 6), nn.Linear(54, 7), nn.Linear(7, 3)
        self.places = nn.Parameter(torch.randn(4, 7))

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(nn.functional.unfold(image, 3, stride=2, padding=1).mT)
        x = x.mT.reshape(len(x), 6, 4, 4)
        x = self.second(nn.functional.unfold(x, 3, stride=2, padding=1).mT) + self.places
        classes: Tensor = self.head(x.relu().mean(1))
        return classes


def test_rows_added_to_padded_cuts_are_places(quiet: None) -> None:
    model = seeded(PaddedCuts)
    found = lrp_fx.convert(model, conserve="site")(IMAGES, target=1)
    assert [(site.kind, tuple(site.relevance.shape)) for site in found.position] == [("absolute", (2, 4, 7))]
    slopes = lrp_fx.convert(model, rules="gradient")(IMAGES, target=1).content["image"]
    image = IMAGES.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(image)[:, 1].sum(), image)
    torch.testing.assert_close(slopes, slope * IMAGES, rtol=0, atol=1e-12)


class Windows(nn.Module):
    """Attention in windows of two by two pixels, a learned bias for each pair; ``einsum`` merges heads with windows."""

    def __init__(self, *, einsum: bool) -> None:
        super().__init__()
        self.einsum, self.pairs = einsum, nn.Parameter(torch.randn(2, 4, 4))
        self.first, self.maps, self.head = nn.Linear(3, 8), nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image.permute(0, 2, 3, 1))
        for _ in range(2):
            rows = x.reshape(-1, 4, 2, 4, 2, 8).transpose(2, 3).reshape(-1, 4, 8)
            q, k, v = (z.reshape(-1, 4, 2, 4).transpose(1, 2) for z in self.maps(rows).chunk(3, -1))
            scores = torch.einsum("bhid,bhjd->bhij", q, k) if self.einsum else q @ k.mT
            y = ((scores + self.pairs).softmax(-1) @ v).transpose(1, 2).reshape(-1, 4, 4, 2, 2, 8)
            x = x + y.transpose(2, 3).reshape(x.shape)
        classes: Tensor = self.head(x.mean((1, 2)))
        return classes


def test_windows_are_put_back_however_scores_are_multiplied(quiet: None) -> None:
    one, other = (lrp_fx.convert(seeded(partial(Windows, einsum=e)))(IMAGES, target=1) for e in (False, True))
    assert len(one.position) == len(other.position) == 2
    for mine, its in zip(one.position, other.position, strict=True):
        assert mine.windows == its.windows and mine.windows is not None and len(mine.windows.tokens) == 16
        torch.testing.assert_close(mine.per_token(), its.per_token(), rtol=0, atol=1e-12)
    torch.testing.assert_close(one.patches(), other.patches(), rtol=0, atol=1e-12)
