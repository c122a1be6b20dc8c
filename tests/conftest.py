"""Shared by all tests: one thread, reproducible examples, the checkout importable under every import mode."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

_root = str(Path(__file__).parents[1])
if _root not in sys.path:
    sys.path.insert(0, _root)

torch.set_num_threads(1)
settings.register_profile(
    "lrp", deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lrp")


@pytest.fixture
def quiet() -> Iterator[None]:
    """No warnings: random weights cancel, and models that are traced for every call say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="session", autouse=True)
def _checked() -> Iterator[None]:
    """Specs are checked between passes, and a fault of our own is raised where a user would be warned of it."""
    from lrp_fx.ir.passes import checked

    with checked():
        yield
