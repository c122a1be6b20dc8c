"""Processes: explainers in children, forked (also while another thread compiles) and spawned."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

import lrp_fx
from benchmarks.load.model import answer, call, explainer

#: Seconds after which a child hangs.
PATIENCE = 180.0
#: The call that children explain.
_CALL = 7


def _as_lists(values: Any) -> Any:
    return [v.tolist() for v in values]  # no shared memory between processes


def _use(pipe: Any, explain: Any) -> None:
    pipe.send(_as_lists(answer(explain, _CALL)))


def _convert(pipe: Any, _: Any) -> None:
    pipe.send(_as_lists(answer(explainer(), _CALL)))


def _load(pipe: Any, path: str) -> None:
    pipe.send(_as_lists(answer(lrp_fx.load(path), _CALL)))


def _unpickle(pipe: Any, data: bytes) -> None:
    pipe.send(_as_lists(answer(pickle.loads(data), _CALL)))


def _told_by_child(start: str, work: Callable[[Any, Any], None], given: Any) -> Any:
    """What the child sends; None where it does not."""
    context = multiprocessing.get_context(start)
    ours, theirs = context.Pipe()
    child = context.Process(target=work, args=(theirs, given))  # type: ignore[attr-defined]
    child.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(PATIENCE) else None
    except EOFError:
        return None
    finally:
        child.kill()
        child.join()


class _Explained(Dataset):  # type: ignore[type-arg]
    """Texts with their relevance, explained by the workers that load them."""

    def __init__(self, explain: Any) -> None:
        self.explain = explain

    def __len__(self) -> int:
        return 8

    def __getitem__(self, number: int) -> Any:
        return answer(self.explain, number)[1][0].double().sum()


class _Compiling:
    """Another thread that converts one model after the other."""

    def __enter__(self) -> None:
        self.stop, self.started = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        self.started.wait()

    def _run(self) -> None:
        seed = 1
        while not self.stop.is_set():
            self.started.set()
            explainer(seed)(**call(seed))
            seed += 1

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


def outcomes(forks: int) -> Iterator[tuple[str, int, int]]:
    """What was done, how often, and how often the child gave something else, or nothing.

    forks: how many children are forked while another thread compiles.
    """
    explain = explainer()
    expected = _as_lists(answer(explain, _CALL))

    def wrong(start: str, work: Callable[[Any, Any], None], given: Any, times: int = 1) -> int:
        return sum(_told_by_child(start, work, given) != expected for _ in range(times))

    yield "forked, uses the explainer", 1, wrong("fork", _use, explain)
    yield "forked, converts the model", 1, wrong("fork", _convert, None)
    with _Compiling():
        yield "forked while a thread compiles, uses the explainer", forks, wrong("fork", _use, explain, forks)
        yield "forked while a thread compiles, converts the model", 2, wrong("fork", _convert, None, 2)
    yield "spawned, converts the model", 1, wrong("spawn", _convert, None)
    yield "spawned, unpickles the explainer", 1, wrong("spawn", _unpickle, pickle.dumps(explain))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reader.lrp"
        explain.save(path)
        yield "spawned, loads the saved file", 1, wrong("spawn", _load, str(path))
    yield "two workers of a DataLoader", 8, _by_workers(explain)


def _by_workers(explain: Any) -> int:
    data = _Explained(explain)
    loaded = torch.cat(list(DataLoader(data, batch_size=2, num_workers=2, timeout=PATIENCE)))
    return sum(not torch.equal(loaded[n], data[n]) for n in range(len(data)))
