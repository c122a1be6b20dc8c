"""Hooks: a run of the model that fails leaves no hooks behind that it registered.

A forward may register hooks for the time of one call (adapters mixed in a batch are), and not remove them when the call
fails inside. Calls that may fail are made on purpose: of other sizes, of fewer rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

#: Where a module keeps its hooks, and what is known of each.
_KEPT = (
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_backward_pre_hooks", "_backward_hooks"),
)


@contextlib.contextmanager
def hooks_restored(model: nn.Module) -> Iterator[None]:
    """Whatever fails inside: the hooks of all modules are afterwards those that they had before."""
    held = [kept for m in model.modules() for name in _KEPT if isinstance(kept := vars(m).get(name), dict)]
    before = [dict(kept) for kept in held]
    try:
        yield
    except BaseException:
        for kept, known in zip(held, before, strict=True):
            _restore(kept, known)
        raise


def _restore(kept: dict[int, Any], known: dict[int, Any]) -> None:
    """In the same dictionary, which the handles of its hooks hold on to."""
    for key in [k for k in kept if k not in known]:
        del kept[key]
    if list(kept.items()) != list(known.items()):
        kept.clear()
        kept.update(known)
