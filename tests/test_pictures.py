"""Pictures of more than one kind of input: patches in one list among words, sound, texts beside an image, films.

Small models of the test's own; pages are opened in a browser where one is installed (`tests/test_browser.py`).
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import lrp_fx
from lrp_fx.report.lists import Frame, pixels
from lrp_fx.report.view import examples

GRID, SIDE, IMAGE = (4, 6), 2, 7  # patches of an image, pixels of a patch, the token that an image stands in place of


class Reader(nn.Module):
    """Words and images: patches of all images in one list, in blocks of 2 x 2, rotated by row and column."""

    def __init__(self, merge: int = 2) -> None:
        super().__init__()
        self.merge = merge
        self.words, self.patch = nn.Embedding(9, 8), nn.Linear(3 * SIDE * SIDE, 8)
        self.join, self.head = nn.Linear(8 * merge * merge, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, pixel_values: Tensor, sizes: Tensor) -> Tensor:
        places = torch.cat([self.places(h, w) for _, h, w in sizes.tolist()])
        angle = (places.float() / 10).sum(1, keepdim=True)
        x = self.patch(pixel_values)
        x = x * angle.cos() + torch.cat([-x[:, 4:], x[:, :4]], 1) * angle.sin()
        x = self.join(torch.tanh(x).view(-1, 8 * self.merge**2))
        words = self.words(input_ids)
        words = words.masked_scatter((input_ids == IMAGE)[..., None], x)
        return self.head(torch.tanh(words).sum(1))

    def places(self, h: int, w: int) -> Tensor:
        m = self.merge
        cells = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1)
        return cells.view(h // m, m, w // m, m, 2).transpose(1, 2).reshape(-1, 2)


class Sound(nn.Module):
    """Frequencies by time, read by a convolution over time."""

    def __init__(self) -> None:
        super().__init__()
        self.filter, self.head = nn.Conv1d(5, 4, 3), nn.Linear(4, 2)

    def forward(self, input_features: Tensor) -> Tensor:
        return self.head(torch.relu(self.filter(input_features)).mean(2))


class Features(nn.Module):
    """The same with time first."""

    def __init__(self) -> None:
        super().__init__()
        self.sound = Sound()

    def forward(self, input_features: Tensor) -> Tensor:
        return self.sound(input_features.transpose(1, 2))


class Compared(nn.Module):
    """One image and several texts: a score for each pair."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.pixels, self.rows = nn.Embedding(9, 4), nn.Linear(3 * 16, 4), nn.Parameter(torch.randn(5, 4))

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        texts = torch.tanh(self.words(input_ids) + self.rows[: input_ids.shape[1]]).mean(1)
        return torch.tanh(self.pixels(pixel_values.flatten(1))) @ texts.T


class Film(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pixels, self.head = nn.Linear(3 * 16, 4), nn.Linear(4, 2)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(torch.tanh(self.pixels(frames.flatten(2))).mean(1))


def patches(image: Tensor, merge: int) -> Tensor:
    """(3, H, W) as a list of patches in blocks of merge x merge."""
    h, w = GRID
    cells = image.view(3, h // merge, merge, SIDE, w // merge, merge, SIDE)
    return cells.permute(1, 4, 2, 5, 0, 3, 6).reshape(h * w, -1)


def pictures(count: int, size: int = 8) -> Tensor:
    """Smooth ones, as photographs are."""
    torch.manual_seed(1)
    coarse = torch.randn(count, 3, 3, 3)
    return nn.functional.interpolate(coarse, (size, size * 3 // 2), mode="bilinear", align_corners=True)


@pytest.mark.filterwarnings("ignore:.*traced for this very call")
@pytest.mark.parametrize(("merge", "count"), [(2, 1), (1, 1), (2, 2)])
def test_patches_in_one_list_are_laid_back_among_the_words(merge: int, count: int) -> None:
    torch.manual_seed(0)
    images, each = pictures(count), GRID[0] * GRID[1] // merge**2
    ids = [1, *(i for k in range(count) for i in (*[IMAGE] * each, 2 + k)), 4]
    given = {"input_ids": torch.tensor([ids]), "pixel_values": torch.cat([patches(i, merge) for i in images])}
    model = Reader(merge).eval()
    relevance = lrp_fx.convert(model)(**given, sizes=torch.tensor([(1, *GRID)] * count), target=1)
    content = relevance.content["pixel_values"]
    laid = relevance.heatmap("pixel_values")
    assert laid.shape == (count, *GRID) and relevance.patches("pixel_values").shape == laid.shape
    assert float(laid.sum()) == pytest.approx(float(content.sum()), rel=1e-5)
    (view,) = examples(relevance)
    assert len(view.rasters) == count
    for k, raster in enumerate(view.rasters):
        expected = (images[k] - images[k].min()) / (images[k].max() - images[k].min())
        assert np.allclose(raster.image, expected.permute(1, 2, 0).numpy(), atol=1e-6)  # every pixel where it was
        assert np.allclose(raster.heat, laid[k].numpy(), atol=1e-7)
    (words,) = view.tokens
    assert len(words.text) == 2 + 2 * count and len(words.stands_for) == count
    assert words.content.sum() == pytest.approx(float(relevance.ledger.leaves["content"][0]), rel=1e-4)
    for column, raster in zip(words.stands_for, view.rasters, strict=True):
        assert f"×{each}" in words.text[column]
        assert words.content[column] == pytest.approx(raster.heat.sum(), rel=1e-5)
    page = relevance.to_html()
    assert all(f"{raster.heat.sum():+.4g}" in page for raster in view.rasters)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pixels_of_a_patch_are_put_in_their_order(frames: int, channels_last: bool) -> None:
    """A still image is given twice where a model reads two frames at once; channels stand first or last in a patch."""
    (image,) = pictures(1, 16).double()
    cells = image.view(3, 4, 4, 6, 4).permute(1, 3, 0, 2, 4)  # (4, 6, channels, 4, 4)
    cells = torch.stack([cells] * frames, 3 if not channels_last else 2)
    cells = cells.movedim(-3, -1) if channels_last else cells
    laid = pixels(cells.reshape(24, -1).numpy(), Frame(torch.arange(24).view(4, 6)))
    assert np.allclose(laid, image.permute(1, 2, 0).numpy())


def test_tokens_that_are_repeated_but_read_are_not_folded() -> None:
    torch.manual_seed(0)
    model = Compared().eval()
    relevance = lrp_fx.convert(model)(pixel_values=torch.randn(1, 3, 4, 4), input_ids=torch.tensor([[1, 2, 2, 2]]))
    assert len(examples(relevance)[0].tokens[0].text) == 4


@pytest.mark.parametrize(("model", "axis"), [(Sound, 2), (Features, 1)])
def test_sound_is_drawn_over_time_and_over_frequency(model: type[nn.Module], axis: int) -> None:
    torch.manual_seed(0)
    sound = torch.randn(2, 5, 11) if axis == 2 else torch.randn(2, 11, 5)
    relevance = lrp_fx.convert(model().eval())(input_features=sound)
    content = relevance.content["input_features"].double()
    (raster,) = examples(relevance)[1].rasters
    assert raster.axes == ("frequency", "time") and raster.heat.shape == (5, 11)
    (along, over_time), (upwards, over_frequency) = raster.margins
    assert (along, upwards) == ("time", "frequency")
    assert np.allclose(over_time, content[1].sum(axis % 2).numpy())
    assert np.allclose(over_frequency, content[1].sum(axis - 1).numpy())
    assert torch.allclose(relevance.heatmap(), relevance.content["input_features"].sum(3 - axis))
    page, out = relevance.to_html(), io.StringIO()
    relevance.show(console=Console(file=out, width=100))
    for text in (page, out.getvalue()):
        assert "over time" in text and "over frequency" in text
    axes = [a for row in relevance.plot().subfigs for a in row.axes]
    assert {"time"} <= {a.get_xlabel() for a in axes} and {"frequency"} <= {a.get_ylabel() for a in axes}


def test_an_image_and_all_texts_that_it_is_compared_with_are_drawn() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    relevance = lrp_fx.convert(Compared().eval())(pixel_values=torch.randn(1, 3, 4, 4), input_ids=ids, target=1)
    (view,) = examples(relevance)
    assert [t.text for t in view.tokens] == [("1", "2", "3"), ("4", "5", "6")]
    assert [r.name for r in view.rasters] == ["pixel_values"]
    for row, tokens in enumerate(view.tokens):
        assert np.allclose(tokens.content, relevance.content["input_ids"][row].double().numpy())


def test_position_of_several_texts_is_refused_where_it_is_told_once() -> None:
    torch.manual_seed(0)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    relevance = lrp_fx.convert(Compared().eval())(pixel_values=torch.randn(1, 3, 4, 4), input_ids=ids, target=1)
    rows = relevance.per_token(position=None)
    assert isinstance(rows, Tensor) and rows.shape == (2, 3)
    if all(len(share) == 2 for site in relevance.position if (share := site.per_token()) is not None):
        pytest.fail("position is told by text: this test needs another model")
    with pytest.raises(lrp_fx.InputError, match="next: position=None"):
        relevance.per_token()


def test_every_frame_of_a_film_is_drawn_up_to_a_limit() -> None:
    torch.manual_seed(0)
    frames = torch.randn(2, 20, 3, 4, 4)
    relevance = lrp_fx.convert(Film().eval())(frames=frames)
    view = examples(relevance)[1]
    assert len(view.rasters) == 16 and view.rasters[3].name == "frames 4 of 20"
    heat = relevance.content["frames"].double()[1].sum(1)
    assert np.allclose(view.rasters[3].heat, heat[3].numpy())
    assert view.notes == [f"frames: 4 more pictures not drawn, content {float(heat[16:].sum()):+.4g}"]
    assert view.notes[0] in relevance.to_html()
    assert torch.allclose(relevance.heatmap(), relevance.content["frames"].sum(2))


def test_saved_graphs_know_their_axes(tmp_path: object) -> None:
    torch.manual_seed(0)
    explainer = lrp_fx.convert(Sound().eval())
    before = explainer(input_features=torch.randn(2, 5, 11))
    explainer.save(f"{tmp_path}/sound.lrp")
    after = lrp_fx.load(f"{tmp_path}/sound.lrp")(input_features=torch.randn(2, 5, 11))
    assert after.forms == before.forms and after.forms["input_features"].time == 2


def test_figures_are_shown_by_notebooks() -> None:
    torch.manual_seed(0)
    figure = lrp_fx.convert(Sound().eval())(input_features=torch.randn(1, 5, 11)).plot()
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in type(figure).__module__
