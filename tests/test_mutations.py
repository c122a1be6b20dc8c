"""Files: an interrupted save loses nothing, no file asks for more than it holds, and damage is noticed."""

from __future__ import annotations

import errno
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lrp_fx
from benchmarks.mutations import REFUSED, SAME, Subject, subject, trials
from testing.handmade import Small, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def explain() -> lrp_fx.Explainer:
    return lrp_fx.convert(ready(Small()), {"input_ids": ids()})


@pytest.fixture(scope="module")
def whole(explain: lrp_fx.Explainer, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    path: Path = tmp_path_factory.mktemp("files") / "graph.lrp"
    explain.save(path)
    return subject(path, {"input_ids": ids()})


def _full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _stopped(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["fsync", "replace", "writestr"])
@pytest.mark.parametrize(("failure", "raised"), [(_full, lrp_fx.InputError), (_stopped, KeyboardInterrupt)])
def test_a_save_that_fails_leaves_the_good_file(
    where: str,
    failure: Callable[..., None],
    raised: type[BaseException],
    explain: lrp_fx.Explainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explain.save(tmp_path / "graph.lrp")
    before = (tmp_path / "graph.lrp").read_bytes()
    owner = {"fsync": os, "replace": Path, "writestr": zipfile.ZipFile}[where]
    with monkeypatch.context() as patch:
        patch.setattr(owner, where, failure)
        with pytest.raises(raised, match="No space left" if raised is lrp_fx.InputError else ""):
            explain.save(tmp_path / "graph.lrp")
    assert (tmp_path / "graph.lrp").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["graph.lrp"], "nothing is left lying beside it"
    explain.save(tmp_path / "graph.lrp")
    assert (tmp_path / "graph.lrp").read_bytes() == before, "the same graph is the same file"


def test_places_that_cannot_be_written_to(
    explain: lrp_fx.Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, why in ((tmp_path / "none" / "graph.lrp", "No such file"), (tmp_path, "something that is no file")):
        with pytest.raises(lrp_fx.InputError, match=f"could not be written: .*{why}"):
            explain.save(path)
    kept = tmp_path / "graph.lrp"
    kept.write_text("kept")
    monkeypatch.setattr(os, "access", lambda place, right: False)  # the superuser may write anywhere
    with pytest.raises(lrp_fx.InputError, match="may not be written to"):
        explain.save(kept)
    assert kept.read_text() == "kept"


def test_a_link_stays_one_and_rights_stay(explain: lrp_fx.Explainer, tmp_path: Path) -> None:
    explain.save(tmp_path / "graph.lrp")
    (tmp_path / "graph.lrp").chmod(0o600)
    (tmp_path / "link.lrp").symlink_to(tmp_path / "graph.lrp")
    explain.save(tmp_path / "link.lrp")
    assert (tmp_path / "link.lrp").is_symlink()
    assert (tmp_path / "graph.lrp").stat().st_mode & 0o777 == 0o600


def _said(data: bytes, name: bytes, size: int) -> bytes:
    """The archive with another size of a part in its directory."""
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(name))
    return data[: at + 20] + struct.pack("<II", size, size) + data[at + 28 :]


@pytest.mark.parametrize("name", [b"manifest.json", b"weights.safetensors", b"SHA256SUMS"])
def test_sizes_are_checked_before_anything_is_read(name: bytes, whole: Subject, tmp_path: Path) -> None:
    (tmp_path / "huge.lrp").write_bytes(_said(whole.path.read_bytes(), name, 0xFFFFFFF0))
    with pytest.raises(lrp_fx.InputError, match=r"larger than all of it|Overlapped|checksum"):
        lrp_fx.load(tmp_path / "huge.lrp")


def test_a_compressed_part_is_not_unpacked(whole: Subject, tmp_path: Path) -> None:
    with zipfile.ZipFile(whole.path) as file, zipfile.ZipFile(tmp_path / "bomb.lrp", "w") as other:
        for name in file.namelist():
            zeros = b"\0" * (1 << 24) if name == "weights.safetensors" else b""
            other.writestr(name, zeros or file.read(name), zipfile.ZIP_DEFLATED if zeros else zipfile.ZIP_STORED)
    with pytest.raises(lrp_fx.InputError, match="is compressed"):
        lrp_fx.load(tmp_path / "bomb.lrp")


def test_a_weight_changed_in_a_sound_archive_is_noticed(whole: Subject, tmp_path: Path) -> None:
    """Archives have checksums of their own, but those are made anew by whoever packs them."""
    with zipfile.ZipFile(whole.path) as file, zipfile.ZipFile(tmp_path / "other.lrp", "w") as other:
        for name in file.namelist():
            part = bytearray(file.read(name))
            if name == "weights.safetensors":
                part[-3] ^= 1
            other.writestr(name, bytes(part))
    with pytest.raises(lrp_fx.InputError, match="its checksum is another"):
        lrp_fx.load(tmp_path / "other.lrp")


def test_damage_anywhere_is_refused_or_says_nothing(whole: Subject, tmp_path: Path) -> None:
    found = [(number, kind, result) for number, kind, result in trials([whole], 400, 1, tmp_path)]
    assert not [f for f in found if f[2] not in (REFUSED, SAME)]
    assert {result for _, _, result in found} == {REFUSED, SAME}
