"""Lock: that a share of a run is written by one process at a time.

A file in the folder says whose it is, and the operating system holds it for as long as the process lives: after
kill -9 it is free. Where a file system knows no locks, the process that the file names is looked for.

requires  a folder that can be written
ensures   two runs that would write the same shard are never at it at once; shares that have no shard in common are
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrp_fx.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NAME = ".lock-{}-of-{}"
#: For so long another process may only have been looking whether a lock is held.
_PATIENCE, _STEP = 0.5, 0.02


@contextlib.contextmanager
def locked(folder: Path, share: tuple[int, int]) -> Iterator[None]:
    """Hold a share of the folder's run.

    Raises `InputError` where a process is at work that writes some of the same shards.
    """
    path = folder / _NAME.format(*share)
    file = _taken(path)
    try:
        _check_others(folder, path, share)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(file)


def others_at_work(folder: Path, share: tuple[int, int]) -> bool:
    """Does a living process hold another share of the folder's run?"""
    own = folder / _NAME.format(*share)
    return any(path != own and _is_held(path) for path in folder.glob(_NAME.format("*", "*")))


def _taken(path: Path) -> int:
    """The open lock file, held; raises `InputError` where another process holds it."""
    until = time.monotonic() + _PATIENCE
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        held = _hold(file)
        if held is None:
            held = not _names_another(path)
        if held and _is_there(path, file):  # and was not taken away between the two
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(_self()).encode(), 0)
            return file
        os.close(file)
        if not held and time.monotonic() > until:
            raise _refusal(path)
        time.sleep(_STEP)


def _check_others(folder: Path, own: Path, share: tuple[int, int]) -> None:
    for path in sorted(folder.glob(_NAME.format("*", "*"))):
        other = _share_of(path)
        if path != own and other is not None and _overlap(share, other) and _is_held(path):
            raise _refusal(path)


def _share_of(path: Path) -> tuple[int, int] | None:
    parts = path.name.split("-")
    found = [int(part) for part in parts if part.isdecimal()]
    return (found[0], found[1]) if len(found) == 2 and found[1] > 0 else None


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Is there a shard of both? Every a[1]-th from a[0] on, and every b[1]-th from b[0] on."""
    return (a[0] - b[0]) % math.gcd(a[1], b[1]) == 0


def _hold(file: int) -> bool | None:
    """Have the system hold an open file for this process: did it? None where it cannot."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def _is_held(path: Path) -> bool:
    """Does a living process hold this file?"""
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        held = _hold(file)
        return _names_another(path) if held is None else not held
    finally:
        os.close(file)


def _is_there(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except OSError:
        return False


# ------------------------------------------------------------------------------------------------ by its number
def _self() -> dict[str, Any]:
    return {"process": os.getpid(), "machine": socket.gethostname(), "begun": _begun(os.getpid())}


def _named(path: Path) -> dict[str, Any]:
    """What the file says of who holds it; empty where it says nothing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _names_another(path: Path) -> bool:
    """Does it name a process of this machine that is alive, and no later one of the same number?"""
    found = _named(path)
    number = found.get("process")
    if not isinstance(number, int) or found.get("machine") != socket.gethostname() or os.name == "nt":
        return False  # (Windows has no way to ask that does not end the process)
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return bool(_begun(number) == found.get("begun"))


def _begun(number: int) -> str | None:
    """When a process was begun, as the system counts; None where it does not say."""
    try:
        return Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _refusal(path: Path) -> InputError:
    found = _named(path)
    who = f"process {found['process']} on {found['machine']}" if {"process", "machine"} <= found.keys() else "a process"
    return InputError(
        f"{path.parent} is being written by {who}, and two runs would write the same shards\n    next: wait until "
        "it has ended, give another folder, or share the run among processes, share=(rank, how many)"
    )
