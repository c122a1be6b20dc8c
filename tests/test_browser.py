"""Pages in a real browser, where one is installed: they fit a phone, are legible in dark surroundings, load nothing.

Without a browser `test_pages_are_built_to_fit` looks at the page's own text for what makes it so.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PHONE = 360
#: Reports to the page around it how wide the page is, and the colours of its background and its text.
_REPORT = """<script>
const seen = getComputedStyle(document.querySelector(".lrp"));
parent.postMessage([document.documentElement.scrollWidth, innerWidth, seen.backgroundColor, seen.color,
    [...document.images].every(i => i.complete && i.naturalWidth > 0)].join(";"), "*");
</script></body>"""
_AROUND = """<!DOCTYPE html><html><body style="margin:0"><iframe src="page.html" width="{width}" height="900"></iframe>
<script>onmessage = e => document.body.setAttribute("data-seen", e.data)</script></body></html>"""


class Everything(nn.Module):
    """Words with positions, an image by patches, sound, a waveform."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.rows = nn.Embedding(40, 8), nn.Parameter(torch.randn(40, 8))
        self.patch, self.grid = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(6, 8))
        self.filter, self.wave, self.head = nn.Conv1d(5, 8, 3), nn.Conv1d(1, 8, 5), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, pixel_values: Tensor, input_features: Tensor, input_values: Tensor) -> Tensor:
        words = torch.tanh(self.words(input_ids) + self.rows[: input_ids.shape[1]]).mean(1)
        image = torch.tanh(self.patch(pixel_values).flatten(2).mT + self.grid).mean(1)
        sound = torch.relu(self.filter(input_features)).mean(2) + torch.relu(self.wave(input_values[:, None])).mean(2)
        return self.head(words + image + sound)


@pytest.fixture(scope="module")
def page() -> str:
    torch.manual_seed(0)
    ids = torch.arange(36).view(1, 36)
    words = [f" word{i}" for i in range(39)]
    words[7] = " " + "unbreakably" * 6  # wider than a phone
    inputs = {"pixel_values": torch.randn(1, 3, 8, 12), "input_features": torch.randn(1, 5, 90)}
    relevance = lrp_fx.convert(Everything().eval())(input_ids=ids, input_values=torch.randn(1, 900), **inputs)
    return relevance.to_html(None, words)


def seen(page: str, folder: Path, width: int, *options: str) -> tuple[int, int, str, str, bool]:
    """(width of what is on the page, of the window, background, text, are all pictures drawn?) in the browser."""
    (folder / "page.html").write_text(page.replace("</body>", _REPORT), encoding="utf-8")
    (folder / "around.html").write_text(_AROUND.format(width=width), encoding="utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += [*options, "--virtual-time-budget=3000", "--dump-dom", (folder / "around.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    if found is None:
        pytest.skip(f"the browser does not run here: {done.stderr.strip()[-300:]}")
    wide, window, background, ink, drawn = found[1].split(";")
    return int(wide), int(window), background, ink, drawn == "true"


def contrast(first: str, second: str) -> float:
    """Of two colours ``rgb(r, g, b)`` (WCAG)."""

    def luminance(text: str) -> float:
        parts = [int(n) / 255 for n in re.findall(r"\d+", text)[:3]]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone_and_are_legible(page: str, tmp_path: Path, scheme: str) -> None:
    number = {"dark": 0, "light": 1}[scheme]
    wide, window, background, ink, drawn = seen(
        page, tmp_path, PHONE, f"--blink-settings=preferredColorScheme={number}"
    )
    assert wide <= window == PHONE
    assert drawn
    assert contrast(background, ink) >= 7
    assert (contrast(background, "rgb(0, 0, 0)") < 3) == (scheme == "dark")


def test_pages_are_built_to_fit(page: str) -> None:
    """What a browser would show, as far as the text of a page tells."""
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "prefers-color-scheme: dark" in page and "<script" not in page
    for width in re.findall(r"[^-]width[:=]\s*\"?(\d+)(?:px)?", page.replace("max-width: 480px", "")):
        assert int(width) < PHONE
    assert all("max-width: 100%" in rule for rule in re.findall(r"\.lrp\.lrp (?:img|figure) \{[^}]*\}", page))
    for name in ("input_ids", "pixel_values", "input_features", "input_values"):
        assert f"<h3>{name}" in page
    for number in re.findall(r'title="(?:total|content|position) ([+-][\d.e+-]+)"', page):
        assert f"{float(number):+.3g}"[:4] in page
