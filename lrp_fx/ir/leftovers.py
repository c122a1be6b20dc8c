"""Leftovers: what torch keeps of graphs and sizes for as long as the process lives, let go when nobody has them.

Torch 2.13 keeps (a) the source of every graph that was made a function of Python, (b) what was asked of symbolic sizes,
by the environment that they belong to, which is so kept too, (c) an environment and the abstract inputs that it lists,
which hold each other where the collector cannot see it, and (d) results of operations on abstract values. Of a
thousand explainers that is gigabytes.
"""

from __future__ import annotations

import contextlib
import linecache
import traceback
import weakref
from collections.abc import Iterator

from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import graph_module
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.fx.experimental.symbolic_shapes import ShapeEnv

#: Results of operations on abstract values that are kept, about 2 KB each.
_KEPT_RESULTS = 8192
#: Sources of graphs that are gone. (They are taken out later: a graph may go while somebody reads the table.)
_gone: list[str] = []


def let_go() -> None:
    """Drop all this; what is still in use is computed again when it is asked for."""
    for name in list(vars(ShapeEnv)):
        clear = getattr(getattr(ShapeEnv, name), "cache_clear", None)
        if clear is not None:
            clear()
    if len(FakeTensorMode.cache) > _KEPT_RESULTS:
        FakeTensorMode.cache_clear()
    sources = getattr(getattr(graph_module, "_loader", None), "eval_cache", {})
    while _gone:
        key = _gone.pop()
        sources.pop(key, None)
        linecache.cache.pop(key, None)


def with_source(module: fx.GraphModule) -> fx.GraphModule:
    """The module itself, whose source goes with it."""
    if (key := _source_of(module)) is not None:
        weakref.finalize(module, _gone.append, key).atexit = False
    return module


def forget_source(module: fx.GraphModule) -> None:
    """Of a graph that will not be run any more."""
    if (key := _source_of(module)) is not None:
        _gone.append(key)


def _source_of(module: fx.GraphModule) -> str | None:
    """The name under which torch keeps the source; None where there is none yet."""
    code = getattr(vars(type(module)).get("forward"), "__code__", None)
    return code.co_filename if code is not None and code.co_filename.startswith("<eval_with_key>") else None


def without_code() -> contextlib.AbstractContextManager[None]:
    """Graphs that torch makes inside are made functions of Python when they are run: most are only read."""
    return _use_lazy_graph_module(True)


@contextlib.contextmanager
def environment_let_go() -> Iterator[None]:
    """Where exporting fails inside, the environment of its sizes goes with the error."""
    try:
        yield
    except BaseException as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if str(frame.f_globals.get("__name__")).startswith("torch."):
                for mode in [v for v in list(frame.f_locals.values()) if isinstance(v, FakeTensorMode)]:
                    forget_inputs(mode)
        raise


def forget_inputs(mode: FakeTensorMode) -> None:
    """Let go of the abstract inputs that an export has listed, to make guards on them: it is over."""
    if mode.shape_env is not None and mode.shape_env.tracked_fakes:
        mode.shape_env.tracked_fakes = []
