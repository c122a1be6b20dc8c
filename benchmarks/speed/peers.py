"""lxt as it has to be called to run beside others: its patches are process-wide and have no undo, here they are put on
and taken off.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


class LxtUnavailable(Exception):
    """Why lxt cannot explain a model here."""


class _Functions(dict[str, Any]):
    """lxt puts a plain dict where transformers has, since 5.0, a mapping with this method."""

    def get_interface(self, name: str, default: Any) -> Any:
        return self.get(name, default)


def _load_map(model_module: types.ModuleType) -> dict[Any, Callable[[Any], bool]]:
    """lxt's AttnLRP patches for the model's module (loaded alone: importing all of them needs other versions of
    transformers).
    """
    if importlib.util.find_spec("lxt") is None:
        raise LxtUnavailable("lxt is not installed")
    family = model_module.__name__.split(".")[-2]
    try:
        if "lxt.efficient.models" not in sys.modules:
            folder = importlib.util.find_spec("lxt")
            assert folder is not None and folder.submodule_search_locations is not None
            package = types.ModuleType("lxt.efficient.models")
            package.__path__ = [f"{next(iter(folder.submodule_search_locations))}/efficient/models"]
            package.get_default_map = lambda module: {}  # type: ignore[attr-defined]
            sys.modules["lxt.efficient.models"] = package
        return dict(importlib.import_module(f"lxt.efficient.models.{family}").attnLRP)
    except Exception as error:
        raise LxtUnavailable(
            f"lxt does not support it: {type(error).__name__}: {str(error).splitlines()[0][:80]}"
        ) from error


@contextlib.contextmanager
def lxt_patches(model: nn.Module) -> Iterator[None]:
    """AttnLRP by lxt inside the block: then gradient x input is its relevance."""
    module = importlib.import_module(type(model).__module__)
    patches = _load_map(module)
    before = [
        (target, name, getattr(target, name))
        for target in patches
        for name in ("forward", "eager_attention_forward", "ALL_ATTENTION_FUNCTIONS")
        if hasattr(target, name)
    ]
    try:
        for target, patch in patches.items():
            patch(target)
        if isinstance(module.ALL_ATTENTION_FUNCTIONS, dict):
            module.ALL_ATTENTION_FUNCTIONS = _Functions(module.ALL_ATTENTION_FUNCTIONS)  # type: ignore[attr-defined]
        yield
    finally:
        for target, name, value in before:
            setattr(target, name, value)
