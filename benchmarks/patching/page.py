"""Do explanations know what patching would do? ``python -m benchmarks patching [--model NAME] [--count N]``.

Heads, MLPs and the residual stream at every token are patched one by one (`Explainer.patched`), and what that does to
the score is compared with what the coefficients of each method say. The language model needs what `benchmarks.real`
needs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import lrp_fx
from benchmarks.compare import OTHERS, Noise
from benchmarks.page import Page, table
from benchmarks.patching.cases import LANGUAGE, MODELS, PAIRS, USUAL, cases
from benchmarks.patching.measure import (
    PATCHES,
    SCORES,
    SITES,
    Effects,
    asked,
    estimates,
    joined,
    methods,
    pearson,
    same_sign,
    spearman,
    truth,
)
from benchmarks.patching.programs import PROGRAMS, shares

CONTRAST, ANSWER = SCORES
NAMES = {"residual": "residual stream", "mlp": "MLPs", "heads": "heads"}
#: What is asked of the best method: median Pearson over models and patches.
MARK = {"residual": 0.95, "mlp": 0.95, "heads": 0.9}


@dataclass(frozen=True)
class Measured:
    """One model: what patching did, and what each method says of it."""

    name: str
    examples: int
    truth: Effects
    estimates: dict[str, Effects]

    def cell(self, how: Callable[..., float], method: str, *key: str) -> float:
        return how(self.estimates[method][key], self.truth[key])  # type: ignore[index]


def measured(name: str, count: int, layers: int, kept: Path | None = None) -> Measured:
    """kept: a folder of what was measured before; this is added to it."""
    file = kept / f"{name}.pt" if kept is not None else None
    if file is not None and file.exists():
        return Measured(**torch.load(file, weights_only=True))
    result = _measured(name, count, layers)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(vars(result), file)
    return result


def _measured(name: str, count: int, layers: int) -> Measured:
    found = [asked(case, layers) for case in cases(name, count)]
    true = joined([truth(one) for one in found])
    print(f"{name}: patched", flush=True)
    said = {}
    for label, rules in methods().items():
        said[label] = joined([estimates(one, rules) for one in found])
        cells = (f"{pearson(said[label][key], true[key]):+.2f}" for key in true)
        print(f"  {label:<20}", *cells, flush=True)
    return Measured(name, sum(len(one.case.answer) for one in found), true, said)


# ------------------------------------------------------------------------------------------------ the page
def summary(models: list[Measured]) -> str:
    """Medians over models and patches."""
    rows = []
    for method in models[0].estimates:
        cells = []
        for how, score in ((pearson, CONTRAST), (same_sign, CONTRAST), (pearson, ANSWER)):
            for site in SITES:
                found = [m.cell(how, method, score, site, patch) for m in models for patch in PATCHES]
                cells.append(f"{statistics.median(found):.2f}")
        rows.append([method, *cells])
    headings = [f"{NAMES[s]}{of}" for of in (", Pearson", ", sign", ", Pearson, answer") for s in SITES]
    return "## All\n\nMedians over models and patches:\n\n" + table(["method", *headings], rows)


def section(model: Measured) -> str:
    headings = [f"{NAMES[site]}, {patch}" for site in SITES for patch in PATCHES]
    parts = [f"## {model.name}, {model.examples} examples"]
    for caption, how, score in (
        ("Pearson, contrast", pearson, CONTRAST),
        ("Spearman, contrast", spearman, CONTRAST),
        ("Pearson, the answer's logit", pearson, ANSWER),
    ):
        rows = [
            [m, *(f"{model.cell(how, m, score, site, patch):.2f}" for site in SITES for patch in PATCHES)]
            for m in model.estimates
        ]
        parts += [f"{caption}:", table(["method", *headings], rows)]
    return "\n\n".join(parts)


def verdict(models: list[Measured]) -> str:
    """Where the mark is met, by the best method of each model, site and patch."""
    lines = []
    for site in SITES:
        best = {
            (m.name, patch): max((m.cell(pearson, method, CONTRAST, site, patch), method) for method in m.estimates)
            for m in models
            for patch in PATCHES
        }
        met = [f"{name} ({patch}, {method})" for (name, patch), (r, method) in best.items() if r >= MARK[site]]
        what = f"{NAMES[site]}: {MARK[site]:.2f} is met in {len(met)} of {len(best)}"
        lines.append(f"- {what}{': ' + ', '.join(met) if met else ''}")
    return "\n".join(["By the best method of each model and patch, contrast:", "", *lines])


def programs() -> str:
    rules = {label: chosen for label, chosen in methods().items() if label in OF_PROGRAMS}
    rows = []
    for name in PROGRAMS:
        decide, others, found = shares(name, rules)
        rows.append([name, ", ".join(decide), f"{others:.2f}", *(f"{found[label]:.2f}" for label in rules)])
        print(*rows[-1], sep=" | ", flush=True)
    shown = table(["program", "heads that decide", "others hold", *rules], rows)
    return f"## Compiled programs\n\n{PROGRAM}\n\n{shown}"


OF_PROGRAMS = ("gradient", "pa-lrp", "relp")
PROGRAM = """\
The part of what passes heads, in amount, that passes those without which answers change; and the largest value that
another head holds:"""
ABOUT = """\
What would the score be if a head, an MLP or the residual stream at a token were something else? Truth: the model is run
with that value replaced, one at a time (`Explainer.patched`). Estimate: the sum of `(new - value) * coefficient`, from
one explanation of the input as it is (`relevance.at`), as attribution patching does with the gradient and RelP (Jafari
et al. 2025, {cite}) with the coefficients of LRP.

**Patches**: *zero*; *mean* over examples and tokens; *other*: the value at the same place in an example with another
answer. **Score**: the contrast, the logit of the predicted class less that of the class that is predicted for the other
example; *answer*: the logit alone. **Sites**: the residual stream and MLPs at each token, heads at all tokens together;
up to {layers} layers. **Pearson** and **Spearman** over all sites of all examples; **sign**: of effects above 1 % of
the largest. *relp* is attnlrp with attention's weights frozen and gates halved, *relp, gamma* the same with the gamma
rule on residual sums.

Up to {count} examples of each model, all of one length (lrp_fx {version}). `{language}` is SmolLM2-135M of a package,
on those of {pairs} pairs of sentences that differ in one word; its other example is the other sentence of the pair.

**What it takes to come nearer.** An estimate is linear in the change, and the score is not: where a patch turns the
answer round, or empties a token, attention and normalisations change with it. One run does not see that. The mean of
derivatives along the way from the value to its new one is exact in the limit (the fundamental theorem of calculus), at
the price of several runs for each patch; patching itself takes one."""
CITE = "arXiv 2508.21258"


def about(options: argparse.Namespace) -> str:
    said = {"layers": options.layers, "count": options.count, "pairs": len(PAIRS), "language": LANGUAGE}
    return ABOUT.format(cite=CITE, version=lrp_fx.__version__, **said)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", choices=list(MODELS), help="this one only")
    parser.add_argument("--count", type=int, default=20, help="examples of each model")
    parser.add_argument("--layers", type=int, default=3, help="places of a kind that are patched, evenly spread")
    parser.add_argument("--kept", type=Path, help="a folder of models measured before; those that are done are added")


def body(options: argparse.Namespace) -> Iterator[str]:
    models = []
    for name in [options.model] if options.model else USUAL:
        models.append(measured(name, options.count, options.layers, options.kept))
        yield "\n\n".join([summary(models), verdict(models), *map(section, models)])
    yield "\n\n".join([summary(models), verdict(models), *map(section, models), programs()])


BENCHMARK = Page(
    "patching",
    "Do coefficients know what patching heads, MLPs and the residual stream does? Pearson, sign, and known circuits",
    "patching.md",
    "Explanations against activation patching",
    about,
    body,
    add_options,
    selects=("model", "count", "layers"),
    noise={OTHERS: Noise(absolute=0.03)},
)
