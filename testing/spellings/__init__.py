"""One function, many ways to write it: each file lists the spellings of one family for one small model (`common`)."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

#: A file each; ``SPELLINGS``: its functions, ``host``: the model they are put into, ``SLOW``: names for the slow tests.
FAMILIES: dict[str, Any] = {
    name: importlib.import_module(f"{__name__}.{name}")
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name != "common"
}
