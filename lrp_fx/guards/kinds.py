"""Every kind of guard by its name in a file, and the way there and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrp_fx.guards.guard import Guard, Reader, Writer, guard_of
from lrp_fx.guards.inputs import DeviceGuard, PlainGuard, TensorGuard, ValueGuard
from lrp_fx.guards.masks import MaskGuard
from lrp_fx.guards.sizes import SizeGuard

KINDS: dict[str, type[Guard]] = {
    guard.kind: guard for guard in (TensorGuard, PlainGuard, SizeGuard, ValueGuard, MaskGuard, DeviceGuard)
}
#: What no graph is without.
NEEDED = (TensorGuard, PlainGuard, SizeGuard, DeviceGuard)


def encode_guard(guard: Guard, write: Writer) -> dict[str, Any]:
    return {"kind": guard.kind, **guard.encode(write)}


def decode_guard(facts: Mapping[str, Any], read: Reader) -> Guard:
    """Raises ValueError for a kind that there is none of, and what `Guard.decode` raises."""
    if facts["kind"] not in KINDS:
        raise ValueError(f"a guard of an unknown kind, {facts['kind']!r}")
    return KINDS[facts["kind"]].decode(facts, read)


def check_guards(guards: tuple[Guard, ...]) -> None:
    """Raise ValueError if they do not belong together: each kind once, sizes of the same inputs as the tensors."""
    kinds = [type(guard) for guard in guards]
    if len(set(kinds)) < len(kinds) or not set(NEEDED) <= set(kinds):
        raise ValueError("a graph that does not say which calls it serves")
    axes = {i.name: len(i.shape) for i in guard_of(TensorGuard, guards).inputs}
    if {name: len(sizes) for name, sizes in guard_of(SizeGuard, guards).sizes.axes.items()} != axes:
        raise ValueError("sizes of other inputs than its own")
    read = [n for g in guards if isinstance(g, ValueGuard) for n in g.values]
    read += [n for g in guards if isinstance(g, MaskGuard) for n in g.made.inputs.values()]
    if not set(read) <= axes.keys():
        raise ValueError("guards of other inputs than its own")
