"""The entry point: what is not there is said in one line, and a reader of a pipe that goes away is no error."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys

#: What the command line is made of, all of the extra ``cli``.
_NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command line."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f'lrp-fx needs {" and ".join(missing)}: pip install "lrp-fx[cli]"', file=sys.stderr)
        raise SystemExit(1)
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, lambda *_: os._exit(0))  # `| head` has seen enough
    from lrp_fx.cli.app import app

    try:
        app(prog_name="lrp-fx")
    finally:
        sys.stdout.flush()  # here, where a closed pipe is no error, and not when Python ends
