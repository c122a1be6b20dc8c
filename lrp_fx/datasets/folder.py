"""Folder: what a run has written: a manifest, shards that are whole or not there, and at the end what they come to.

requires  a folder that is empty, or that a run of the same manifest was killed in
ensures   a shard is written beside its place and renamed when it is on the disk, so that no row is lost or there twice
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrp_fx.datasets.batches import Record
from lrp_fx.datasets.lock import locked, others_at_work
from lrp_fx.datasets.result import damaged_shard
from lrp_fx.datasets.rows import Window
from lrp_fx.datasets.table import as_table
from lrp_fx.errors import InputError, LrpError, needed

#: Readers of Parquet folders leave out what begins with these.
MANIFEST, DONE, _PART = "_manifest.json", "_done.json", "."
_KEY = b"lrp_fx"


@dataclass(frozen=True)
class Shard:
    """What a shard says of itself: its rows, those in error, and the `Window.digest` of what they were made of."""

    rows: int
    errors: int
    digest: str


@dataclass(frozen=True)
class Folder:
    """The folder of a run; ``manifest``: what its shards were made with."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def run(self) -> str:
        """The manifest in short, which every shard holds."""
        return hashlib.sha256(_text(self.manifest)).hexdigest()

    @contextlib.contextmanager
    def begun(self, resume: bool, share: tuple[int, int] = (0, 1)) -> Iterator[None]:
        """Make the folder, or go on with what is there, and hold this share of it meanwhile. A run that is refused
        before its first shard leaves no manifest that the next one would have to be like.

        Raises `InputError` where another run is there or at work, or something else, or nothing may be written.
        """
        new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            with self._locked(share):
                made = self._begin(resume)
                try:
                    yield
                except LrpError:
                    if made and not any(self.path.glob("part-*")) and not others_at_work(self.path, share):
                        (self.path / MANIFEST).unlink(missing_ok=True)
                    raise
        except LrpError:
            if new:
                with contextlib.suppress(OSError):  # it holds something
                    self.path.rmdir()
            raise

    @contextlib.contextmanager
    def _locked(self, share: tuple[int, int]) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(self.path, share))
            except OSError as error:
                raise self._unwritable(error) from error
            yield

    def _begin(self, resume: bool) -> bool:
        """Place the manifest, or compare with the one there: was there none?"""
        try:
            there = (self.path / MANIFEST).exists()
            if there and not resume:
                raise InputError(
                    f"{self.path} holds a run\n    next: resume=True goes on with it, or give another folder"
                )
            if not there:
                self._check_empty()
                _place(self.path / MANIFEST, _text(self.manifest), replace=False)
            self._check_same(self._read_manifest())
        except OSError as error:
            raise self._unwritable(error) from error
        return not there

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"{self.path} cannot be written: {error.strerror or error}")

    def _read_manifest(self) -> Mapping[str, Any]:
        place = self.path / MANIFEST
        try:
            found = json.loads(place.read_text(encoding="utf-8"))
        except ValueError as error:
            raise _damaged(place, str(error)) from error
        if not isinstance(found, dict):
            raise _damaged(place, f"a {type(found).__name__} in the place of a mapping")
        return found

    def _check_empty(self) -> None:
        other = [p.name for p in self.path.iterdir() if not p.name.startswith(_PART) and p.name != MANIFEST]
        if other:
            raise InputError(f"{self.path} is not empty ({other[0]}), and no run\n    next: give a folder of its own")

    def _check_same(self, found: Mapping[str, Any]) -> None:
        """Raise `InputError` where the run that is there was begun with something else."""
        was, now = dict(_flat(found)), dict(_flat(self.manifest))
        other = [name for name in {**was, **now} if was.get(name) != now.get(name)]
        if other:
            name = other[0]
            more = f" (and {', '.join(other[1:])})" if other[1:] else ""
            raise InputError(
                f"{self.path} holds a run with another {name}{more}: {was.get(name)!r} there, {now.get(name)!r} now\n"
                "    next: go on with what it was begun with, or give another folder"
            )

    def place(self, number: int) -> Path:
        """Where a shard stands."""
        return self.path / f"part-{number:06d}.parquet"

    def tidy(self, number: int) -> None:
        """Remove what a killed run left of a shard that it did not finish."""
        for part in self.path.glob(f"{_PART}{self.place(number).name}.*"):
            part.unlink(missing_ok=True)

    def shard(self, number: int) -> Shard | None:
        """What a shard that is there says; raises `InputError` where it is damaged, or of another run."""
        path = self.place(number)
        if not path.exists():
            return None
        try:
            said = json.loads(needed("pyarrow.parquet", "data").read_metadata(path).metadata[_KEY])
            found = Shard(int(said["rows"]), int(said["errors"]), str(said["digest"]))
            run = said["run"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise damaged_shard(path, error) from error
        if run != self.run:
            raise InputError(f"{path} is of another run\n    next: delete it, and run again")
        return found

    def has(self, window: Window) -> Shard | None:
        """The shard of these rows, None where it is not there; raises `InputError` where it is of other rows."""
        found = self.shard(window.number)
        if found is not None and found.digest != window.digest:
            first, last = window.rows[0].number, window.rows[-1].number
            raise InputError(
                f"{self.place(window.number)} was made of other rows than rows {first} to {last} of the data\n"
                "    next: go on with the data that the run was begun with, or give another folder"
            )
        return found

    def write(self, number: int, digest: str, records: Sequence[Record]) -> Shard:
        """Write a shard, whole or not at all."""
        arrow, parquet = needed("pyarrow", "data"), needed("pyarrow.parquet", "data")
        shard = Shard(len(records), sum(r.error is not None for r in records), digest)
        said = {"rows": shard.rows, "errors": shard.errors, "digest": digest, "run": self.run}
        table = as_table(records)
        sink = arrow.BufferOutputStream()
        parquet.write_table(table.replace_schema_metadata({_KEY: json.dumps(said)}), sink, compression="zstd")
        _place(self.place(number), sink.getvalue().to_pybytes(), replace=True)
        return shard

    def check_none_beyond(self, shards: int) -> None:
        """Raise `InputError` for a shard of rows that the data does not have (any more)."""
        beyond = [path.name for path in self.path.glob("part-*.parquet") if path.name >= self.place(shards).name]
        if beyond:
            raise InputError(
                f"{self.path} holds {min(beyond)}, and the data has rows for {shards} shards: the run was begun with "
                "more rows\n    next: go on with the data that it was begun with, or give another folder"
            )

    def finish(self, rows: int, shards: int) -> int | None:
        """Say that all is there, if it is: how many rows are in error; None where shards of others are to come.

        Raises `InputError` where there are shards beyond these.
        """
        self.check_none_beyond(shards)
        found = [self.shard(number) for number in range(shards)]
        if any(shard is None for shard in found):
            return None
        errors = sum(shard.errors for shard in found if shard is not None)
        _place(self.path / DONE, _text({"rows": rows, "errors": errors, "shards": shards}), replace=True)
        return errors


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged ({why})\n    next: put it back as it was, or give another folder")


def _text(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _flat(data: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _place(path: Path, content: bytes, *, replace: bool) -> None:
    """Write a file beside its place and put it there once it is on the disk; without ``replace`` only where none is."""
    beside = path.with_name(f"{_PART}{path.name}.{secrets.token_hex(6)}")
    try:
        with open(beside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            beside.replace(path)
        else:
            _link(beside, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def _link(beside: Path, path: Path) -> None:
    """Put a file in a place where none is. Where another process was first, its file is compared with ours."""
    try:
        os.link(beside, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        if not path.exists():
            beside.replace(path)
