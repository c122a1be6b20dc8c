"""Workers: processes that write shards, each with the relevance graph from its file, and nothing else of the model.

requires  tasks, and the file of a relevance graph
ensures   a process that ends is started again, with the same shard; all of them end with the one that started them
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lrp_fx.datasets.folder import Folder, Shard
from lrp_fx.datasets.settings import Settings
from lrp_fx.datasets.tasks import Task
from lrp_fx.errors import InputError, LrpError

#: How often a process may end over one shard.
ATTEMPTS = 3
_COMMAND = ("-m", "lrp_fx.runtime.worker")


@dataclass(frozen=True)
class Start:
    """What a worker is told first: the ``file`` of the graph with what `lrp_fx.load` takes beside it."""

    file: str
    options: Mapping[str, Any]
    settings: Settings
    folder: Folder


def work(tasks: Iterator[Task], start: Start, written: Callable[[Shard], None]) -> None:
    """Have all tasks done by ``start.settings.processes`` workers; ``written`` is told of each shard.

    Raises what reading the data raises, `InputError` for a graph that a worker cannot load, and `LrpError` where a
    process ends over the same shard again and again.
    """
    feed = _Feed(tasks, written)
    count = start.settings.processes
    threads = [threading.Thread(target=_serve, args=(feed, start), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # with an ear for interrupts
    finally:
        feed.stop()
        for thread in threads:
            thread.join()
    if feed.error is not None:
        raise feed.error


class _Feed:
    """Tasks for all workers, one at a time; the first error ends it."""

    def __init__(self, tasks: Iterator[Task], written: Callable[[Shard], None]) -> None:
        self._tasks, self._lock, self._stopped = tasks, threading.Lock(), False
        self.written = written
        self.error: BaseException | None = None
        self.children: list[_Child] = []

    def take(self) -> Task | None:
        with self._lock:
            return None if self._stopped else next(self._tasks, None)

    def failed(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
        self.stop()

    def stop(self) -> None:
        self._stopped = True
        for child in list(self.children):
            child.end()


def _serve(feed: _Feed, start: Start) -> None:
    """One worker after the other, until no task is left."""
    child: _Child | None = None
    try:
        task = feed.take()
        while task is not None:
            following: Task | None = None
            shard: Shard | None = None
            for attempt in range(ATTEMPTS):
                child = child or _Child(start, feed)
                child.ask(task)
                following = feed.take() if attempt == 0 else following  # read while the worker is at it
                shard = child.answer()
                if shard is not None or feed.error is not None:
                    break
                child = None
            if shard is None:
                raise _ended(task)
            feed.written(shard)
            task = following
    except BaseException as error:
        feed.failed(error)
    finally:
        if child is not None:
            child.end()


def _ended(task: Task) -> LrpError:
    return LrpError(
        f"the process that explained rows {task.rows[0].number} to {task.rows[-1].number} (shard {task.number}) ended "
        f"{ATTEMPTS} times\n    next: where memory ran out, give fewer processes or a smaller batch_size; all other "
        "shards stay"
    )


class _Child:
    """A worker process."""

    def __init__(self, start: Start, feed: _Feed) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, *_COMMAND]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        feed.children.append(self)
        self._feed = feed
        self._send(start)

    def ask(self, task: Task) -> None:
        self._send(task)

    def answer(self) -> Shard | None:
        """The shard that was written; None where the process has ended. Raises what the worker refuses."""
        try:
            found = pickle.load(self.process.stdout)  # type: ignore[arg-type]
        except (EOFError, OSError, pickle.UnpicklingError, ValueError):
            self.end()
            return None
        if isinstance(found, str):
            raise InputError(found)
        return found  # type: ignore[no-any-return]

    def _send(self, what: Any) -> None:
        try:
            pickle.dump(what, self.process.stdin)  # type: ignore[arg-type]
            self.process.stdin.flush()  # type: ignore[union-attr]
        except (OSError, ValueError):
            pass  # it has ended: no answer will come

    def end(self) -> None:
        if self in self._feed.children:
            self._feed.children.remove(self)
        self.process.kill()
        self.process.wait()
