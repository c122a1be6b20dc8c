"""Load: many calls, threads, processes, explainers and interrupts, by ``python -m benchmarks load``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

from benchmarks.compare import ANY, TEXT, Noise
from benchmarks.load import interrupts, memory, processes, threads
from benchmarks.load.interrupts import ENDED
from benchmarks.page import Page, table

WRONG = "WRONG"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--calls", type=int, default=500, help="of each thread")
    parser.add_argument("--forks", type=int, default=20, help="children that are forked while a thread compiles")
    parser.add_argument("--explainers", type=int, default=1000, help="made and dropped")
    parser.add_argument("--interrupts", type=int, default=201)


def about(options: argparse.Namespace) -> str:
    return f"""\
A model of two blocks with positions and a mask; calls of 1 to 4 texts of 2 to 40 words, half of the batches padded.
Torch {torch.__version__}, one thread for arithmetic. Everything is compared to the bit with calls made one after the
other.

*Threads*: they share an explainer that has seen nothing yet; one of them is in inference mode, one in autocast, one in
`no_grad`, one has a default device. *Processes*: a child that gives nothing within {processes.PATIENCE:.0f} s counts as
wrong. *Memory*: explainers of models of their own, called with two sizes each and dropped, in a fresh process whose
collector is left to itself. *Interrupts*: a signal raises at a random moment of two first calls; then weights, hooks,
attributes of modules, switches, modes and random state of torch, and the collector, are what they were, and the same
explainer gives the same relevance by the same kind of capture. *Too late*: nothing was running any more, or torch took
the error for something that it could do without. *Ended*: the error came while torch was putting its own modes back, in
C++ that cannot hand it on, and the whole process was ended by torch."""


def _verdict(wrong: int) -> str:
    return "none" if not wrong else f"{wrong} {WRONG}"


def _threads(options: argparse.Namespace) -> str:
    calls, wrong = threads.compare(options.threads, options.calls)
    row = [str(options.threads), str(calls), _verdict(wrong)]
    return f"## Threads\n\n{table(('threads', 'calls', 'that differ'), [row])}"


def _processes(options: argparse.Namespace) -> str:
    rows = [[what, str(times), _verdict(wrong)] for what, times, wrong in processes.outcomes(options.forks)]
    return f"## Processes\n\n{table(('a child', 'tried', 'that differ'), rows)}"


def _memory(options: argparse.Namespace) -> Iterator[str]:
    marks = sorted({1, *(options.explainers * k // 10 for k in range(1, 11))})
    rows = []
    for made, held in memory.curve(options.explainers):
        if made in marks:
            rows.append([str(made), f"{held / 2**20:.0f}"])
            yield f"## Memory\n\n{table(('explainers made', 'MiB resident'), rows)}"


def _interrupts(options: argparse.Namespace) -> str:
    rows = []
    for raised, became in interrupts.outcomes(options.interrupts).items():
        others = {what: n for what, n in became.items() if what not in ("as before", "too late", ENDED)}
        said = "; ".join(f"{n} {what}" for what, n in others.items())
        wrong = f"{WRONG}: {said}" if others else "none"
        rows.append([raised, str(became["as before"]), str(became["too late"]), str(became[ENDED]), wrong])
    return f"## Interrupts\n\n{table(('raised', 'all as before', 'too late', 'ended', 'otherwise'), rows)}"


def body(options: argparse.Namespace) -> Iterator[str]:
    torch.set_num_threads(1)
    done: list[str] = []
    for part in (_threads, _processes, _interrupts):
        done.append(part(options))
        print(done[-1], flush=True)
        yield "\n\n".join(done)
    part = ""
    for part in _memory(options):
        yield "\n\n".join([*done, part])
    print(part)


BENCHMARK = Page(
    "load",
    "Threads, children, interrupts, and a thousand explainers made and dropped",
    "load.md",
    "Load",
    about,
    body,
    add_options,
    selects=("threads", "calls", "forks", "explainers", "interrupts"),
    noise={
        "MiB resident": Noise(relative=0.2),
        "all as before": ANY,
        "too late": ANY,
        "ended": ANY,
        TEXT: ANY,
    },
    fault=WRONG,
)
