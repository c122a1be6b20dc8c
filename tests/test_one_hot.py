"""One class of each row: the head's transpose and, where nobody wants the rest, the head itself read one row of their
matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import lrp_fx
from lrp_fx import targets
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.tracing import trace
from lrp_fx.optimize.one_hot import pick_classes
from lrp_fx.optimize.simplify import simplify
from testing.architectures import BY_NAME
from testing.converted import converted

PRODUCT = {"aten.linear", "aten.mm", "aten.addmm"}
ROWS, CLASSES, WIDTH = 3, 7, 4
G = torch.Generator().manual_seed(0)
X, W, B = (
    torch.randn(ROWS, WIDTH, generator=G),
    torch.randn(CLASSES, WIDTH, generator=G),
    torch.randn(CLASSES, generator=G),
)
INDEX = torch.tensor([[2], [0], [6]])


def picked(function: Callable[..., Any]) -> list[str]:
    """Operations of the rewritten graph of ``function(x, weight, bias, index)``, which must give the same values."""
    mode, inputs = FakeTensorMode(), (X, W, B, INDEX)
    module = trace(lambda *values: list(function(*values)), [mode.from_tensor(x) for x in inputs], mode)
    simplify(module.graph)
    pick_classes(module.graph, mode)
    module.graph.lint()
    module.recompile()
    for value, other in zip(module(*inputs), function(*inputs), strict=True):
        assert torch.allclose(value, other, rtol=1e-6, atol=1e-6)
    return [op_name(n) for n in module.graph.nodes if n.op == "call_function"]


def zeros(x: Tensor) -> Tensor:
    return x.new_zeros(ROWS, CLASSES)


def seed(x: Tensor, index: Tensor) -> Tensor:
    return zeros(x).scatter_add(1, index, x[:, :1])


COUNTS = float(X[:, 1].median())
PRODUCTS: dict[str, Callable[..., Any]] = {
    "one class": lambda x, w, b, i: [seed(x, i) @ w],
    "written, not added": lambda x, w, b, i: [zeros(x).scatter(1, i, x[:, :1]) @ w],
    "the difference of two": lambda x, w, b, i: [(seed(x, i) + seed(-x, (i + 1) % CLASSES)) @ w],
    "some rows count": lambda x, w, b, i: [torch.where(x[:, 1:2] > COUNTS, seed(x, i), x.new_zeros(())) @ w],
    "some texts count": lambda x, w, b, i: [
        torch.where(x[:, None, 1:2] > COUNTS, seed(x, i).unsqueeze(1), x.new_zeros(())).squeeze(1) @ w
    ],
    "a row of tokens": lambda x, w, b, i: [seed(x, i).unsqueeze(1).squeeze(1) @ w],
    "a turned matrix": lambda x, w, b, i: [seed(x, i) @ w.t().clone(memory_format=torch.contiguous_format).t()],
}


@pytest.mark.parametrize("function", PRODUCTS.values(), ids=PRODUCTS)
def test_products_read_the_rows_that_count(function: Callable[..., Any]) -> None:
    ops = picked(function)
    assert "aten.mm" not in ops and "aten.index_select" in ops


OTHERS: dict[str, Callable[..., Any]] = {
    "two classes in a row": lambda x, w, b, i: [
        zeros(x).scatter_add(1, torch.cat([i, (i + 1) % CLASSES], 1), x[:, :2]) @ w
    ],
    "into ones": lambda x, w, b, i: [torch.ones_like(zeros(x)).scatter_add(1, i, x[:, :1]) @ w],
    "with another part": lambda x, w, b, i: [(seed(x, i) + x @ w.t()) @ w],
    "ones elsewhere": lambda x, w, b, i: [torch.where(x[:, 1:2] > COUNTS, seed(x, i), x.new_ones(())) @ w],
    "classes that count": lambda x, w, b, i: [torch.where(b > 0, seed(x, i), x.new_zeros(())) @ w],
    "fewer rows than the matrix has": lambda x, w, b, i: [zeros(x).scatter_add(1, i[:2], x[:2, :1]) @ w],
    "zeros for each class": lambda x, w, b, i: [torch.where(x[:, 1:2] > COUNTS, seed(x, i), zeros(x)) @ w],
    "along the rows": lambda x, w, b, i: [zeros(x).scatter_add(0, i.t() % ROWS, x[:1, :3]) @ w],
    "classes that are no longer the last axis": lambda x, w, b, i: [seed(x, i).reshape(CLASSES, ROWS) @ w[:ROWS]],
}


@pytest.mark.parametrize("function", OTHERS.values(), ids=OTHERS)
def test_other_products_stay(function: Callable[..., Any]) -> None:
    assert "aten.index_select" not in picked(function)


head = torch.nn.functional.linear
READS: dict[str, Callable[..., Any]] = {
    "one class": lambda x, w, b, i: [head(x, w).gather(1, i)],
    "with a bias": lambda x, w, b, i: [head(x, w, b).gather(-1, i)],
    "two classes": lambda x, w, b, i: [head(x, w, b).gather(1, i) - head(x, w, b).gather(1, (i + 1) % CLASSES)],
    "rows that count": lambda x, w, b, i: [
        torch.where(x[:, 1:2] > COUNTS, head(x, w, b), x.new_zeros(())).gather(1, i)
    ],
    "texts that count": lambda x, w, b, i: [
        torch.where(x[:, None, 1:2] > COUNTS, head(x.unsqueeze(1), w), x.new_zeros(())).squeeze(1).gather(1, i)
    ],
    "a token of each text": lambda x, w, b, i: [head(x.unsqueeze(1), w, b).squeeze(1).gather(1, i)],
}


@pytest.mark.parametrize("function", READS.values(), ids=READS)
def test_logits_that_nobody_reads_are_not_computed(function: Callable[..., Any]) -> None:
    ops = picked(function)
    assert not PRODUCT & set(ops) and "aten.index_select" in ops


MORE: dict[str, Callable[..., Any]] = {
    "all of them": lambda x, w, b, i: [(y := head(x, w, b)).gather(1, i), y],
    "the largest": lambda x, w, b, i: [(y := head(x, w, b)).gather(1, y.argmax(-1, keepdim=True))],
    "ones elsewhere": lambda x, w, b, i: [torch.where(x[:, 1:2] > COUNTS, head(x, w, b), x.new_ones(())).gather(1, i)],
    "two in a row": lambda x, w, b, i: [head(x, w, b).gather(1, torch.cat([i, i], 1))],
    "zeros for each class": lambda x, w, b, i: [
        torch.where(x[:, 1:2] > COUNTS, head(x, w, b), b.new_zeros(CLASSES)).gather(1, i)
    ],
    "one bias for all": lambda x, w, b, i: [torch.addmm(b[:1], x, w.t()).gather(1, i)],
    "one of all rows": lambda x, w, b, i: [head(x, w, b).gather(0, i.expand(-1, CLASSES) % ROWS)],
}


@pytest.mark.parametrize("function", MORE.values(), ids=MORE)
def test_logits_that_are_read_are_computed(function: Callable[..., Any]) -> None:
    ops = picked(function)
    assert PRODUCT & set(ops) and "aten.index_select" not in ops


def test_the_models_own_outputs_are_computed_as_the_model_does() -> None:
    """An expert chosen for each token is a product of the model's own."""
    mode = FakeTensorMode()
    module = trace(
        lambda x, w, i: [seed(x, i) @ w, (seed(x, i) + 0.0 * x.sum()) @ w, seed(2 * x, i) @ w],
        [mode.from_tensor(x) for x in (X, W, INDEX)],
        mode,
    )
    simplify(module.graph)
    pick_classes(module.graph, mode, own_outputs=2)
    assert [op_name(n) for n in module.graph.nodes].count("aten.mm") == 2


class _Scorer(nn.Module):
    """(B, T) scores, one for each token, from word vectors and a head of an unusual shape."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.words = kind, nn.Embedding(20, 6)
        self.table, self.vector, self.bias = (
            nn.Parameter(torch.randn(64, 5)),
            nn.Parameter(torch.randn(6)),
            nn.Parameter(torch.randn(1)),
        )
        self.double()

    def forward(self, input_ids: Tensor) -> Tensor:
        words = torch.tanh(self.words(input_ids))
        if self.kind == "a vector":
            return torch.nn.functional.linear(words, self.vector)
        if self.kind == "one bias for all":
            return torch.nn.functional.linear(words.mean(1), self.table[:6].t(), self.bias)
        return torch.mm(words.sum(-1), self.table[: input_ids.shape[1]])


@pytest.mark.parametrize("kind", ["a vector", "one bias for all", "as wide as the text is long"])
@pytest.mark.parametrize("target", [1, targets.Contrast(1, 2)], ids=["class", "contrast"])
def test_unusual_heads(kind: str, target: Any, quiet: None) -> None:
    torch.manual_seed(0)
    model, ids = _Scorer(kind).eval(), torch.randint(20, (2, 5))
    whole = lrp_fx.convert(model)(input_ids=ids, target=target)
    alone = lrp_fx.convert(model, keep_output=False)(input_ids=ids, target=target)
    assert torch.allclose(alone.tokens, whole.tokens, rtol=1e-12, atol=1e-12) and alone.ledger.error.max() <= 1e-10


def _products_with(module: fx.GraphModule, words: int) -> list[str]:
    """Matrix products that read or write something as long as the vocabulary."""
    kinds = ("aten.mm", "aten.linear", "aten.addmm", "aten.bmm")
    values = {
        n: [v.meta.get("val") for v in (n, *n.all_input_nodes)] for n in module.graph.nodes if op_name(n) in kinds
    }
    return [op_name(n) for n, found in values.items() if any(isinstance(v, Tensor) and words in v.shape for v in found)]


@pytest.mark.parametrize(
    ("target", "keep_output", "expected"),
    [
        (None, True, ["aten.linear"]),
        (None, False, ["aten.linear"]),
        (5, True, ["aten.linear"]),
        (5, False, []),
        (targets.Contrast(5, 9), False, []),
    ],
    ids=["prediction", "prediction, relevance only", "class", "class, relevance only", "contrast, relevance only"],
)
def test_of_a_large_vocabulary_no_more_is_read_than_the_target_reads(
    target: Any, keep_output: bool, expected: list[str], quiet: None
) -> None:
    options = {} if keep_output else {"keep_output": False}
    found = converted("llama", "sdpa", torch.float64, **options)
    relevance = found.explainer(**found.inputs, target=target)
    words = found.model(**found.inputs).logits.shape[-1]
    assert _products_with(found.explainer.relevance_graph, words) == expected
    assert relevance.ledger.error.max() <= 1e-10


def test_the_prediction_is_one_class_even_where_two_are_largest(quiet: None) -> None:
    """Relevance of the prediction is that of its class: a tie does not mix two."""
    model, inputs = BY_NAME["bert"].build("sdpa", torch.float64), BY_NAME["bert"].inputs()
    with torch.no_grad():
        model.classifier.weight.zero_()[0, 0], model.classifier.bias[:] = 1.0, 0.0
        model.classifier.weight[1, 1] = 0.0
    explain = lrp_fx.convert(model)
    best = explain(**inputs)
    chosen = model(**inputs).logits.argmax(-1)
    assert torch.equal(best.tokens, explain(**inputs, target=chosen.tolist()).tokens)
