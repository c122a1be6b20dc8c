"""Examine one model type: build, convert, explain two inputs in float64, balance every site, differentiate, pad."""

from __future__ import annotations

import re
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import lrp_fx
from benchmarks.coverage.gradient import gradient_error, score_all
from benchmarks.coverage.padding import padding
from benchmarks.coverage.row import Row
from lrp_fx.capture.compare import inference_configuration, ran
from testing import zoo

#: Closure demanded of the ledger and of every site.
CLOSED = {torch.float64: 1e-9, torch.float32: 1e-4}
#: Difference of the preset ``gradient`` from autograd allowed in float64, relative to the largest value; in float32
#: `SAME` is.
GRADIENT = 1e-8
#: Forward difference allowed, relative to the largest output: models force float32 in places, which a float64 program
#: computes in float64.
SAME = 1e-4
_POSITIONS = re.compile(r"rotary|rope|inv_freq|position|pos_emb|wpe|alibi|relative|rel_pos|sinus", re.IGNORECASE)
Save = Callable[[Row], None]
Target = Callable[[Tensor], Tensor] | None


def examine(task: str, model_type: str, save: Save) -> Row:
    """The row of one model type; ``save`` is called with what is known before each stage that may not return."""
    row = Row(model_type, task)
    start = time.process_time()
    warnings.simplefilter("ignore")
    try:
        _examine(row, save)
    except Exception as error:
        row.reason = row.reason or phrase(error)
    row.seconds = round(time.process_time() - start, 1)
    return row


def _examine(row: Row, save: Save) -> None:
    model = zoo.build_model(row.task, row.model_type)
    row.head, row.stage = type(model).__name__, "no forward"
    row.parameters = sum(p.numel() for p in model.parameters())
    row.expected = expects_positions(model)
    save(row)
    inputs = zoo.make_inputs(row.task, model)[0]
    model, inputs = in_float64(model, inputs, row)
    row.stage = "not captured"
    save(row)
    explainer, target, calls = _explained(model, inputs, row)
    row.stage = "not explained"
    save(row)
    inputs = calls[0][0]
    _describe(explainer, row)
    reports = [_check(model, *call) for call in calls]
    row.forward, row.ledger, row.site = (max(values) for values in zip(*reports, strict=True))
    limit = CLOSED[torch.float64 if row.dtype == "float64" else torch.float32]
    measured = (
        ("forward off by", row.forward, SAME),
        ("ledger off by", row.ledger, limit),
        ("a site off by", row.site, limit),
    )
    faults = [f"{what} {value:.0e}" for what, value, allowed in measured if not value <= allowed]
    row.stage, row.reason = ("open", ", ".join(faults)) if faults else ("closed", "")
    save(row)
    try:
        row.gradient = gradient_error(model, inputs)
        if row.gradient > (GRADIENT if row.dtype == "float64" else SAME):
            row.reason = ", ".join(filter(None, (row.reason, f"gradient off by {row.gradient:.0e}")))
    except Exception as error:
        row.reason = ", ".join(filter(None, (row.reason, f"gradient: {phrase(error)}")))
    save(row)
    try:
        row.padding = padding(explainer, inputs, target)
    except Exception as error:
        row.padding = f"failed: {phrase(error)}"


def _explained(
    model: nn.Module, inputs: dict[str, Any], row: Row
) -> tuple[lrp_fx.Explainer, Target, list[tuple[dict[str, Any], lrp_fx.Relevance]]]:
    """Two calls and their explanations; in float32 where a model's own float32 islands take other kernels when
    exported, so that float64 shows their rounding.
    """
    try:
        explainer = lrp_fx.convert(model, conserve="site", dynamic=True)
        explainer.conserve = "off"  # its graphs balance every site; what the books show is read below, not raised
        target, relevance = _first(explainer, inputs, row)
        other = vary(inputs, 1)
        return explainer, target, [(inputs, relevance), (other, explainer(**other, target=target))]
    except lrp_fx.CaptureError as error:
        row.reason = phrase(error, last=True)
        if row.dtype != "float64" or "differs from the model" not in str(error):
            raise
    model.float()
    inputs = pytree.tree_map(lambda t: t.float() if isinstance(t, Tensor) and t.dtype == torch.float64 else t, inputs)
    row.dtype, row.reason = "float32", ""
    return _explained(model, inputs, row)


def _first(explainer: lrp_fx.Explainer, inputs: dict[str, Any], row: Row) -> tuple[Target, lrp_fx.Relevance]:
    """What is explained, the predicted class or, where the output is none of classes, all of it at once; and how."""
    try:
        try:
            return None, explainer(**inputs)
        except lrp_fx.TargetError:
            return score_all, explainer(**inputs, target=score_all)
    except lrp_fx.CaptureError:
        raise
    except Exception as error:
        row.stage = "not converted" if explainer.statistics.runs == 0 else "not explained"
        row.reason = phrase(error)
        raise


def _describe(explainer: lrp_fx.Explainer, row: Row) -> None:
    program, coverage = explainer.rewritten.program, explainer.coverage
    row.method, row.nodes = program.method, len(program.graph.nodes)
    row.relevance_nodes = len(explainer.relevance_graph.graph.nodes)
    row.shares = tuple(sum(coverage[how].values()) for how in ("rule", "inferred", "unexplained"))  # type: ignore[assignment]
    row.approximated = dict(
        Counter(str(a.node.target) for a in explainer.rewritten.applications.values() if not a.rule.exact)
    )
    row.positions = sorted({s.variant for s in explainer.sites if s.kind == "position"})


def _check(model: nn.Module, inputs: dict[str, Any], relevance: lrp_fx.Relevance) -> tuple[float, float, float]:
    """(forward difference, ledger error, worst site error)."""
    with torch.no_grad(), inference_configuration(model):
        expected = [t for t in pytree.tree_leaves(model(**inputs)) if isinstance(t, Tensor) and t.is_floating_point()]
    got = [t for t in pytree.tree_leaves(relevance.output) if isinstance(t, Tensor) and t.is_floating_point()]
    forward = max((difference(g, e) for g, e in zip(got, expected, strict=False)), default=float("inf"))
    ledger = relevance.ledger
    finite = all(
        bool(t.isfinite().all()) for t in (*relevance.content.values(), *ledger.leaves.values(), *ledger.sinks.values())
    )
    return forward, float(ledger.error.max()) if finite else float("inf"), worst_site(ledger)


def worst_site(ledger: lrp_fx.Ledger) -> float:
    """The worst imbalance; infinite where one is not a number, or no site was balanced at all."""
    return max((s.error if s.error == s.error else float("inf") for s in ledger.sites), default=float("inf"))


def difference(got: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value."""
    if got.shape != expected.shape or not torch.equal(got.isfinite(), expected.isfinite()):
        return float("inf")
    kept = expected.isfinite()
    return (
        float((got[kept] - expected[kept]).abs().max() / expected[kept].abs().max().clamp_min(1e-30))
        if bool(kept.any())
        else 0.0
    )


def expects_positions(model: nn.Module) -> bool:
    names = [
        *(type(m).__name__ for m in model.modules()),
        *(n for n, _ in model.named_parameters()),
        *(n for n, _ in model.named_buffers()),
    ]
    return any(_POSITIONS.search(n) for n in names)


def in_float64(model: nn.Module, inputs: dict[str, Any], row: Row) -> tuple[nn.Module, dict[str, Any]]:
    """Model and inputs in float64 (experts by batched products: the grouped kernel has no float64), else, where the
    model fails or is not finite, as they were.
    """
    wide = pytree.tree_map(lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t, inputs)
    model.double()
    if _answers(model, wide):
        return model, wide
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("batched_mm")
        if _answers(model, wide):
            return model, wide
    row.dtype = "float32"
    model.float()
    if ran(model, inputs) is None:
        row.reason = "the model itself runs only before it is cast to float64 and back"
        raise RuntimeError(row.reason)
    return model, inputs


def _answers(model: nn.Module, inputs: dict[str, Any]) -> bool:
    """Does it run, and is what it says finite?"""
    if ran(model, inputs) is None:
        return False
    with torch.no_grad(), inference_configuration(model):
        said = [t for t in pytree.tree_leaves(model(**inputs)) if isinstance(t, Tensor) and t.is_floating_point()]
    return bool(said) and bool(said[0].isfinite().all())


def vary(inputs: dict[str, Any], seed: int) -> dict[str, Any]:
    """Other words (placeholders of images and sound stay where they are) and other pixels, sounds, series."""
    generator = torch.Generator().manual_seed(100 + seed)

    def change(name: str, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(change(name, v) for v in value)
        if not isinstance(value, Tensor) or "mask" in name or "position" in name:
            return value
        if value.is_floating_point():
            return value + 0.3 * torch.randn(value.shape, generator=generator).to(value)
        drawn = torch.randint(6, 90, value.shape, generator=generator)
        return torch.where((value >= 6) & (value < 90), drawn, value) if name.endswith("input_ids") else value

    return {n: change(n, v) for n, v in inputs.items()}


def phrase(error: Exception, *, last: bool = False) -> str:
    """The error in one line: its first telling line (of a capture's refusals the reason, or the last rung's), and
    where it happened if it is nobody's message.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if last:
        lines = (
            [line for line in lines if line.startswith("why:")]
            or [line for line in lines if line.startswith(("dynamic:", "static:", "concrete:"))][-1:]
            or lines
        )
    text = lines[0] if lines else ""
    if not isinstance(error, lrp_fx.LrpError):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {text} ({frame.filename.rsplit('/', 1)[-1]}:{frame.lineno})"
    return text[:400]
