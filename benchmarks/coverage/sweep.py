"""Convert every architecture in transformers: ``python -m benchmarks coverage [NAME ...] [--again failed]``.

Every model type runs in a process of its own with limits on time and memory. Rows are stored as they come; a sweep that
was stopped goes on where it was. ``--heads all``: every head of every type, not the first that runs, in random order:
what a stopped sweep has seen is a fair sample. NAME: only these model types (again). ``--again failed`` repeats those
that fell short, ``--again all`` everything. The page is made of all rows stored.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.compare import ANY, Noise
from benchmarks.coverage.examine import examine
from benchmarks.coverage.page import LEGEND, about, summary, table
from benchmarks.coverage.row import Row
from benchmarks.page import ROOT, Page
from testing import zoo

STORES = {"first": ROOT / "build" / "coverage.jsonl", "all": ROOT / "build" / "coverage_heads.jsonl"}
#: A process that takes so many times its limit by the clock waits for something that does not come.
HANGS = 10
#: A model type, and the tasks whose heads are tried until one runs.
Job = tuple[str, list[str]]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", help="only these model types, again")
    parser.add_argument("--heads", choices=("first", "all"), default="first", help="of each type")
    parser.add_argument("--sample", type=int, default=0, help="only so many, spread over all")
    parser.add_argument("--store", type=Path, help="file of rows")
    parser.add_argument("--again", choices=("failed", "all"))
    parser.add_argument("--stored", action="store_true", help="measure nothing: the page of what is stored")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=300, help="of the processor, for one model type")
    parser.add_argument("--gigabytes", type=float, default=8.0, help="memory limit for one model type")


def body(options: argparse.Namespace) -> Iterator[str]:
    rows, every = measured(options), len(jobs(options.heads))
    Console(width=200).print(summary(rows, every))
    yield "\n\n".join([summary(rows, every), LEGEND, "\n".join(table(rows))])


def measured(options: argparse.Namespace) -> list[Row]:
    """All rows there are, once those that are wanted are measured."""
    store = Store(options.store or STORES[options.heads], options.heads == "all")
    every = jobs(options.heads)
    spread = every[:: max(1, len(every) // options.sample)][: options.sample] if options.sample else every
    known = {store.key(row.model_type, row.task): row for row in store.rows()}
    todo = [job for job in spread if wanted(job[0], options, known.get(store.key(job[0], job[1][0])))]
    torch.set_num_threads(1)
    if len(todo) > 1:
        warm_up()
    run(todo, store, options)
    return store.rows()


ROUNDING = Noise(absolute=1e-4)
BENCHMARK = Page(
    "coverage",
    "Every model type of transformers: captured, closed, how much of it approximated, what padding does",
    "coverage.md",
    "Coverage: every model type of transformers",
    about,
    body,
    add_options,
    selects=("heads", "sample"),
    noise={"ledger error": ROUNDING, "worst site": ROUNDING, "s": ANY},
)


def jobs(heads: str) -> list[Job]:
    """Every model type with the tasks it has a head for; with ``all`` heads, every head by itself, once: several tasks
    name the same class.
    """
    if heads == "all":
        found: dict[tuple[str, str], Job] = {}
        for task, model_type in zoo.iter_architectures(zoo.every_task()):
            found.setdefault((model_type, zoo.head_name(task, model_type)), (model_type, [task]))
        return random.Random(0).sample(list(found.values()), len(found))
    tasks: dict[str, list[str]] = {}
    for task, model_type in zoo.iter_architectures():
        tasks.setdefault(model_type, []).append(task)
    return list(tasks.items())


class Store:
    """Rows as lines of JSON; the last line of a model type (``by_head``: and head) counts."""

    def __init__(self, path: Path, by_head: bool = False) -> None:
        self.path, self.by_head = path, by_head
        path.parent.mkdir(parents=True, exist_ok=True)

    def rows(self) -> list[Row]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return list(
            {self.key(r.model_type, r.task): r for r in (Row.from_json(json.loads(line)) for line in lines)}.values()
        )

    def key(self, model_type: str, task: str) -> str:
        return f"{model_type}.{task}" if self.by_head else model_type

    def add(self, row: Row) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(row.to_json()) + "\n")


def wanted(model_type: str, options: argparse.Namespace, row: Row | None) -> bool:
    if options.stored:
        return False
    if options.names:
        return model_type in options.names
    if options.again == "all":
        return True
    short = row is not None and (
        not row.explained
        or bool(row.reason)
        or any(w in row.padding for w in ("off", "gets", "failed"))
        or (row.expected and not row.positions)
    )
    return row is None or (options.again == "failed" and short)


def run(todo: list[Job], store: Store, options: argparse.Namespace) -> None:
    """Fork a process for each model type, at most ``jobs`` at a time."""
    scratch, revision = Path(f"{store.path}.parts"), git_revision()
    scratch.mkdir(exist_ok=True)
    running: dict[int, tuple[str, list[str], float]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    queue = list(todo)
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("model types", total=len(todo))
        while queue or running:
            while queue and len(running) < options.jobs:
                model_type, tasks = queue.pop(0)
                part = scratch / f"{model_type}.{tasks[0]}.json"
                pid = start(model_type, tasks, part, options.gigabytes, options.seconds)
                running[pid] = model_type, tasks, time.monotonic()
            for pid, (model_type, tasks, since) in list(running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                late = time.monotonic() - since > HANGS * options.seconds
                if not ended and late:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                if ended or late:
                    part = scratch / f"{model_type}.{tasks[0]}.json"
                    row = collect(part, model_type, tasks, status if ended else None, options)
                    row.revision = revision
                    store.add(row)
                    del running[pid]
                    progress.update(bar, advance=1, description=f"{row.model_type}: {row.stage}")
                    print(
                        f"{row.model_type:<28}{row.head[-32:]:<34}{row.stage:<15}{row.method:<10}"
                        f"{row.seconds:>6.0f} s  {row.shares}  {row.gradient:.0e}  {row.padding}  {row.reason[:150]}",
                        flush=True,
                    )
            time.sleep(0.05)


def warm_up() -> None:
    """What every first conversion of a process pays for is paid once, before the processes are forked."""
    examine("MASKED_LM", "bert", lambda row: None)


def start(model_type: str, tasks: list[str], part: Path, gigabytes: float, seconds: int) -> int:
    """Fork; the child examines the first task that can be built and leaves its row in ``part``."""
    part.unlink(missing_ok=True)
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        limit = int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (used() + seconds, used() + seconds + 5))
        sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)

        def save(row: Row) -> None:
            part.write_text(json.dumps(row.to_json()))

        for task in tasks:
            row = examine(task, model_type, save)
            save(row)
            if row.runs:
                break
        status = 0
    finally:
        os._exit(status)


def collect(part: Path, model_type: str, tasks: list[str], status: int | None, options: argparse.Namespace) -> Row:
    """The row the child left; if it was stopped, the last one it saved, with the reason."""
    row = Row.from_json(json.loads(part.read_text())) if part.exists() else Row(model_type, tasks[0])
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        row.reason, row.seconds = f"stopped after {options.seconds} s", float(options.seconds)
    elif status:
        row.reason = f"the process died (memory limit of {options.gigabytes:g} GiB, or a crash)"
    return row


def used() -> int:
    """Seconds of the processor this process has had."""
    return int(time.process_time())


def git_revision() -> str:
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
