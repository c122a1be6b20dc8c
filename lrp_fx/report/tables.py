"""Tables: what it takes to make plain tables and numbers of a result."""

from __future__ import annotations

from typing import Any

from lrp_fx.errors import InputError


def pandas() -> Any:
    """The module, imported when it is asked for; raises `InputError` where it is not there."""
    try:
        import pandas as module
    except ImportError as error:
        raise InputError("to_frame() needs pandas\n    next: pip install pandas, or read to_dict()") from error
    return module
