"""Models in styles that no recogniser was written for, each with a twin: the same function written in another way."""

from __future__ import annotations

import importlib
import pkgutil

from testing.unseen.common import Case

#: By name; a new file with ``CASES`` is found by being here.
CASES: dict[str, Case] = {
    case.name: case
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__))
    if name != "common"
    for case in importlib.import_module(f"{__name__}.{name}").CASES
}
