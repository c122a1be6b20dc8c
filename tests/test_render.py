"""Pictures: every kind of input is drawn, numbers and names survive, nothing is loaded from elsewhere."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import lrp_fx
from lrp_fx.render import page
from lrp_fx.render.data import colour, ink
from lrp_fx.render.drawings import png
from lrp_fx.report.view import examples, picture, token_names


class Text(nn.Module):
    """Masked mean of tokens with learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place, self.head = nn.Embedding(9, 8), nn.Parameter(torch.randn(16, 8)), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = torch.tanh(self.embed(input_ids) + self.place[: input_ids.shape[1]])
        weights = attention_mask.to(x.dtype).unsqueeze(-1)
        return self.head((x * weights).sum(1))


class Image(nn.Module):
    """Patches of 4 x 4 with a leading token and learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token, self.place, self.head = (
            nn.Conv2d(3, 8, 4, 4),
            nn.Parameter(torch.randn(1, 1, 8)),
            nn.Parameter(torch.randn(1, 13, 8)),
            nn.Linear(8, 3),
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patch(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.head(torch.tanh(x).mean(1))


class Wave(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.filter, self.head = nn.Conv1d(1, 4, 5), nn.Linear(4, 2)

    def forward(self, input_values: Tensor) -> Tensor:
        return self.head(torch.relu(self.filter(input_values.unsqueeze(1))).mean(2))


class Two(nn.Module):
    """Two texts of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        return self.head(
            torch.tanh(self.embed(input_ids)).mean(1) + torch.sigmoid(self.embed(decoder_input_ids)).mean(1)
        )


VOCABULARY = ["[PAD]", "<b>", "a&b", '"q"', " word", "ü", "x", "y", "z"]


@pytest.fixture(scope="module")
def text() -> lrp_fx.Relevance:
    torch.manual_seed(0)
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [0, 0, 5, 4, 4, 8]])
    return lrp_fx.convert(Text().eval())(input_ids=ids, attention_mask=(ids != 0).long())


@pytest.fixture(scope="module")
def image() -> lrp_fx.Relevance:
    torch.manual_seed(0)
    return lrp_fx.convert(Image().eval())(pixel_values=torch.randn(2, 3, 12, 16))


@pytest.fixture(scope="module")
def wave() -> lrp_fx.Relevance:
    torch.manual_seed(0)
    return lrp_fx.convert(Wave().eval())(input_values=torch.randn(1, 300))


@pytest.fixture(scope="module")
def two() -> lrp_fx.Relevance:
    torch.manual_seed(0)
    return lrp_fx.convert(Two().eval())(
        input_ids=torch.tensor([[1, 2, 3, 4, 5]]), decoder_input_ids=torch.tensor([[6, 7, 8]])
    )


class Page(HTMLParser):
    """Collects text and attributes, and that every tag is closed."""

    VOID = ("meta", "img", "rect", "polyline")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.text, self.links, self.open, self.tags = "", [], [], []  # type: ignore[var-annotated]
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def printed(relevance: lrp_fx.Relevance, *, colours: bool = False, tokenizer: object = None) -> str:
    out = io.StringIO()
    relevance.show(
        tokenizer, Console(file=out, width=120, force_terminal=colours, color_system="truecolor" if colours else None)
    )
    return out.getvalue()


@pytest.mark.parametrize("kind", ["text", "image", "wave", "two"])
def test_pages_are_well_formed_and_self_contained(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    relevance = request.getfixturevalue(kind)
    source = relevance.to_html(tmp_path / "page.html", VOCABULARY)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == source
    page = Page(source)
    assert not page.open
    assert all(link.startswith("data:") for link in page.links)
    assert "script" not in page.tags and "url(" not in source and "http" not in source
    assert "Ledger" in page.text and f"{float(relevance.score[0]):+.6g}" in page.text
    for name in relevance.ledger.sinks:
        assert f"sink {name}" in page.text


def test_tokens_are_escaped_and_legible(text: lrp_fx.Relevance) -> None:
    source = text.to_html(None, VOCABULARY)
    assert "<b>" not in re.sub(r"<b>(token|total|content|position|pa-lrp|Predicted|predicted class|[+-])", "", source)
    assert all(escaped in source for escaped in ("&lt;b&gt;", "a&amp;b", "&quot;q&quot;", "ü"))


def test_padded_tokens_are_left_out(text: lrp_fx.Relevance) -> None:
    first, second = examples(text, VOCABULARY)
    assert first.tokens[0].index == (0, 1, 2, 3, 4, 5)
    assert second.tokens[0].index == (2, 3, 4, 5)
    assert "[PAD]" not in text.to_html(None, VOCABULARY) + printed(text, tokenizer=VOCABULARY)


def test_rows_add_up_to_the_ledger(text: lrp_fx.Relevance) -> None:
    for view in examples(text):
        tokens = view.tokens[0]
        assert tokens.content.sum() == pytest.approx(float(text.ledger.leaves["content"][view.number]), abs=1e-5)
        assert tokens.position.sum() == pytest.approx(float(text.ledger.leaves["position"][view.number]), abs=1e-5)
        assert tokens.total.sum() == pytest.approx(float(text.per_token()[view.number].sum()), abs=1e-5)  # type: ignore[call-overload,index]
        assert sum(amount for *_, amount, _ in view.bookings.rows) == pytest.approx(view.bookings.score, abs=1e-4)


def test_images_have_heat_and_positions_by_patch(image: lrp_fx.Relevance) -> None:
    raster = examples(image)[1].rasters[0]
    assert raster.heat.shape == (12, 16) and raster.image.shape == (12, 16, 3)
    assert np.allclose(raster.heat, image.heatmap()[1].numpy())
    assert raster.position is not None and raster.position.shape == (3, 4) and raster.prefix == 1
    assert image.to_html().count("data:image/png;base64,") == 8


def test_every_token_input_is_drawn(two: lrp_fx.Relevance) -> None:
    assert [t.name for t in examples(two)[0].tokens] == ["input_ids", "decoder_input_ids"]
    assert "decoder_input_ids" in printed(two)


def test_terminal_without_and_with_colours(
    text: lrp_fx.Relevance, image: lrp_fx.Relevance, wave: lrp_fx.Relevance
) -> None:
    plain = printed(text, tokenizer=VOCABULARY)
    assert "\x1b[" not in plain and "content" in plain and "cancellation" in plain and "example 1" in plain
    assert "\x1b[48;2;" in printed(text, colours=True) or ";48;2;" in printed(text, colours=True)
    assert "▀" in printed(image, colours=True) and "▀" not in printed(image)
    assert "input_values" in printed(wave)


def test_markup_in_tokens_is_not_interpreted(text: lrp_fx.Relevance) -> None:
    assert "[red]no" in printed(text, tokenizer=lambda i: "[red]no")


@pytest.mark.parametrize("kind", ["text", "image", "wave", "two"])
def test_figures_draw(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    request.getfixturevalue(kind).plot(VOCABULARY).savefig(tmp_path / "figure.png", dpi=40)
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_notebooks_get_a_fragment(text: lrp_fx.Relevance) -> None:
    assert text._repr_html_() == page.fragment(picture(text, None, 64))
    assert "<html" not in text._repr_html_()
    assert all(
        line.startswith((".lrp", "<style>", "</style>", "@media"))
        for line in text._repr_html_().split("</style>")[0].splitlines()
        if "{" in line
    )


@pytest.mark.parametrize("x", [-1.0, -0.5, -0.1, 0.0, 0.1, 0.5, 1.0, float("nan")])
def test_ink_is_legible_on_every_colour(x: float) -> None:
    """Contrast of at least 4.5 to 1 (WCAG AA)."""

    def luminance(rgb: tuple[int, ...]) -> float:
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    background = luminance(colour(x))
    foreground = 1.0 if ink(colour(x)) == "#ffffff" else 0.0
    assert (max(background, foreground) + 0.05) / (min(background, foreground) + 0.05) >= 4.5


def test_png_is_read_back(tmp_path: Path) -> None:
    import matplotlib.image

    pixels = np.random.default_rng(0).random((5, 7, 3))
    (tmp_path / "x.png").write_bytes(png(pixels))
    assert np.allclose(matplotlib.image.imread(tmp_path / "x.png")[..., :3], pixels, atol=1 / 254)


def test_token_names_of_every_source() -> None:
    class Hub:
        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return ["▁Once", "Ġupon", "<0x0A>"][: len(ids)]

    assert token_names([1, 2, 3], Hub()) == [" Once", " upon", "⏎"]
    assert token_names([1, 2], None) == ["1", "2"]
    assert token_names([1, 99], ["a", "b"]) == ["b", "99"]
    assert token_names([5], {5: "five"}) == ["five"]
    assert token_names([5], lambda i: f"t{i}") == ["t5"]
