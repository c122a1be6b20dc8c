"""Watch: has a model been changed without a tensor of it being another?

A hook added, an adapter merged or switched off, a number, a name or a configuration set, however deep it lies: a graph
made before answers as the model did then. Some of what a model holds it writes itself when it is run (counters, lengths
of the last text, caches): that is learned from runs, and is no change that somebody made.

requires  a model
ensures   a change of an attribute, a hook, a submodule or a forward is seen, within the bounds of `lrp_fx.ir.look`; a
          function replaced in a Python module is not
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from lrp_fx.errors import raise_if_out_of_memory
from lrp_fx.ir.look import Look, Place, in_words
from lrp_fx.ir.undo import surely


class Watch:
    """``own``: the places that the model itself writes when it is run."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.own: set[Place] = set()
        self._then: Look | None = None

    def look(self) -> None:
        """Remember what the model is now."""
        self._then = Look(self.model)

    def changed(self) -> bool:
        """Is anything other than it was when it was looked at last? (Modules added are attributes of others.)"""
        return self._then is not None and self._then.changed()

    def changes(self) -> tuple[str, ...]:
        """What is another, in words: modules and classes with their attributes."""
        return in_words(self._places())

    def set_by_others(self) -> bool:
        """Is anything another that the model does not write itself, as far as is known?"""
        return any(not self._is_own(place) for place in self._places())

    def learn(self) -> None:
        """What has become another since the last look was written by the model itself."""
        self.own.update(self._places())

    def learn_from(self, run: Callable[[], Any]) -> None:
        """Run the model, and learn what it writes, be it what was there before."""
        before = Look(self.model)
        with attributes_set() as written:
            run()
        self.own.update(before.places())
        self.own.update((*before.modules[m], f".{name}") for m, name in written if m in before.modules)

    def learn_again(self, run: Callable[[], Any]) -> None:
        """Run the model once more with the plain values that were there before, in the places that others seem to have
        set: what is something else then, it writes itself.
        """
        if self._then is None:
            return
        others = [place for place in self._places() if not self._is_own(place)]
        found = [(place, held, name, then, held[name]) for place, held, name, then in self._then.plain(others)]
        if len(found) < len(others):  # there is more than that, and a capture anyway
            return

        def restore() -> None:
            for _, held, name, then, now in found:
                if held.get(name) is then:
                    held[name] = now

        try:
            for _, held, name, then, _ in found:
                held[name] = then
            run()
            self.own.update(place for place, held, name, then, _ in found if held.get(name) is not then)
        except Exception as error:  # it does not run like that any more: nothing is learned
            raise_if_out_of_memory(error)
        finally:
            surely(restore)

    def _places(self) -> list[Place]:
        return self._then.places() if self._then is not None else []

    def _is_own(self, place: Place) -> bool:
        return any(place[:steps] in self.own for steps in range(1, len(place) + 1))


@contextlib.contextmanager
def attributes_set() -> Iterator[set[tuple[int, str]]]:
    """The attributes of modules that are set meanwhile in this thread: identities of modules, and names."""
    written: set[tuple[int, str]] = set()
    plain: Any = nn.Module.__setattr__
    thread = threading.get_ident()

    def noting(module: nn.Module, name: str, value: Any) -> None:
        if threading.get_ident() == thread:
            written.add((id(module), name))
        plain(module, name, value)

    def restore() -> None:
        nn.Module.__setattr__ = plain  # type: ignore[method-assign]

    try:
        nn.Module.__setattr__ = noting  # type: ignore[method-assign, assignment]
        yield written
    finally:
        surely(restore)
