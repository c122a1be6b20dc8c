"""Shared by all tests: one thread, no network, reproducible examples, the checkout importable in every import mode."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

_root = str(Path(__file__).parents[1])
if _root not in sys.path:
    sys.path.insert(0, _root)

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched, and nothing waits for a network
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
    """Specs are checked between passes, and a fault of our own is raised where a user would be warned of it. Tests meet
    more kinds of operations than the process of a user: more of their traces are kept, and what may be let go is looked
    for less often among so many.
    """
    from lrp_fx.ir import traces
    from lrp_fx.ir.passes import checked
    from lrp_fx.runtime import collection

    traces.KEPT = 4096
    collection._Unseen.limit = collection._LEAST = 6_000_000
    gc.set_threshold(700, 10, 100)
    with checked():
        yield


@pytest.fixture(autouse=True)
def _alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test works with what another has captured or traced while a part of the compiler was replaced."""
    from lrp_fx.ir import traces
    from lrp_fx.runtime import captures

    with ExitStack() as stack:
        if "monkeypatch" in request.fixturenames:
            stack.enter_context(traces.apart())
            stack.enter_context(captures.apart())
        yield


#: What most tests without an architecture of their own read; its other tests come right before them.
_COMMON = ("vit", "swin", "t5", "bert", "llama")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that read shared conversions come first, by architecture: then one process makes each of them, and makes it
    once (other processes take tests from the end).
    """
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[bool, int, str]:
    from testing.architectures import BY_NAME

    if not hasattr(getattr(item, "module", None), "converted"):
        return (True, 0, "")
    name = item.callspec.params.get("name") if hasattr(item, "callspec") else None
    if name not in BY_NAME:
        return (False, len(_COMMON) + 1, "")
    return (False, _COMMON.index(name) + 1 if name in _COMMON else 0, name)
