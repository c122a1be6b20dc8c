"""The rule families: one file each, found by being here.

Every module in this folder is imported and registers its rules with `lrp_fx.rule.register`; to add a family, add a
file. The folder is installed as ``lrp_fx.rules``.
"""

from __future__ import annotations

import importlib
import pkgutil

from lrp_fx.rule import registry

if __name__ != "lrp_fx.rules":
    raise ImportError("import lrp_fx.rules, not rules: the folder is installed as lrp_fx.rules")

with registry.together():  # presets name rules of all files, whatever the order of the files
    for _module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{_module}")
