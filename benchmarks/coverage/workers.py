"""Processes that examine one job after another, so that what was traced for one model serves the next, as it does in a
user's process. Each job has limits on time and memory; one that is stopped takes its process with it, and no other row.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.coverage.examine import examine
from benchmarks.coverage.row import Row
from lrp_fx.ir import traces

#: A model type, and the tasks whose heads are tried until one runs.
Job = tuple[str, list[str]]
#: A job that takes so many times its limit by the clock waits for something that does not come.
HANGS = 10
#: Of the memory limit: a process that has had so much gives way to a fresh one before the next job.
_GROWN = 0.4
#: Traces kept from job to job: a sweep meets more kinds of operations than the process of a user.
_TRACES = 8192
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Limits:
    """For one job: seconds of the processor, GiB of memory."""

    seconds: int
    gigabytes: float


class Worker:
    """One such process, forked from this one. ``job``: what it is at, None where it waits."""

    def __init__(self, scratch: Path, limits: Limits) -> None:
        self.scratch, self.limits = scratch, limits
        self.job: Job | None = None
        self.since = 0.0
        self._ours, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_serve, args=(theirs, scratch, limits), daemon=True)
        self._process.start()
        theirs.close()

    def give(self, job: Job) -> None:
        part_of(self.scratch, job).unlink(missing_ok=True)
        self.job, self.since = job, time.monotonic()
        self._ours.send(job)

    def done(self) -> Row | None:
        """The row of the job, once it is examined or stopped."""
        if self.job is None:
            return None
        if self._ours.poll():
            try:
                self._ours.recv()
                return self._row(0)
            except EOFError:
                pass
        if time.monotonic() - self.since > HANGS * self.limits.seconds:
            self._process.kill()
            self._process.join()
            return self._row(None)
        if self._process.is_alive():
            return None
        self._process.join()
        return self._row(self._process.exitcode)

    def _row(self, status: int | None) -> Row:
        assert self.job is not None
        found = left_by(part_of(self.scratch, self.job), self.job, status, self.limits)
        self.job = None
        return found

    def is_fresh_enough(self) -> bool:
        """Does it live, and is there memory for a job as large as the limit allows?"""
        if not self._process.is_alive():
            return False
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() < _GROWN * self.limits.gigabytes * 2**30

    def end(self) -> None:
        with contextlib.suppress(OSError):  # it may be gone
            self._ours.send(None)
        self._process.join(1 if self.job is None else 0)
        self._process.kill()


def examined(todo: Sequence[Job], scratch: Path, jobs: int, limits: Limits) -> Iterator[Row]:
    """The rows of all jobs, as they come, by so many processes."""
    scratch.mkdir(parents=True, exist_ok=True)
    queue, workers = list(todo), list[Worker]()
    try:
        while queue or any(w.job for w in workers):
            for worker in [w for w in workers if w.job is None and not w.is_fresh_enough()]:
                workers.remove(worker)
                worker.end()
            while queue and len(workers) < jobs:
                workers.append(Worker(scratch, limits))
            for worker in workers:
                if worker.job is None and queue:
                    worker.give(queue.pop(0))
                if (row := worker.done()) is not None:
                    yield row
            time.sleep(0.05)
    finally:
        for worker in workers:
            worker.end()


def part_of(scratch: Path, job: Job) -> Path:
    """Where a job leaves what is known of it so far."""
    return scratch / f"{job[0]}.{job[1][0]}.json"


def left_by(part: Path, job: Job, status: int | None, limits: Limits) -> Row:
    """The row a job left; if it was stopped, the last one it saved, with the reason. ``status``: of its process, None
    where it hung.
    """
    row = Row.from_json(json.loads(part.read_text())) if part.exists() else Row(job[0], job[1][0])
    if status is None or status == -signal.SIGXCPU:
        row.reason, row.seconds = f"stopped after {limits.seconds} s", float(limits.seconds)
    elif status:
        row.reason = f"the process died (memory limit of {limits.gigabytes:g} GiB, or a crash)"
    return row


# ------------------------------------------------------------------------------------------------ in the process
def _serve(jobs: Any, scratch: Path, limits: Limits) -> None:
    """Examine what comes until None does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    memory = int(limits.gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)
    traces.KEPT = _TRACES
    while (job := jobs.recv()) is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + limits.seconds, resource.RLIM_INFINITY))
        _examine(job, part_of(scratch, job))
        jobs.send(None)


def _examine(job: Job, part: Path) -> None:
    """The first task that can be built; its row is left in ``part``."""

    def save(row: Row) -> None:
        part.write_text(json.dumps(row.to_json()))

    model_type, tasks = job
    for task in tasks:
        row = examine(task, model_type, save)
        save(row)
        if row.runs:
            return
