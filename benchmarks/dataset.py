"""Data sets: what `explainer.map` costs beside a plain loop of gradient x input, what a second process brings, what
memory it takes, and what a million documents would:
``python -m benchmarks dataset [--rows 2000] [--rounds 3] [--write]``.

Everything is measured in fresh processes with one thread, in turns.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lrp_fx
from benchmarks.compare import ANY, OTHERS, TEXT, Noise
from benchmarks.history import measured_in
from benchmarks.page import ROOT, WRAP, Page, table
from benchmarks.turns import growth

ROWS, BATCH, SHARD = 2000, 32, 512
SHORTEST, LONGEST, VOCABULARY = 5, 60, 30_000
#: Beside a plain loop of gradient x input; with a second process.
CPU_TARGET, SECOND_TARGET = 0.5, 1.9
MODELS = ("BERT-like classifier", "Llama-like decoder")
MEMORY_ROWS = (250, 1000, 4000)
#: Shards of the measurement of two processes: enough of them that the first and the last do not count.
MANY = 100
#: Long documents: how many are explained, of so many tokens; how many are asked for on paper, of how many workers.
LONG, TOKENS, DOCUMENTS, WORKERS = 32, 512, 10**6, 8
#: Load of the machine above which others take the cores that a second process would have.
QUIET = 0.5


def build(name: str) -> nn.Module:
    """256 wide, 4 layers, frozen random weights."""
    import transformers as t

    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
    sizes |= {"vocab_size": VOCABULARY}
    classes = (
        (t.BertForSequenceClassification, t.BertConfig) if name == MODELS[0] else (t.LlamaForCausalLM, t.LlamaConfig)
    )
    model = classes[0](classes[1](**sizes, pad_token_id=0))
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


def sentences(count: int) -> list[list[int]]:
    """Ids of ``count`` sentences, 5 to 60 tokens long, 19 on average: as long as those of the Stanford treebank."""
    generator = torch.Generator().manual_seed(0)
    steps = -(torch.rand(count, 2, generator=generator).log()).sum(1) * 7
    lengths = (SHORTEST + steps.round()).clamp(max=LONGEST).to(torch.int64).tolist()
    return [torch.randint(5, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def padded(rows: list[list[int]]) -> dict[str, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])}


def gradient_loop(model: Any, rows: list[list[int]]) -> None:
    """Gradient x input of the predicted class or next token, batch by batch in the order given."""
    for start in range(0, len(rows), BATCH):
        inputs = padded(rows[start : start + BATCH])
        x = model.get_input_embeddings()(inputs["input_ids"]).detach().requires_grad_()
        logits = model(inputs_embeds=x, attention_mask=inputs["attention_mask"]).logits
        if logits.dim() == 3:
            last = inputs["attention_mask"].sum(1) - 1
            logits = logits[torch.arange(len(last)), last]
        (found,) = torch.autograd.grad(logits.amax(-1).sum(), x)
        (found * x).sum(-1).tolist()


def _mapped(explain: Any, data: Any, **options: Any) -> Path:
    folder = Path(tempfile.mkdtemp())
    explain.map(data, save=folder, batch_size=BATCH, **options)
    return folder


def _cpu() -> float:
    own, others = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def _saved(model: nn.Module) -> tuple[Any, float]:
    """The graph from its file, and the CPU seconds that making it took."""
    start, path = _cpu(), Path(tempfile.mkdtemp()) / "graph.lrp"
    explain = lrp_fx.convert(model)
    explain.trace(**padded(sentences(8)))
    explain.save(path)
    return lrp_fx.load(path), _cpu() - start


def measure(what: str, name: str, rows: str, rounds: str) -> dict[str, Any]:
    """In a process of its own: CPU seconds of both in turns; rows a second with one and two processes; or memory."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    given, model = sentences(int(rows)), build(name)
    loaded, made = _saved(model)
    if what == "cpu":
        return {"made": made, "turns": [_turn(model, loaded, given) for _ in range(int(rounds))]}
    if what == "processes":
        return {"turns": [[_rate(loaded, given, processes) for processes in (1, 2)] for _ in range(int(rounds))]}
    del model
    if what == "documents":
        return {"seconds": statistics.median(_long(loaded) for _ in range(int(rounds)))}
    _mapped(loaded, given[:MANY], rows=MANY)
    rows_given = ({"input_ids": row} for row in given)
    return {"mib": growth(lambda: _mapped(loaded, rows_given, rows=MANY))[1]}


def _turn(model: nn.Module, loaded: Any, rows: list[list[int]]) -> tuple[float, float]:
    start = _cpu()
    gradient_loop(model, rows)
    between = _cpu()
    _mapped(loaded, rows, rows=SHARD)
    return between - start, _cpu() - between


def _rate(loaded: Any, rows: list[list[int]], processes: int) -> dict[str, float]:
    """Rows a second between the first shards and the last; CPU seconds of all processes for a row, without what their
    start takes; seconds until the first shards.
    """
    options: dict[str, Any] = {"rows": MANY, "processes": processes}
    start = _cpu()
    _mapped(loaded, rows[: 2 * MANY], **options)
    little, begun = _cpu() - start, time.time()
    folder = _mapped(loaded, rows, **options)
    each = (_cpu() - start - 2 * little) / (len(rows) - 2 * MANY)
    times = sorted(path.stat().st_mtime for path in folder.glob("part-*"))
    first = processes - 1  # what is written up to here belongs to the start of all processes
    rate = MANY * (len(times) - 1 - first) / (times[-1] - times[first])
    return {"rate": rate, "cpu": each, "start": times[first] - begun}


def _long(loaded: Any) -> float:
    """CPU seconds for `LONG` documents of `TOKENS` tokens in batches of 8, read and written as data sets are."""
    rows = torch.randint(5, VOCABULARY, (LONG, TOKENS), generator=torch.Generator().manual_seed(1)).tolist()
    start = _cpu()
    loaded.map(rows, save=Path(tempfile.mkdtemp()), batch_size=8)
    return _cpu() - start


# ------------------------------------------------------------------------------------------------ the page
_SEVERAL = ("model", "one, rows/s", "two, rows/s", "ratio", "by CPU", "first shards after, s", "load before", "target")
_ABOUT_SEVERAL = f"""\
Rows a second between the first shards and the last, shards of {MANY} rows, on {len(os.sched_getaffinity(0))} cores;
what starting the processes takes is beside it. By CPU: twice the CPU seconds that a row takes in one process, over
those that it takes in two and in the process that reads for them: the throughput where every process has a core.
Target: {SECOND_TARGET} times that of one process, by the clock where the load was below {QUIET} before, else by CPU."""


_PAPER = ("model", "tokens/s of a worker", f"{DOCUMENTS:,} documents on {WORKERS} workers, hours")
_ABOUT_PAPER = f"""\
{DOCUMENTS:,} documents of {TOKENS} tokens are {DOCUMENTS * TOKENS:.2g} tokens. A worker here is one process with one
thread on a core; its rate is measured on {LONG} such documents, and {WORKERS} workers are taken for {WORKERS} times
one: they share nothing but the list of shards. For {WORKERS} GPUs put the rate that is measured on one in its place:
hours = {DOCUMENTS * TOKENS / WORKERS / 3600:,.0f} / (tokens/s of a worker). No GPU was at hand for this page."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))


def about(options: argparse.Namespace) -> str:
    return f"""\
{options.rows} rows of ids, {SHORTEST} to {LONGEST} tokens long (19 on average), random weights, 256 wide, 4 layers, a
vocabulary of {VOCABULARY}, float32, one thread for each process on a CPU. The plain loop is gradient x input of the
predicted class (or next token) in batches of {BATCH}, padded in the order given; `map` has the same batch size, shards
of {SHARD} rows, the model's output in the graph, and writes its shards. Medians over {options.rounds} rounds in turns.

Graph: CPU seconds that conversion and saving took, once. CPU: seconds for all rows. Target: at most {CPU_TARGET} of the
plain loop."""


def _ask(what: str, name: str, rows: int, rounds: int) -> Any:
    return measured_in(ROOT, "benchmarks.dataset", what, name, str(rows), str(rounds))


def _cpu_row(name: str, options: argparse.Namespace) -> list[str]:
    found = _ask("cpu", name, options.rows, options.rounds)
    loop, mapped = (statistics.median(turn[k] for turn in found["turns"]) for k in (0, 1))
    ratio = statistics.median(m / g for g, m in found["turns"])
    verdict = "met" if ratio <= CPU_TARGET else "missed"
    return [name, f"{found['made']:.1f}", f"{loop:.1f}", f"{mapped:.1f}", f"{ratio:.2f}", verdict]


def _process_row(name: str, options: argparse.Namespace) -> list[str]:
    busy = os.getloadavg()[0]
    turns = _ask("processes", name, options.rows, options.rounds)["turns"]
    one, two = (statistics.median(turn[k]["rate"] for turn in turns) for k in (0, 1))
    ratio = statistics.median(b["rate"] / a["rate"] for a, b in turns)
    by_cpu = statistics.median(2 * a["cpu"] / b["cpu"] for a, b in turns)
    start = statistics.median(turn[1]["start"] for turn in turns)
    read = ratio if busy < QUIET else by_cpu
    verdict = ("met" if read >= SECOND_TARGET else "missed") + ("" if busy < QUIET else ", by CPU")
    return [name, f"{one:.0f}", f"{two:.0f}", f"{ratio:.2f}", f"{by_cpu:.2f}", f"{start:.1f}", f"{busy:.1f}", verdict]


def _paper_row(name: str, options: argparse.Namespace) -> list[str]:
    rate = LONG * TOKENS / _ask("documents", name, 1, options.rounds)["seconds"]
    return [name, f"{rate:.0f}", f"{DOCUMENTS * TOKENS / rate / WORKERS / 3600:.0f}"]


def _page(
    cpu: list[list[str]], several: list[list[str]], memory: list[list[str]], paper: Sequence[list[str]] = ()
) -> str:
    """The tables so far."""
    parts = [table(("model", "graph, s", "plain loop, s", "map, s", "ratio", "target"), cpu)]
    if several:
        parts += ["## Two processes", WRAP.fill(" ".join(_ABOUT_SEVERAL.split())), table(_SEVERAL, several)]
    if memory:
        headings = ("model", *(f"{n} rows, MiB" for n in MEMORY_ROWS))
        parts += ["## Memory", "Growth of the resident set while rows come from a generator.", table(headings, memory)]
    if paper:
        parts += ["## On paper", WRAP.fill(" ".join(_ABOUT_PAPER.split())), table(_PAPER, paper)]
    return "\n\n".join(parts)


def body(options: argparse.Namespace) -> Iterator[str]:
    cpu: list[list[str]] = []
    several: list[list[str]] = []
    memory: list[list[str]] = []

    for name in options.models:
        cpu.append(_cpu_row(name, options))
        print(*cpu[-1], sep=" | ", flush=True)
        yield _page(cpu, several, memory)
    for name in options.models[:1]:
        several.append(_process_row(name, options))
        print(*several[-1], sep=" | ", flush=True)
        yield _page(cpu, several, memory)
    for name in options.models[:1]:
        memory.append([name, *(f"{_ask('memory', name, n, 1)['mib']:.0f}" for n in MEMORY_ROWS)])
        print(*memory[-1], sep=" | ", flush=True)
        yield _page(cpu, several, memory)
    paper: list[list[str]] = []
    for name in options.models:
        paper.append(_paper_row(name, options))
        print(*paper[-1], sep=" | ", flush=True)
        yield _page(cpu, several, memory, paper)


BENCHMARK = Page(
    "dataset",
    "A data set explained: CPU time beside a plain loop of gradients, two processes, memory, a million documents",
    "dataset.md",
    "Data sets",
    about,
    body,
    add_options,
    selects=("rows", "models"),
    noise={OTHERS: Noise(relative=0.5, absolute=10.0), "ratio": Noise(absolute=0.3), TEXT: ANY},
)
