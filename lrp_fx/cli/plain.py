"""Plain: errors that name their cause become one red paragraph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer

from lrp_fx.cli.checks import Refusal


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Errors that name their cause become one red paragraph and exit code 1."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        from rich.console import Console
        from rich.markup import escape

        kind = "error" if isinstance(error, Refusal) else type(error).__name__
        if not isinstance(error, Refusal):
            from lrp_fx.errors import LrpError

            if not isinstance(error, LrpError):
                raise
        Console(stderr=True).print(f"[bold red]{kind}[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
