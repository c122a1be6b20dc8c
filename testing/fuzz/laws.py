"""What must hold of every program, whatever it computes. A law returns what is wrong in a few words, or nothing."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lrp_fx
from lrp_fx.runtime.captures import forget
from testing.fuzz.program import MASK, Looking, Program

#: Of the class that is explained, and of what may differ by rounding.
CLASS, EXACT, NARROW = 1, 1e-9, 1e-3


class Case:
    """A program with its model, whose capture the laws share, and its inputs."""

    def __init__(self, program: Program) -> None:
        self.program, self.model, self.inputs = program, program.model(), program.example()
        self.allowed = NARROW if program.narrow else EXACT

    def explainer(self, **options: Any) -> lrp_fx.Explainer:
        return lrp_fx.convert(self.model, **{"dynamic": False, **options})

    def explained(self, chosen: list[int] | None = None, **options: Any) -> lrp_fx.Relevance:
        """Of some of the examples."""
        inputs = {name: value if chosen is None else value[chosen] for name, value in self.inputs.items()}
        return self.explainer(**options)(**inputs, target=CLASS)


def gradient(case: Case) -> str:
    """The preset ``gradient`` is gradient x input, as autograd computes it."""
    begun = [v.detach().requires_grad_() for v in case.model.begin(case.inputs)]
    logits = case.model.values(begun, case.inputs.get(MASK))[-1]
    score = logits[:, -1, CLASS] if logits.dim() == 3 else logits[:, CLASS]
    slopes = torch.autograd.grad(score.sum(), begun, materialize_grads=True)
    found = case.explained(rules="gradient")
    wrong = []
    for name, value, slope in zip(case.program.read, begun, slopes, strict=True):
        product = (slope * value).detach()
        expected = product if name == "features" else product.sum(-1)
        scale = float(product.abs().sum(-1).max())  # terms cancel behind what a scale of its input does not change
        R = found.content.get(name, torch.zeros_like(expected))  # an input that decides only has no relevance
        wrong.append(difference(R, expected, case.allowed, f"gradient of {name}", scale))
    return "; ".join(filter(None, wrong))


def books(case: Case) -> str:
    """Every site balances, every example closes, and what was approximated is reported."""
    explainer = case.explainer(conserve="site")
    found = explainer(**case.inputs, target=CLASS)
    error = float(found.ledger.error.max())
    if not error <= case.allowed:
        return f"the ledger is off by {error:.1e}"
    lost = found.ledger.sinks.get("unexplained")
    reported = explainer.coverage["unexplained"]
    return "relevance is unexplained, no node is reported" if lost is not None and lost.any() and not reported else ""


def examples(case: Case) -> str:
    """What an example gets depends on no other, nor on its place in the batch."""
    whole = rows(case.explained())
    for others in ([1, 1, 1], [2, 0, 1]):
        wrong = agree(chosen(whole, others), rows(case.explained(others)), case.allowed, f"examples {others}")
        if wrong:
            return wrong
    return ""


def captures(case: Case) -> str:
    """Captured for all sizes, for these, for one example or for this call, the relevance is the same."""
    static = rows(case.explained())
    alone = agree(chosen(static, [1]), rows(case.explained([1])), case.allowed, "alone")
    looking = lrp_fx.convert(Looking(case.program))(**case.inputs, target=CLASS)
    once = agree(static, rows(looking), case.allowed, "captured for this call")
    forget()
    return alone or once or agree(static, rows(case.explained(dynamic=True)), case.allowed, "captured for any size")


def runs(case: Case) -> str:
    """Saved and loaded, and with its inner values computed twice, a graph gives the same relevance."""
    explainer = case.explainer()
    relevance = explainer(**case.inputs, target=CLASS)
    found = rows(relevance)
    with tempfile.TemporaryDirectory() as folder:
        explainer.save(Path(folder) / "graph.lrpfx")
        read = lrp_fx.load(Path(folder) / "graph.lrpfx")(**case.inputs, target=CLASS)
        wrong = agree(found, rows(read), case.allowed, "saved and loaded")
    for option in ({"keep_output": False}, *([{"checkpoint": True}] if relevance.streams else [])):
        wrong = wrong or agree(found, rows(case.explained(**option)), case.allowed, f"with {option}")
    return wrong


def compiled(case: Case) -> str:
    """Through ``torch.compile``, a graph gives the same relevance."""
    return agree(rows(case.explained()), rows(case.explained(compile=True)), max(1e-6, case.allowed), "compiled")


def spellings(case: Case) -> str:
    """The same functions written in another way have the same relevance."""
    for other in respelled(case.program):
        wrong = agree(rows(case.explained()), rows(Case(other).explained()), case.allowed, "written otherwise")
        if wrong:
            return f"{wrong}, as {', '.join(s.operation for s in other.steps)}"
    return ""


def respelled(program: Program) -> Iterator[Program]:
    """All steps that have other spellings written in the next."""
    most = max((len(step.what.spellings) for step in program.steps), default=0)
    for turn in range(1, most):
        steps = [
            replace(s, operation=g[(g.index(s.operation) + turn) % len(g)]) if (g := s.what.spellings) else s
            for s in program.steps
        ]
        yield replace(program, steps=tuple(steps))


#: All laws, by name.
LAWS: dict[str, Callable[[Case], str]] = {
    law.__name__: law for law in (gradient, books, examples, captures, runs, compiled, spellings)
}


def broken(program: Program, laws: Iterable[str] = tuple(LAWS)) -> dict[str, str]:
    """What is wrong with a program by which of the laws: also what they raise; empty where nothing is."""
    forget()
    case, found = Case(program), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cancellation in random models
        for law in laws:
            try:
                found[law] = LAWS[law](case)
            except Exception as error:
                found[law] = f"{type(error).__name__}: {error}"
    return {law: wrong for law, wrong in found.items() if wrong}


def rows(found: lrp_fx.Relevance) -> dict[str, Tensor]:
    """What is compared of a result: score, content, position and content by token."""
    tokens = found.tokens
    named = tokens if isinstance(tokens, dict) else {"the input": tokens}
    return {"score": found.score, **found.content, **{f"tokens of {n}": t for n, t in named.items()}}


def chosen(found: dict[str, Tensor], examples: list[int]) -> dict[str, Tensor]:
    return {name: value[examples] for name, value in found.items()}


def agree(a: dict[str, Tensor], b: dict[str, Tensor], allowed: float, what: str) -> str:
    if a.keys() != b.keys():
        return f"{what}: there are {sorted(b)} where there were {sorted(a)}"
    scale = max(float(value.abs().max()) for value in a.values())
    found = (difference(b[name], a[name], allowed, f"{what}: {name}", scale) for name in a)
    return "; ".join(filter(None, found))


def difference(found: Tensor, expected: Tensor, allowed: float, what: str, scale: float = 0.0) -> str:
    """The largest difference, relative to the largest value."""
    if found.shape != expected.shape:
        return f"{what} has shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    largest = max(scale, float(expected.abs().max()), 1e-6)
    off = float((found - expected).abs().max()) / largest
    return "" if off <= allowed else f"{what} is off by {off:.1e}"
