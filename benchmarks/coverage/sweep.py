"""Convert every architecture in transformers: ``python -m benchmarks coverage [NAME ...] [--again failed]``.

Every model type is examined with limits on time and memory. Rows are stored as they come; a sweep that was stopped goes
on where it was. ``--heads all``: every head of every type, not the first that runs, types in random order: what a
stopped sweep has seen is a fair sample of them. These rows are kept with their page: rows of other versions of torch or
transformers count as missing. NAME: only these model types (again). ``--again failed`` repeats those that fell short,
``--again all`` everything. The page is made of all rows stored.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.compare import ANY, Noise
from benchmarks.coverage.examine import examine
from benchmarks.coverage.page import LEGEND, about, summary, table
from benchmarks.coverage.row import Row
from benchmarks.coverage.workers import Job, Limits, examined
from benchmarks.page import MEASURED, ROOT, Page
from testing import zoo

STORES = {"first": ROOT / "build" / "coverage.jsonl", "all": MEASURED / "heads_rows.jsonl"}
#: Where jobs that run leave what is known so far.
PARTS = ROOT / "build" / "parts"
#: What decides what a row says.
MEASURES = ("lrp_fx", "rules", "benchmarks/coverage", "testing/zoo")


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
    if todo:
        store.tidy()
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
        types = list(dict.fromkeys(model_type for model_type, _ in found.values()))
        order = {name: i for i, name in enumerate(random.Random(0).sample(types, len(types)))}
        return sorted(found.values(), key=lambda job: order[job[0]])
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

    def tidy(self) -> None:
        """One line for each, in the order of their names."""
        rows = sorted(self.rows(), key=lambda r: (r.model_type, r.task))
        made = self.path.with_suffix(".tidy")
        made.write_text("".join(json.dumps(r.to_json()) + "\n" for r in rows))
        made.replace(self.path)


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
    return row is None or row.versions != versions() or (options.again == "failed" and short)


def run(todo: list[Job], store: Store, options: argparse.Namespace) -> None:
    """Measure, and store each row as it comes."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    limits, made_by = Limits(options.seconds, options.gigabytes), (git_revision(), versions())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("model types", total=len(todo))
        for row in examined(todo, PARTS / store.path.stem, options.jobs, limits):
            row.revision, row.versions = made_by
            store.add(row)
            progress.update(bar, advance=1, description=f"{row.model_type}: {row.stage}")
            print(
                f"{row.model_type:<28}{row.head[-32:]:<34}{row.stage:<15}{row.method:<10}"
                f"{row.seconds:>6.0f} s  {row.shares}  {row.gradient:.0e}  {row.padding}  {row.reason[:150]}",
                flush=True,
            )


def warm_up() -> None:
    """What every first conversion of a process pays for is paid once, before the processes are forked."""
    examine("MASKED_LM", "bert", lambda row: None)


def versions() -> str:
    return f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"


def git_revision() -> str:
    """Of the checkout; ``-dirty`` where what measures is not what is committed."""

    def said(*command: str) -> str:
        return subprocess.run(["git", *command], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()

    try:
        return said("describe", "--always") + ("-dirty" if said("status", "--porcelain", "--", *MEASURES) else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
