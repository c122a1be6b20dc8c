"""Functions as targets: what they read beside the output, and what cannot be traced."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lrp_fx
from testing.handmade import Small, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")
QUERY = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
chosen = 0


class Chooser:
    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, output: Tensor) -> Tensor:
        return output[:, self.number]


def by_global(output: Tensor) -> Tensor:
    return output[:, chosen]


def test_what_a_target_reads_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attribute, a global, a variable around it: the same object is another target then."""
    model, given = ready(Small()), ids()
    explain = lrp_fx.convert(model)
    target, around, table = Chooser(0), [0], {"number": 0}
    functions: list[Callable[[Tensor], Tensor]] = [
        target,
        target.__call__,
        by_global,
        lambda output: output[:, around[0]],
        lambda output: output[:, table["number"]],
        functools.partial(lambda output, which: output[:, which.number], which=target),
    ]
    for number in (0, 2, 1, 0):
        target.number = around[0] = table["number"] = number
        monkeypatch.setitem(globals(), "chosen", number)
        for function in functions:
            assert torch.equal(explain(given, target=function).score, model(given)[:, number])
    assert explain.statistics.captures == 1


def test_one_example_at_first_is_not_taken_for_granted() -> None:
    """Sizes of 1 are no symbols; the function is traced for two where that does the same."""
    model, given = ready(Small()), ids()
    explain = lrp_fx.convert(model, dynamic=True)
    for rows in (given[:1], given, given[:1]):
        for function in (lambda out: (out * QUERY).sum(-1), lambda out: out.softmax(-1)[:, 1]):
            assert torch.allclose(explain(rows, target=function).score, function(model(rows)))
    assert (explain.statistics.captures, explain.statistics.transposes) == (1, 2)

    def of_one(output: Tensor) -> Tensor:
        return output[:, 0] if len(output) == 1 else output[:, 2]

    assert torch.equal(explain(given[:1], target=of_one).score, model(given[:1])[:, 0])
    assert torch.equal(explain(given, target=of_one).score, model(given)[:, 2])


def test_what_has_not_changed_is_compiled_once() -> None:
    explain, target = lrp_fx.convert(ready(Small())), Chooser(1)
    for _ in range(3):
        explain(ids(), target=target)
    assert explain.statistics.transposes == 1


PROBE = nn.Linear(3, 1).double().eval()
LABELS = torch.tensor([1, 2])
CLOSED: dict[str, Callable[[Tensor], Tensor]] = {
    "a vector": lambda output: (output * QUERY).sum(-1),
    "a matrix product": lambda output: output @ QUERY,
    "a module": lambda output: PROBE(output)[:, 0],
    "labels": lambda output: output[torch.arange(2), LABELS],
    "a loss": lambda output: functional.cross_entropy(output, LABELS, reduction="none"),
}


@pytest.mark.parametrize("name", CLOSED)
def test_a_target_may_close_over_tensors(name: str) -> None:
    """Which its score follows when they are written to."""
    model, given, function = ready(Small()), ids(), CLOSED[name]
    values = model.embed(given).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function(model.head(torch.tanh(values).mean(1))).sum(), values)
    explain = lrp_fx.convert(model, rules="gradient")
    found = explain(given, target=function)
    assert torch.allclose(found.score, function(model(given)))
    assert torch.allclose(found.content["input_ids"], (gradient * values).sum(-1).detach(), rtol=1e-9)


def test_a_tensor_that_is_written_to_is_seen() -> None:
    model, given, query = ready(Small()), ids(), QUERY.clone()
    explain = lrp_fx.convert(model)

    def function(output: Tensor) -> Tensor:
        return output @ query

    before = explain(given, target=function).score
    query.mul_(2)
    assert torch.allclose(explain(given, target=function).score, 2 * before)


class Scaled(nn.Linear):
    scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


def test_a_module_that_is_set_otherwise_is_seen() -> None:
    model, given, probe = ready(Small()), ids(), Scaled(3, 1).double().eval()
    explain = lrp_fx.convert(model)

    def function(output: Tensor) -> Tensor:
        return probe(output)[:, 0]  # type: ignore[no-any-return]

    before = explain(given, target=function).score
    probe.scale = 2.0
    assert torch.allclose(explain(given, target=function).score, 2 * before)


def test_a_target_for_these_sizes_only_costs_the_others_nothing() -> None:
    """Two labels fit two examples: the program with symbolic sizes stays, for targets that take any."""
    explain = lrp_fx.convert(ready(Small()), dynamic=True)

    def function(output: Tensor) -> Tensor:
        return output.reshape(2, 3)[:, 1] if output.shape[0] == 2 else output.new_tensor([0.0])

    explain(ids(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(ids(2), target=function)
        assert explain(ids(4)).score.shape == (4,)
    assert explain._compiler.current.program.method == "dynamic"  # type: ignore[union-attr]
    captures = explain.statistics.captures
    explain(ids(2), target=function)
    explain(ids(5))
    assert explain.statistics.captures == captures


def test_a_target_that_decides_by_values_is_refused() -> None:
    explain = lrp_fx.convert(ready(Small()))
    explain(ids())
    with pytest.raises(lrp_fx.TargetError, match="could not be transposed"):
        explain(ids(), target=lambda output: output[:, int(output[0].argmax())])
    assert explain(ids()).score.shape == (2,), "nothing is degraded"
    with pytest.raises(lrp_fx.TargetError, match="has a derivative"):
        explain(ids(), target=lambda output: output.softmax(-1).detach()[:, 0])


def test_numbers_of_numpy() -> None:
    model, given = ready(Small()), ids()
    explain = lrp_fx.convert(model)
    assert torch.equal(explain(given, target=np.int64(2)).score, model(given)[:, 2])
    assert torch.equal(explain(given, target=np.array([1, 0])).score, model(given)[torch.arange(2), [1, 0]])


@pytest.fixture(scope="module")
def shared() -> lrp_fx.Explainer:
    explain = lrp_fx.convert(ready(Small()), dynamic=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explain(ids())
    return explain


def scored(function: Callable[[Tensor], Tensor], explain: lrp_fx.Explainer, given: Tensor) -> Tensor:
    found = explain(given, target=function)
    with torch.no_grad():
        assert torch.allclose(found.score, function(explain.model(given)))
    return found.score


def test_other_values_need_no_other_graph() -> None:
    """Of a tensor that is written to, of another tensor in its place, of a function made anew that does the same."""
    explain, given, query = lrp_fx.convert(ready(Small())), ids(), QUERY.clone()
    scored(lambda output: output @ query, explain, given)
    query.mul_(2)
    scored(lambda output: output @ query, explain, given)
    query = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    scored(lambda output: output @ query, explain, given)
    assert explain.statistics.transposes == explain.statistics.captures == 1
    query = torch.ones(3, 1, dtype=torch.float64)
    scored(lambda output: (output @ query)[:, 0], explain, given)
    assert explain.statistics.transposes == 2


@pytest.mark.parametrize("name", CLOSED)
def test_what_is_read_is_no_part_of_the_graph(
    name: str, shared: lrp_fx.Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, before = CLOSED[name], shared.statistics.transposes
    scored(function, shared, ids())
    monkeypatch.setitem(globals(), "QUERY", -QUERY)
    monkeypatch.setitem(globals(), "LABELS", 2 - LABELS)
    scored(function, shared, ids())
    assert shared.statistics.transposes <= before + 1


def test_several_directions_share_one_pass() -> None:
    explain, given = lrp_fx.convert(ready(Small())), ids()
    directions = torch.randn(4, 3, dtype=torch.float64)
    together = explain(given, targets=[lambda output, d=d: output @ d for d in directions])
    assert explain.statistics.runs == explain.statistics.transposes == 1
    for direction, found in zip(directions, together, strict=True):
        alone = explain(given, target=lambda output, d=direction: output @ d)
        assert torch.allclose(found.content["input_ids"], alone.content["input_ids"], rtol=1e-9, atol=1e-14)


def test_what_cannot_be_batched_runs_one_by_one(shared: lrp_fx.Explainer) -> None:
    """Elements that are chosen by a mask are as many as it says."""
    masks = [torch.tensor([True, False, True]), torch.tensor([False, False, True])]
    together = shared(ids(), targets=[lambda output, m=m: output[:, m].sum(-1) for m in masks])
    for mask, found in zip(masks, together, strict=True):
        assert torch.allclose(found.score, shared.model(ids())[:, mask].sum(-1))


def test_what_is_read_may_decide_in_python() -> None:
    """It is asked anew: numbers that are taken out of a tensor are of this call."""
    explain, given, wanted = lrp_fx.convert(ready(Small())), ids(), torch.tensor([2, 0])
    for label in (0, 1):
        wanted[0] = label
        scored(lambda output: output.softmax(-1)[:, int(wanted[0])], explain, given)
        scored(lambda output: torch.stack([row[c] for row, c in zip(output, wanted, strict=True)]), explain, given)
        scored(lambda output: output[:, 1] if wanted[0] else output[:, 2], explain, given)
    calls: list[int] = []

    def counted(output: Tensor) -> Tensor:
        calls.append(len(calls))
        return output[:, len(calls) % 3]

    before = len(calls)
    for _ in range(3):
        explain(given, target=counted)
        assert len(calls) > before
        before = len(calls)


def test_parts_without_a_gradient_stay_without_one() -> None:
    """`no_grad`, `detach` and derivatives of one's own are part of what is traced."""
    model, given = ready(Small()), ids()

    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(context: object, output: Tensor) -> Tensor:
            return output.clone()

        @staticmethod
        def backward(context: object, gradient: Tensor) -> Tensor:
            return gradient / 2

    def weighted(output: Tensor) -> Tensor:
        with torch.no_grad():
            weights = output.softmax(-1)
        return (weights * output).sum(-1)

    for function in (weighted, lambda output: Halved.apply(output)[:, 1]):
        values = model.embed(given).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(function(model.head(torch.tanh(values).mean(1))).sum(), values)
        found = lrp_fx.convert(model, rules="gradient")(given, target=function)
        assert torch.allclose(found.content["input_ids"], (gradient * values).sum(-1).detach(), rtol=1e-9)


def broken(output: Tensor) -> Tensor:
    return output[:, {"a": 0}["b"]]


def test_a_function_that_fails_is_named_with_its_line_and_changes_nothing() -> None:
    explain, given = lrp_fx.convert(ready(Small())), ids()
    says = r"broken\) fails .*KeyError: 'b'\n    where: .*:\d+: return output"
    for _ in range(2):  # before anything was captured, and after
        with pytest.raises(lrp_fx.TargetError, match=says):
            explain(given, target=broken)
        with pytest.raises(lrp_fx.TargetError, match="given the explained output itself"):
            explain(given, target=lambda output: output.logits[:, 0])
        with pytest.raises(lrp_fx.TargetError, match=r"decides by the values of the output\n    where: .*argmax"):
            explain(given, target=lambda output: output[:, int(output[0].argmax())])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            before = explain.statistics.transposes
            assert explain(given).score.shape == (2,)
            assert explain.statistics.transposes <= 1 and before <= 1


def test_what_cannot_be_written_to_is_named() -> None:
    table = torch.zeros(2, dtype=torch.float64)

    def function(output: Tensor) -> Tensor:
        found = table.clone()
        found[0], found[1] = output[0, 1], output[1, 1]
        return found

    with pytest.raises(lrp_fx.TargetError, match=r"writes what depends on the output.*\n    next: .*torch.stack"):
        lrp_fx.convert(ready(Small()))(ids(), target=function)


@pytest.mark.parametrize("options", [{"keep_output": False}, {"conserve": "site"}, {"dynamic": True}])
def test_what_is_read_is_an_input_whatever_the_options(options: dict[str, object]) -> None:
    model, given = ready(Small()), ids()
    explain = lrp_fx.convert(model, **options)  # type: ignore[arg-type]
    for labels in (torch.tensor([0, 2]), torch.tensor([1, 1])):
        found = explain(given, target=lambda output, y=labels: output.gather(1, y[:, None])[:, 0])
        assert torch.allclose(found.score, model(given)[torch.arange(2), labels])
    assert explain.statistics.transposes == explain.statistics.captures == 1


def once(explain: lrp_fx.Explainer, *functions: Callable[[Tensor], Tensor]) -> bool:
    """Does one graph serve all of them, each for a batch of its own size?"""
    before = explain.statistics.transposes
    for number, function in enumerate(functions):
        scored(function, explain, ids(2 + number if len(functions) > 2 else 2))
    return explain.statistics.transposes <= before + 1  # another that does the same may have been asked before


BY_EXAMPLE: dict[str, Callable[[Tensor], Callable[[Tensor], Tensor]]] = {
    "indexed": lambda y: lambda output: output[torch.arange(len(y)), y],
    "gathered": lambda y: lambda output: output.gather(1, y[:, None])[:, 0],
    "a loss": lambda y: lambda output: functional.cross_entropy(output, y, reduction="none"),
    "one hot": lambda y: lambda output: (output * functional.one_hot(y, 3)).sum(-1),
    "not by example": lambda y: lambda output: (output * QUERY).sum(-1),
}


@pytest.mark.parametrize("name", BY_EXAMPLE)
def test_labels_of_batches_of_any_size(name: str, shared: lrp_fx.Explainer) -> None:
    """What is read by example has as many rows as the output: one graph serves all (also where classes are as many)."""
    assert once(shared, *(BY_EXAMPLE[name](torch.arange(count) % 3) for count in (2, 3, 4)))
    assert shared.statistics.captures == 1


def test_the_probability_of_a_text_of_any_length() -> None:
    class Writer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)
            self.double().eval()

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(torch.tanh(self.embed(input_ids).cumsum(1)))  # type: ignore[no-any-return]

    explain = lrp_fx.convert(Writer(), dynamic=True)
    for batch, length in ((2, 5), (3, 7), (4, 4)):
        texts = torch.arange(batch * length).reshape(batch, length) % 9

        def chance(output: Tensor, texts: Tensor = texts) -> Tensor:
            return output[:, :-1].log_softmax(-1).gather(2, texts[:, 1:, None])[:, :, 0].sum(1)

        assert torch.allclose(explain(texts, target=chance).score, chance(explain.model(texts)))
    assert explain.statistics.transposes == explain.statistics.captures == 1


def filled(output: Tensor) -> Tensor:
    found = torch.zeros(len(LABELS), dtype=output.dtype)
    for row, label in enumerate(LABELS):
        found[row] = output[row, label]
    return found


SCALE = {"by": torch.tensor(3.0, dtype=torch.float64)}
REFERENCE = torch.tensor([[1.0, 0.5, -2.0]], dtype=torch.float64)
SPELLED: dict[str, Callable[[Tensor], Tensor]] = {
    "likeness": lambda output: functional.cosine_similarity(output, REFERENCE),
    "filled": filled,
    "one number": lambda output: output[:, 0] * SCALE["by"],
    "one by one": lambda output: sum(output[:, i] * w for i, w in enumerate(REFERENCE[0])),  # type: ignore[return-value]
    "by example": lambda output: torch.vmap(lambda row: row @ REFERENCE[0])(output),
    "a derivative": lambda output: torch.func.grad(lambda x: (x**3).sum())(output).sum(-1),
    "a margin": lambda output: output[:, 1] - output.masked_fill(functional.one_hot(LABELS, 3) > 0, -9).amax(-1),
    "scattered": lambda output: (
        torch.zeros(2, 3, dtype=output.dtype).scatter(1, LABELS[:, None], output[:, :1]).sum(-1)
    ),
    "of numpy": lambda output: (output * torch.from_numpy(REFERENCE.numpy())).sum(-1),
    "a module": lambda output: PROBE(PROBE.weight * output)[:, 0],
}


@pytest.mark.parametrize("name", SPELLED)
def test_functions_written_in_any_way(name: str, shared: lrp_fx.Explainer) -> None:
    assert once(shared, SPELLED[name], SPELLED[name])


def test_tensors_of_inference_mode_are_read_too(shared: lrp_fx.Explainer) -> None:
    with torch.inference_mode():
        direction = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
        scored(lambda output: (output * direction).square().sum(-1), shared, ids())
    scored(lambda output: (output * direction).square().sum(-1), shared, ids())


def test_a_function_may_ask_the_model_itself() -> None:
    explain, other = lrp_fx.convert(ready(Small())), ids(seed=5)
    scored(lambda output: (output - explain.model(other)).square().sum(-1), explain, ids())


def test_dropout_in_a_target_drops() -> None:
    """What it keeps, it doubles; what it drops has no relevance."""
    explain, given = lrp_fx.convert(ready(Small())), ids(8)
    whole = explain(given, target=0)
    torch.manual_seed(0)
    found = explain(given, target=lambda output: functional.dropout(output, 0.5)[:, 0])
    kept = (found.score != 0).double()
    assert 0 < kept.sum() < 8
    assert torch.allclose(found.score, 2 * kept * whole.score)
    assert torch.allclose(found.content["input_ids"], 2 * kept[:, None] * whole.content["input_ids"])


MIXED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "less the mean": (lambda output: output[:, 0] - output[:, 0].mean(), "example 0 .* of examples 1, 2$"),
    "another's": (lambda output: output[:, 0] * output.flip(0)[:, 0], "example 0 .* of example 2$"),
    "standardised": (lambda output: ((output - output.mean(0)) / output.std(0))[:, 0], "of examples 1, 2$"),
    "the first's": (lambda output: output[:, 0] * output[0, 1], "example 2 .* of example 0$"),
}


@pytest.mark.parametrize("name", MIXED)
def test_scores_that_read_other_examples_are_refused(name: str) -> None:
    """Before anything is captured, and where the function was asked for one example before."""
    function, says = MIXED[name]
    explain = lrp_fx.convert(ready(Small()))
    with pytest.raises(lrp_fx.TargetError, match=f"(?m){says}\n    next: explain one example at a time"):
        explain(ids(3), target=function)
    assert explain.statistics.captures == 0
    if name != "standardised":  # one example has no deviation
        explain = lrp_fx.convert(ready(Small()), dynamic=True)
        explain(ids(1), target=function)
        with pytest.raises(lrp_fx.TargetError, match="reads other examples"):
            explain(ids(3), target=function)


def test_examples_need_not_be_the_first_axis_of_the_output() -> None:
    class Crossed(Small):
        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(torch.tanh(self.embed(input_ids))).transpose(0, 1)  # type: ignore[no-any-return]

    model = ready(Crossed())
    for batch in (2, 3):  # as many tokens as examples
        given = ids(batch, 3)
        explain = lrp_fx.convert(model)
        assert torch.equal(explain(given, target=lambda output: output[-1, :, 0]).score, model(given)[-1, :, 0])
        with pytest.raises(lrp_fx.TargetError, match="reads other examples"):
            explain(given, target=lambda output, n=batch: output[:n, 0, 0])


def test_functions_of_a_value_inside_read_one_example_each() -> None:
    explain, at = lrp_fx.convert(ready(Small())), lrp_fx.targets.At
    assert explain(ids(3), target=at("head", lambda value: value[:, 0])).score.shape == (3,)
    with pytest.raises(lrp_fx.TargetError, match="reads other examples"):
        explain(ids(3), target=at("head", lambda value: value[:, 0] - value[:, 0].mean()))


def test_a_function_may_differentiate_by_autograd(shared: lrp_fx.Explainer) -> None:
    """With ``create_graph``, as `torch.func.grad` does; before anything is captured, and after."""

    def by_autograd(output: Tensor) -> Tensor:
        return torch.autograd.grad((output**3).sum(), output, create_graph=True)[0][:, 0]

    for explain in (lrp_fx.convert(shared.model), shared):
        ours, plain = (explain(ids(), target=f) for f in (by_autograd, lambda output: 3 * output[:, 0] ** 2))
        assert torch.allclose(ours.score, plain.score)
        assert torch.allclose(ours.content["input_ids"], plain.content["input_ids"])


def test_a_target_that_cannot_tell_its_sizes_is_refused_with_a_way_out() -> None:
    def transcribed(output: Tensor) -> Tensor:
        scores = output.log_softmax(-1)[None].expand(4, -1, -1)
        written = torch.ones(output.shape[0], 1, dtype=torch.long)
        lengths = (4,) * output.shape[0], (1,) * output.shape[0]
        return -torch.nn.functional.ctc_loss(scores, written, *lengths, reduction="none")

    with pytest.raises(lrp_fx.TargetError, match="next: this operation does not say how large"):
        lrp_fx.convert(ready(Small()))(ids(), target=transcribed)
