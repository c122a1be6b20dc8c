"""Operations that no rule lists are classified by probing, reported, and still close their books."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

import lrp_fx
from lrp_fx.analysis.classify import Inferred, infer
from lrp_fx.rule import DEFAULT, Call, registry
from testing.laws import check_balance, check_value, floating, with_value
from testing.operations import UNLISTED

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


# ------------------------------------------------------------------------------------------------ operators never seen
def define(name: str, body: Callable[..., Any], schema: str, *, derivative: str = "right") -> Callable[..., Any]:
    """A custom operator, differentiable through its own decomposition (or wrongly, or not at all)."""

    def run(*args: Any) -> Any:
        return pytree.tree_map(lambda t: t.clone(), body(*args))

    op = torch.library.custom_op(f"lrp_fx_tests::{name}", run, mutates_args=(), schema=schema)
    op.register_fake(lambda *args: pytree.tree_map(torch.empty_like, body(*args)))
    if derivative == "none":
        return op

    def backward(ctx: Any, *grads: Any) -> Any:
        flat, spec = pytree.tree_flatten(ctx.given)
        with torch.enable_grad():
            leaves = [
                t.detach().requires_grad_() if isinstance(t, Tensor) and t.is_floating_point() else t for t in flat
            ]
            outs = pytree.tree_leaves(body(*pytree.tree_unflatten(leaves, spec)))
        seeds = pytree.tree_leaves(grads, is_leaf=lambda g: g is None)
        pairs = [(o, g) for o, g in zip(outs, seeds, strict=True) if g is not None and o.requires_grad]
        wanted = [t for t in leaves if isinstance(t, Tensor) and t.requires_grad]
        found = iter(torch.autograd.grad([o for o, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True))
        factor = 2.0 if derivative == "wrong" else 1.0
        results = [next(found) if isinstance(t, Tensor) and t.requires_grad else None for t in leaves]
        return pytree.tree_unflatten([None if g is None else g * factor for g in results], spec)

    op.register_autograd(backward, setup_context=lambda ctx, inputs, output: setattr(ctx, "given", tuple(inputs)))
    return op


ONE, TWO, THREE = "(Tensor x) -> Tensor", "(Tensor x, Tensor y) -> Tensor", "(Tensor x, Tensor y, Tensor z) -> Tensor"


def _select_power(x: Tensor, which: Tensor) -> Tensor:
    """Linear where the index is 0, a square where it is not."""
    return torch.where(which == 0, x, x * x + x)


def _halves(x: Tensor) -> Tensor:
    """Has no float64 kernel."""
    if x.dtype == torch.float64:
        raise NotImplementedError("no kernel for double")
    return x * 3.0


#: name -> operator, how it is called on x (B, T, 6) and another y, the rule it must be given (None: unexplained)
OPERATORS: dict[str, tuple[Callable[..., Any], Callable[..., Tensor], str | None]] = {
    "linear": (define("mix", lambda x: x.flip(-1) * 2.0 - x, ONE), lambda op, x, y: op(x), "linear.affine"),
    "affine": (define("shift", lambda x: x * 0.5 + 3.0, ONE), lambda op, x, y: op(x), "linear.affine"),
    "linear in several jointly": (
        define("blend", lambda x, y: 2.0 * x - y.flip(-1), TWO),
        lambda op, x, y: op(x, y),
        "linear.affine",
    ),
    "list of operands": (
        define("gather_up", lambda xs: sum(xs[1:], xs[0]) * 0.5, "(Tensor[] xs) -> Tensor"),
        lambda op, x, y: op([x, y, x]),
        "linear.affine",
    ),
    "list, placed": (
        define("join", lambda xs: torch.cat(xs, -1), "(Tensor[] xs) -> Tensor"),
        lambda op, x, y: op([x, y])[..., 3:9],
        "route.winner",
    ),
    "move": (define("turn", lambda x: x.roll(2, -1), ONE), lambda op, x, y: op(x), "move.inferred"),
    "index operand": (
        define("pick", lambda x, i: x.index_select(-1, i), "(Tensor x, Tensor i) -> Tensor"),
        lambda op, x, y: op(x, torch.arange(6).flip(0)),
        "move.inferred",
    ),
    "elementwise": (define("wave", lambda x: torch.sin(x) * x, ONE), lambda op, x, y: op(x), "elementwise.inferred"),
    "elementwise with an offset": (
        define("bump", lambda x: torch.exp(-x * x), ONE),
        lambda op, x, y: op(x),
        "elementwise.inferred",
    ),
    "elementwise beside a coefficient": (
        define("bend", lambda x, y: torch.sinh(x * y), TWO),
        lambda op, x, y: op(x, torch.full((6,), 0.5, dtype=x.dtype)),
        "elementwise.inferred",
    ),
    "elementwise, steep at zero": (
        define("root", lambda x: x.abs().sqrt() * x.sign(), ONE),
        lambda op, x, y: op(torch.relu(x)),
        "elementwise.inferred",
    ),
    "elementwise without a derivative": (
        define("stair", lambda x: torch.tanh(x) + 0.5, ONE, derivative="none"),
        lambda op, x, y: op(x),
        "elementwise.inferred",
    ),
    "two results": (
        define("both", lambda x: (torch.sin(x), torch.cos(x)), "(Tensor x) -> (Tensor, Tensor)"),
        lambda op, x, y: op(x)[0] + 2.0 * op(x)[1],
        "elementwise.inferred",
    ),
    "two linear results": (
        define(
            "parts", lambda x: (x.flip(-1) * 2.0, x - x.mean(-1, keepdim=True) + 1.0), "(Tensor x) -> (Tensor, Tensor)"
        ),
        lambda op, x, y: op(x)[0] + op(x)[1],
        "linear.affine",
    ),
    "choice": (
        define("best", lambda x: x.topk(3, -1).values, ONE),
        lambda op, x, y: torch.cat([op(x), op(-x)], -1),
        "route.winner",
    ),
    "normalising": (
        define("unit", lambda x: x / (x.square().sum(-1, keepdim=True) + 0.1).sqrt(), ONE),
        lambda op, x, y: op(x),
        "normalise.inferred",
    ),
    "bilinear": (define("pair", lambda x, y: x * y.flip(-1), TWO), lambda op, x, y: op(x, y), "product.inferred"),
    "three-linear": (
        define("triple", lambda x, y, z: x * y * z.flip(-1), THREE),
        lambda op, x, y: op(x, y, torch.nn.functional.silu(y)),
        "product.inferred",
    ),
    "homogeneous": (
        define("spread", lambda x: x.flip(-1) * x.norm(dim=-1, keepdim=True) ** 2, ONE),
        lambda op, x, y: op(x),
        "homogeneous.inferred",
    ),
    "homogeneous of fractional degree": (
        define("roots", lambda x: x.abs().sqrt().cumsum(-1), ONE),
        lambda op, x, y: op(torch.relu(x)),
        "homogeneous.inferred",
    ),
    "homogeneous of other degree in each": (
        define("ratio", lambda x, y: x.flip(-1) * y.square().sum(-1, keepdim=True) ** 0.25, TWO),
        lambda op, x, y: op(x, y),
        "homogeneous.inferred",
    ),
    "homogeneous in several jointly": (
        define("length", lambda x, y: (x * x + y.flip(-1) ** 2).sqrt(), TWO),
        lambda op, x, y: op(x, y),
        "homogeneous.inferred",
    ),
    "results of two degrees": (
        define("moments", lambda x: (x.abs().cumsum(-1), (x * x).cumsum(-1)), "(Tensor x) -> (Tensor, Tensor)"),
        lambda op, x, y: op(x)[0] + op(x)[1],
        "homogeneous.inferred",
    ),
    "of no class": (
        define("odd", lambda x: torch.cosh(x.sum(-1, keepdim=True)) + x, ONE),
        lambda op, x, y: op(x),
        None,
    ),
    "of degree zero": (
        define("share", lambda x: x.abs().cumsum(-1) / x.abs().sum(-1, keepdim=True), ONE),
        lambda op, x, y: op(x),
        None,
    ),
    "linear at index 0 only": (
        define("select_power", _select_power, "(Tensor x, Tensor i) -> Tensor"),
        lambda op, x, y: op(x.flip(-1), torch.arange(6) % 2),
        "elementwise.inferred",
    ),
    "linear within bounds": (
        define("bounded", lambda x: x.flip(-1).clamp(-3e4, 3e4), ONE),
        lambda op, x, y: op(x),
        None,
    ),
}


class Model(nn.Module):
    def __init__(self, call: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.other, self.head, self.call = nn.Embedding(12, 6), nn.Linear(6, 6), nn.Linear(6, 3), call

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        return self.head(self.call(x, self.other(x)).sum(1))


def model_of(case: str) -> Model:
    op, call, _ = OPERATORS[case]
    return Model(lambda x, y: call(op, x, y)).double().eval()


def applied(explainer: lrp_fx.Explainer) -> list[Any]:
    return [a for a in explainer.rewritten.applications.values() if "lrp_fx_tests" in str(a.node.target)]


@pytest.mark.filterwarnings("ignore:the parts of the score cancel")
@pytest.mark.parametrize("case", OPERATORS)
def test_custom_operators_are_classified(case: str) -> None:
    explain = lrp_fx.convert(model_of(case), conserve="site", dynamic=case == "elementwise")
    relevance = explain(input_ids=IDS)
    assert relevance.ledger.error.max() <= 1e-10
    assert relevance.tokens.isfinite().all()
    (rule,) = {a.rule.name for a in applied(explain)}
    assert all(a.how == "inferred" and "lrp_fx_tests." in a.why for a in applied(explain)), (
        "every inferred decision says why"
    )
    assert rule == (OPERATORS[case][2] or "tangent.unexplained")
    assert (
        bool(explain.coverage["unexplained"])
        == ("unexplained" in relevance.ledger.sinks)
        == (OPERATORS[case][2] is None)
    ), "reported, never silent"


def test_strict_mode_refuses_what_has_no_class_only_and_says_what_to_write() -> None:
    for case, (*_, rule) in OPERATORS.items():
        if rule is not None and case.startswith("elementwise"):
            lrp_fx.convert(model_of(case), strict=True).trace(input_ids=IDS)
    with pytest.raises(lrp_fx.UnsupportedOperatorError) as caught:
        lrp_fx.convert(model_of("of no class"), strict=True)(input_ids=IDS)
    message = str(caught.value)
    for part in (
        "lrp_fx_tests.odd",
        "test_infer.py",
        "neither linear, elementwise",
        'ops=("lrp_fx_tests.odd",)',
        "surrogate=",
        "rules/",
        "strict=False",
    ):
        assert part in message, part


@pytest.mark.parametrize(
    ("derivative", "said"), [("none", "has no derivative"), ("wrong", "derivative is not that of its values")]
)
def test_an_operator_without_a_right_derivative_is_refused(derivative: str, said: str) -> None:
    op = define(f"stiff_{derivative}", lambda x: x.flip(-1) * 2.0, ONE, derivative=derivative)
    explain = lrp_fx.convert(Model(lambda x, y: op(x)).double().eval(), conserve="off")
    with pytest.raises(lrp_fx.UnsupportedOperatorError) as caught:
        explain(input_ids=IDS)
    for part in (said, "register_autograd", f'ops=("lrp_fx_tests.stiff_{derivative}",)'):
        assert part in str(caught.value), part


def test_an_operator_off_the_relevance_path_needs_no_derivative() -> None:
    op = define("idle", lambda x: x.flip(-1) * 2.0, ONE, derivative="none")
    model = Model(lambda x, y: x * (1.0 + op(x).detach().sum() * 0.0)).double().eval()
    lrp_fx.convert(model, rules="cp-lrp").trace(input_ids=IDS)


# ------------------------------------------------------------------------------------------------ same function, same
# relevance
KNOWN: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "elementwise": ("elementwise", lambda x, y: torch.sin(x) * x),
    "an offset": ("elementwise with an offset", lambda x, y: torch.exp(-x * x)),
    "no derivative": ("elementwise without a derivative", lambda x, y: torch.tanh(x) + 0.5),
    "normalising": ("normalising", lambda x, y: x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 0.1)),
    "bilinear": ("bilinear", lambda x, y: x * y.flip(-1)),
    "three-linear": ("three-linear", lambda x, y: x * y * nn.functional.silu(y).flip(-1)),
    "joined": ("list, placed", lambda x, y: torch.cat([x, y], -1)[..., 3:9]),
    "two results": ("two results", lambda x, y: torch.sin(x) + 2.0 * torch.cos(x)),
}


@pytest.mark.filterwarnings("ignore:the parts of the score cancel")
@pytest.mark.parametrize("case", KNOWN)
def test_inferred_operator_gets_what_its_known_spelling_gets(case: str) -> None:
    custom = lrp_fx.convert(model_of(KNOWN[case][0]), dynamic=False)(input_ids=IDS)
    written = lrp_fx.convert(Model(KNOWN[case][1]).double().eval(), dynamic=False)(input_ids=IDS)
    scale = float(written.ledger.magnitude.max())
    assert torch.allclose(custom.tokens, written.tokens, rtol=1e-5, atol=1e-6 * scale)


def test_an_inferred_product_is_a_factor_of_its_chain() -> None:
    op = OPERATORS["bilinear"][0]
    custom = lrp_fx.convert(Model(lambda x, y: op(x, y) * x.cumsum(-1)).double().eval())(input_ids=IDS)
    written = lrp_fx.convert(Model(lambda x, y: x * y.flip(-1) * x.cumsum(-1)).double().eval())(input_ids=IDS)
    assert torch.allclose(custom.tokens, written.tokens, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------------ probing itself
def node_of(call: Call) -> tuple[fx.Node, list[fx.Node]]:
    """A call as a node of a graph, and its carrying operands."""
    flat, spec = pytree.tree_flatten((tuple(call.args), dict(call.kwargs)), is_leaf=lambda x: x is None)
    graph, mode = fx.Graph(), FakeTensorMode()
    for i, a in enumerate(flat):
        if isinstance(a, Tensor):
            flat[i] = graph.placeholder(f"a{i}")
            flat[i].meta["val"] = mode.from_tensor(a)
    args, kwargs = pytree.tree_unflatten(flat, spec)
    node = graph.call_function(call.op, tuple(args), kwargs)
    node.meta["val"] = call.run()
    return node, [flat[i] for i in sorted(call.carriers)]


def infer_call(op: Any, *args: Any, carriers: tuple[int, ...] = (0,)) -> Inferred:
    return infer(*node_of(Call(op, args, carriers=frozenset(carriers))))


def test_probing_is_deterministic_and_leaves_the_generator_alone() -> None:
    noisy = define("noisy", lambda x: x * torch.rand_like(x), ONE)
    node, operands = node_of(
        Call(torch.ops.lrp_fx_tests.noisy.default, (torch.ones(2, 3, dtype=torch.float64),), carriers=frozenset({0}))
    )
    before = torch.get_rng_state()
    found = infer(node, operands)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.kind == "tangent", "not elementwise: it draws"
    assert noisy is not None


def test_large_operands_are_probed_small() -> None:
    sizes: list[int] = []

    def body(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x.flip(-1) * 2.0

    op = define("wide", body, ONE)
    assert op is not None
    assert infer_call(torch.ops.lrp_fx_tests.wide.default, torch.zeros(2, 1 << 10, 1 << 12)).kind == "linear"
    assert max(sizes[1:]) < 1 << 10, "the first is the call itself"


def test_static_sizes_are_probed_as_they_are() -> None:
    assert infer_call(torch.ops.aten.tile.default, torch.zeros(2, 64, 256), [1, 2, 1]).kind == "move"
    assert infer_call(torch.ops.aten.upsample_nearest1d.default, torch.zeros(2, 64, 256), [512]).kind == "move"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_operator_without_a_float64_kernel_is_probed_in_its_own_type(dtype: torch.dtype) -> None:
    op = define(f"halves_{str(dtype)[6:]}", _halves, ONE)
    assert op is not None
    name = f"halves_{str(dtype)[6:]}"
    assert infer_call(getattr(torch.ops.lrp_fx_tests, name).default, torch.zeros(4, 8, dtype=dtype)).kind == "linear"


def test_an_operator_that_computes_in_float32_is_classified_all_the_same() -> None:
    op = define("island", lambda x: (x.float().flip(-1) * 1.7).to(x.dtype), ONE)
    assert op is not None
    assert infer_call(torch.ops.lrp_fx_tests.island.default, torch.zeros(4, 8, dtype=torch.float64)).kind == "linear"


def test_complex_operands() -> None:
    z = torch.zeros(4, dtype=torch.complex128)
    assert infer_call(torch.ops.aten._conj.default, z).kind == "linear"
    assert infer_call(torch.ops.aten.abs.default, z).kind == "homogeneous"
    assert infer_call(torch.ops.aten.view_as_real.default, z).kind == "move"


def test_integer_operands_that_cannot_be_drawn_are_not_guessed() -> None:
    def body(x: Tensor, i: Tensor) -> Tensor:
        if not torch.equal(i.sort().values, torch.arange(100, 100 + i.numel())):
            raise ValueError("a permutation of 100..")
        return x[..., i - 100]

    op = torch.library.custom_op(
        "lrp_fx_tests::particular", body, mutates_args=(), schema="(Tensor x, Tensor i) -> Tensor"
    )
    assert op is not None
    found = infer_call(torch.ops.lrp_fx_tests.particular.default, torch.zeros(2, 6), torch.arange(100, 106))
    assert found.kind == "tangent" and "could not be probed" in found.why


# ------------------------------------------------------------------------------------------------ what need not be
# listed
def listed_by_hand() -> set[str]:
    """Operations of PyTorch that some rule lists by name."""
    return {op for rule in registry.rules.values() if rule.kind != "leaf" for op in rule.ops if "." in op}


@pytest.mark.parametrize(
    "call", [pytest.param(call, id=f"{name}-{k}") for name, calls in UNLISTED.items() for k, call in enumerate(calls)]
)
def test_operation_that_is_inferred_obeys_the_laws(call: Call) -> None:
    """Ordinary operations that no rule needs to list: classified, equal in value, balanced."""
    found = infer(*node_of(call))
    assert found.kind != "tangent", found.why
    assert "derivative" not in found.facts, found.why
    rules = registry.choice(registry.rulesets[DEFAULT]).candidates(found.kind, call.name)
    rule = next(rule for rule in rules if "*" in rule.ops)  # one that lists it would be asked for another kind
    call = Call(call.op, call.args, call.kwargs, call.carriers, dict.fromkeys(call.carriers, 1), facts=found.facts)
    check_value(rule, with_value(call))
    if all(y.dtype != torch.float32 for y in floating(call.run())):
        check_balance(rule, with_value(call))


def test_most_operations_need_no_list() -> None:
    """Of the operations that rules or these calls know, more than half are in no rule: inference tells their class."""
    listed = listed_by_hand()
    unlisted = {f"aten.{name}" for name in UNLISTED} - listed
    assert len(unlisted) > len(unlisted | listed) / 2
