"""Load: threads with modes of their own, children, interrupts, and explainers that are dropped, in little.

`python -m benchmarks load` does it at length.
"""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import linecache
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import _symbolic_trace
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import lrp_fx
from benchmarks.load.interrupts import RAISED, differing, state
from benchmarks.load.memory import resident
from lrp_fx.capture.compare import inference_configuration
from lrp_fx.capture.export import _quietly
from lrp_fx.capture.record import _as_in_export
from lrp_fx.errors import may_be_interrupt, raise_if_out_of_memory
from lrp_fx.ir.leftovers import let_go
from lrp_fx.ir.undo import process_as_before, surely
from lrp_fx.runtime import captures, collection
from lrp_fx.runtime.alone import ALONE
from lrp_fx.runtime.collection import no_collection
from lrp_fx.runtime.compiler import Compiler
from lrp_fx.runtime.watch import attributes_set
from testing.handmade import Small, V, ids, ready
from tests.test_reuse import Small as Attending

pytestmark = pytest.mark.usefixtures("quiet")
ROOT = Path(__file__).parents[1]


# ------------------------------------------------------------------------------------------------ modes
@contextlib.contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default device": lambda: default_device("meta"),
    "default type": lambda: default_type(torch.float64),
    "deterministic": deterministic,
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_between_calls(setting: str) -> None:
    model, x = ready(Small()), ids()
    targets = [[1, 2], None, lambda output: output[:, 0]]
    expected = [lrp_fx.convert(model)(x, target=t).tokens for t in targets]
    explain = lrp_fx.convert(model)
    with SETTINGS[setting]():
        inside = [explain(x, target=t).tokens for t in targets]
    outside = [explain(x, target=t).tokens for t in targets]
    assert all(map(torch.equal, inside, expected)) and all(map(torch.equal, outside, expected))


class Spaced(nn.Module):
    """Makes numbers without saying their type."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(V, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        far = torch.arange(input_ids.shape[1], device=input_ids.device) / torch.tensor(3.0, device=input_ids.device)
        return self.head((self.words(input_ids) * far.exp()[:, None]).sum(1))  # type: ignore[no-any-return]


def test_the_type_that_numbers_of_the_model_have() -> None:
    model, x = ready(Spaced()).float(), ids()
    explain = lrp_fx.convert(model)
    single = explain(x).output
    with default_type(torch.bfloat16):
        assert torch.equal(explain(x).output, model(x)) and not torch.equal(model(x), single)
    assert torch.equal(explain(x).output, single)


THREADS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "none": contextlib.nullcontext,
}


def test_threads_in_modes_of_their_own() -> None:
    model, calls = ready(Small()).float(), [ids(2, 3 + n, seed=n) for n in range(4)]

    def explained(explain: lrp_fx.Explainer, mode: str) -> list[Tensor]:
        with THREADS[mode]():
            return [explain(x, target=1).tokens for x in calls]

    alone, shared = (lrp_fx.convert(model, dynamic=True) for _ in range(2))
    expected = [explained(alone, mode) for mode in THREADS]
    with ThreadPoolExecutor(len(THREADS)) as pool:
        got = list(pool.map(lambda mode: explained(shared, mode), THREADS))
    assert all(torch.equal(a, b) for x, y in zip(got, expected, strict=True) for a, b in zip(x, y, strict=True))
    assert torch.equal(expected[0][0], expected[3][0]) and not torch.equal(expected[1][0], expected[3][0])


@pytest.mark.parametrize("raised", RAISED)
def test_an_interrupt_that_torch_took_for_a_wrong_type(raised: str) -> None:
    error = RAISED[raised]()
    name = f"{type(error).__name__}: {str(error) or '<EMPTY MESSAGE>'}"
    for text in (
        f"aten::as_strided() Expected a value of type 'List[int]'.\n Python error details: {name}",
        f"view(): argument 'size' failed to unpack the object at pos 1 with error \"{name}\"",
    ):
        with pytest.raises(type(error), match=f"^{re.escape(str(error))}"):
            raise_if_out_of_memory(TypeError(text))
    raise_if_out_of_memory(RuntimeError("Expected a value of type 'List[int]'"))


# ------------------------------------------------------------------------------------------------ children
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_process_waits_with_forking_until_nobody_compiles() -> None:
    held, done = threading.Event(), threading.Event()

    def compile_something() -> None:
        with ALONE:
            held.set()
            done.wait(10)

    thread = threading.Thread(target=compile_something)
    thread.start()
    held.wait()
    threading.Timer(0.05, done.set).start()
    child = os.fork()
    if child == 0:
        os._exit(0 if ALONE.acquire(timeout=3) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join()
    assert ALONE.acquire(timeout=3), "given back to the parent, too"
    ALONE.release()


# ------------------------------------------------------------------------------------------------ interrupts
class Failing(nn.Module):
    """Blocks that are alike; something happens in one of them while the model is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(V, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), Happening()) for _ in range(3))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean(1))  # type: ignore[no-any-return]


HAPPENS: list[Callable[[], BaseException]] = []


class Happening(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if HAPPENS and torch.compiler.is_exporting():
            raise HAPPENS.pop()()
        return torch.tanh(x)


@pytest.mark.parametrize("raised", RAISED)
def test_what_is_broken_off_leaves_everything_as_it_was(raised: str) -> None:
    model = ready(Failing())
    explain = lrp_fx.convert(model, dynamic=True)
    before = state(model)
    HAPPENS.append(RAISED[raised])
    with pytest.raises(type(RAISED[raised]())):
        explain(ids())
    assert differing(before, state(model)) == []
    assert torch.equal(explain(ids()).tokens, lrp_fx.convert(model, dynamic=True)(ids()).tokens)
    assert explain.rewritten.program.method == "dynamic", "a failed allocation is no refusal"


def test_putting_back_is_interrupted() -> None:
    runs: list[int] = []

    def undo() -> None:
        runs.append(len(runs))
        if len(runs) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surely(undo)
    assert runs == [0, 1]


def test_what_torch_was_putting_back() -> None:
    method = nn.Module.__call__
    with pytest.raises(KeyboardInterrupt), process_as_before():
        _broken_off_while_patched()
    assert nn.Module.__call__ is method and _symbolic_trace.CURRENT_PATCHER is None


def _broken_off_while_patched() -> None:
    patcher = _symbolic_trace.CURRENT_PATCHER = _symbolic_trace._Patcher()
    patcher.patch_method(nn.Module, "__call__", lambda *_: None, deduplicate=False)
    raise KeyboardInterrupt


@pytest.mark.parametrize("place", [no_collection, _quietly, _as_in_export, attributes_set, inference_configuration])
def test_an_interrupt_while_something_is_set(place: Any) -> None:
    """At each line up to the block, and from the block on: everything is as before."""
    model = ready(Small())
    enter = (lambda: place(model)) if place is inference_configuration else place
    before, line = everything(model), 0
    while _interrupted_at(line, enter, place.__wrapped__.__code__):
        assert differing(before, everything(model)) == [], f"interrupted at line {line}"
        line += 1
    assert line > 1


def everything(model: nn.Module) -> dict[str, Any]:
    return {**state(model), "setting attributes": nn.Module.__setattr__}


def _interrupted_at(line: int, enter: Callable[[], AbstractContextManager[object]], code: CodeType) -> bool:
    """Was a block broken off at a line of what sets something for it, counted as they are run?"""
    run = -1

    def each_line(frame: FrameType, event: str, _: object) -> Any:
        nonlocal run
        run += event == "line"
        if event == "line" and run == line:
            raise KeyboardInterrupt
        return each_line

    def each_call(frame: FrameType, event: str, _: object) -> Any:
        return each_line if frame.f_code is code else None

    before = sys.gettrace()
    sys.settrace(each_call)
    try:
        with enter():
            sys.settrace(before)
            if run < line:
                return False
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    raise AssertionError("nothing was raised")


def test_what_python_was_putting_back() -> None:
    """An interrupt comes inside of what Python itself leaves with: a block that says nothing of warnings, errors."""
    before = sys.stderr, warnings.filters, logging.root.manager.disable
    with contextlib.suppress(KeyboardInterrupt), process_as_before():
        silent, lost = warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO())
        silent.__enter__(), lost.__enter__()
        logging.disable(logging.ERROR)
        raise KeyboardInterrupt
    assert (sys.stderr, warnings.filters, logging.root.manager.disable) == before
    assert sys.stderr is before[0] and warnings.filters is before[1]


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize(("reader", "moment"), [("_ops.py", 5), ("detached.py", 5), ("seed.py", 0)])
def test_an_interrupt_while_torch_reads_a_symbolic_size(
    raised: str, reader: str, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch says that arguments are of a wrong type, and holds what was raised as text only."""
    explain, read, read_there = lrp_fx.convert(ready(Small()), dynamic=True), SymNode.is_int, itertools.count()

    def is_int(self: SymNode) -> bool:
        if sys._getframe(1).f_code.co_filename.endswith(reader) and next(read_there) == moment:
            raise RAISED[raised]()
        return read(self)

    monkeypatch.setattr(SymNode, "is_int", is_int)
    captures.forget()
    with pytest.raises(type(RAISED[raised]())):
        explain(ids())


def test_an_interrupt_that_another_error_came_out_of() -> None:
    """Torch puts its modes back where it is interrupted, and that may fail in turn."""

    def fails(handled: type[BaseException] | None) -> None:
        try:
            if handled:
                raise handled
        finally:
            raise AssertionError("no mode to take back")

    for handled in (KeyboardInterrupt, MemoryError, ValueError, None):
        try:
            fails(handled)
        except AssertionError as error:
            meant = {KeyboardInterrupt: KeyboardInterrupt, MemoryError: MemoryError}.get(handled)
            with pytest.raises(meant) if meant else contextlib.nullcontext():
                raise_if_out_of_memory(error)


class Deciding(nn.Module):
    """By its numbers: it is captured as a record of one call, after refusals."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(V, 4), nn.Linear(4, 3)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids).mean(1)
        return self.head(x if int(input_ids.sum()) > 0 else -x)  # type: ignore[no-any-return]


def test_the_callers_own_interrupt_is_none_of_ours() -> None:
    model = ready(Deciding())
    explain = lrp_fx.convert(model)
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert torch.equal(explain(ids(), target=1).output, model(ids()))
    assert explain.rewritten.program.refusals


LOST: list[str] = []


class Multiplied(nn.Module):
    """A product by its sign."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.other = nn.Embedding(V, 4), nn.Parameter(torch.rand(4, 3))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids).mean(1)
        if torch.compiler.is_exporting() and LOST:
            LOST.pop()
            raise TypeError("unsupported operand type(s) for @: 'FakeTensor' and 'Parameter'")
        return torch.tanh(x) @ self.other


def test_an_operator_that_an_interrupt_was_lost_in() -> None:
    """The capture is tried again: it is no refusal, by which the model would be captured for every size from now on."""
    LOST.append("an interrupt")
    model = ready(Multiplied())
    explain = lrp_fx.convert(model, dynamic=True)
    assert torch.equal(explain(ids(), target=1).output, model(ids()))
    assert not LOST and explain.rewritten.program.method == "dynamic"
    assert not may_be_interrupt(TypeError("unsupported operand type(s) for +: 'FakeTensor' and 'str'"))


def interrupted(_: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_before_old_graphs_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of the weights is trusted: not before the graphs of others are gone."""
    model = ready(Small())
    explain = lrp_fx.convert(model)
    explain(ids())
    model.head.weight.data = -model.head.weight.detach()
    with monkeypatch.context() as patch:
        patch.setattr(Compiler, "_forget_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            explain(ids())
    weights = explain._compiler.weights
    assert weights.differ(weights.now())
    assert torch.equal(explain(ids()).output, model(ids()))
    assert not weights.differ(weights.now())


# ------------------------------------------------------------------------------------------------ memory
def test_memory_is_flat() -> None:
    """In a process of its own: elsewhere what is lost hides in what others gave back, and all of it is searched."""
    code = "from tests.test_load import in_a_process_of_its_own as run; run()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def in_a_process_of_its_own() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    calls_of_varying_length()
    explainers_are_let_go()


def calls_of_varying_length() -> None:
    explain = lrp_fx.convert(ready(Attending()), conserve="site", dynamic=True)

    def call(n: int) -> None:
        explain(input_ids=ids(1 + n % 4, 2 + n % 61, seed=n), target=n % 3)

    for n in range(100):
        call(n)
    gc.collect()
    before = resident()
    for n in range(500):
        call(n)
    gc.collect()
    assert resident() - before <= 4 << 20, f"{resident() - before} bytes"
    assert explain.statistics.captures == 1


def explainers_are_let_go() -> None:
    """The collector finds them by itself, and nothing that torch keeps beside holds on to them."""
    collection._Unseen.limit = collection._LEAST = 30_000
    gone = []
    for _ in range(6):
        explain = lrp_fx.convert(ready(Small()), dynamic=True)
        explain(ids())
        gone.append(weakref.ref(explain._compiler))
        del explain
    assert sum(ref() is not None for ref in gone) <= 4
    for _ in range(3):  # what holds each other through C++ goes in turn
        let_go()
        gc.collect()
    assert not any(ref() is not None for ref in gone)
    assert sum(isinstance(o, ShapeEnv) for o in gc.get_objects()) <= 1, "torch holds the last"
    assert sum(name.startswith("<eval_with_key>") for name in linecache.cache) <= 4
