"""Container: the parts of a file, put in place whole or not at all, and read only if each is what was written.

A file is a zip of parts that are not compressed, and ``SHA256SUMS`` with the checksum of each (as ``sha256sum`` writes
them). It is written beside the place where it belongs and renamed when all of it is on the disk.

requires  a path, the bytes of each part
ensures   whatever interrupts writing, what was there before is whole; no more memory is asked for than the file has
          bytes; no part is given that differs by a bit
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from lrp_fx.errors import InputError

SUMS = "SHA256SUMS"
#: What reading an archive may run into.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    RuntimeError,
    OverflowError,
    MemoryError,
)
_PLAIN, _ENCRYPTED = 0o644 << 16, 0x1


# ------------------------------------------------------------------------------------------------ writing
def write_parts(path: str | Path, parts: Mapping[str, bytes]) -> None:
    """Write a file of these parts, which then takes the place of what was there.

    Raises `InputError` where it cannot be written (no folder, no right to, no room); what was there stays then.
    """
    place = Path(os.path.realpath(path))  # what a link leads to is replaced, and not the link
    beside = place.with_name(f".{secrets.token_hex(8)}.part")
    try:
        mode = _checked_place(place)
        with open(beside, "xb") as file:
            _write(file, parts)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            beside.chmod(mode)
        beside.replace(place)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{path} could not be written: {reason}\n    next: save to a folder that may be written to and has room; "
            "what was there before is as it was"
        ) from error
    finally:  # gone already if all went well
        with contextlib.suppress(OSError):
            beside.unlink()
    _settle(place.parent)


def _checked_place(place: Path) -> int | None:
    """The mode of the file that is there, None where there is none; raises OSError for what cannot be replaced."""
    if not place.exists():
        return None
    if not place.is_file():
        raise OSError(f"there is something that is no file: {place.name}")
    if not os.access(place, os.W_OK):
        raise OSError(f"{place.name} is there already, and may not be written to")
    return stat.S_IMODE(place.stat().st_mode)


def _write(file: IO[bytes], parts: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, part in {**parts, SUMS: _sums(parts)}.items():
            info = zipfile.ZipInfo(name)  # without the time: the same parts are the same file
            info.external_attr = _PLAIN
            archive.writestr(info, part)


def _sums(parts: Mapping[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(part).hexdigest()}  {name}\n" for name, part in parts.items()).encode()


def _settle(folder: Path) -> None:
    """The new name on the disk, too, where folders can be asked for that."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


# ------------------------------------------------------------------------------------------------ reading
class Parts:
    """The parts of a file that is open: nothing is read before it is asked for, and nothing given that is damaged."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive, self._size = archive, size

    def beginning(self, name: str, count: int) -> bytes:
        """The first bytes of a part, unchecked (to tell files of other versions, which may be compressed)."""
        if self._archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name} is compressed in an unknown way")
        with self._archive.open(name) as part:
            return part.read(count)

    def checksum(self) -> str:
        """Of the whole: that of the checksums of its parts."""
        return hashlib.sha256(self._archive.read(SUMS)).hexdigest()

    def read(self, names: Sequence[str]) -> list[bytes]:
        """All parts, each what was written. Raises ValueError for damage, before more is read than the file holds."""
        wanted = [*names, SUMS]
        infos = self._archive.infolist()
        if sorted(info.filename for info in infos) != sorted(wanted):
            raise ValueError(f"it holds other parts than {', '.join(wanted)}")
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
                raise ValueError(f"{info.filename} is compressed or encrypted")
        if sum(info.file_size for info in infos) > self._size:
            raise ValueError("its parts are said to be larger than all of it")
        found = {name: self._archive.read(name) for name in wanted}
        if found[SUMS] != _sums({name: found[name] for name in names}):
            raise ValueError("a part of it is not what was written: its checksum is another")
        return [found[name] for name in names]


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Parts]:
    """A file to read parts from. Raises `InputError` for what is none, or damaged."""
    place = Path(path)
    if not place.exists():
        raise InputError(f"no file {path}")
    try:
        if not place.is_file():  # reading a pipe might never end
            raise ValueError("it is no file but a folder, a pipe or a device")
        with zipfile.ZipFile(place) as archive:
            yield Parts(archive, place.stat().st_size)
    except _BROKEN as error:
        why = f"{type(error).__name__}: {error}"
        raise InputError(f"{path} is no relevance graph written by Explainer.save, or it is damaged ({why})") from error


def checksum(path: str | Path) -> str:
    """What tells a file from any that differs from it by a bit."""
    with opened(path) as parts:
        return parts.checksum()
