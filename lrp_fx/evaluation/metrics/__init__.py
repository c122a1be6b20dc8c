"""Metrics of explanations: one file per family, found by being here.

Every module in this folder is imported and registers its metrics with `lrp_fx.evaluation.metric.register`; to add a
metric, add a file (or a `Metric` to a file). There is nothing else to edit: `lrp_fx.evaluate` knows what is registered.
"""

from __future__ import annotations

import importlib
import pkgutil


def discover() -> None:
    """Import every module of this folder; modules imported before are left as they are."""
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}")
