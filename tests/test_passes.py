"""Passes: each takes a program and returns a new one, states what it requires and ensures, and changes no output."""

from __future__ import annotations

import dataclasses
import operator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

import lrp_fx
from lrp_fx.analysis.provenance import find_provenance
from lrp_fx.canonicalize.passes import PASSES, canonicalize, check_canonical
from lrp_fx.capture.compare import inference_configuration
from lrp_fx.capture.ladder import capture
from lrp_fx.errors import LrpError
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.passes import Pass
from lrp_fx.ir.program import Program, check_well_formed, copy_graph
from lrp_fx.ir.tracing import trace
from testing.architectures import BY_NAME
from testing.converted import converted

ROLES = {"input_ids": "content", "attention_mask": "mask"}


@pytest.fixture(scope="module", params=["llama", "gpt2", "bloom"])
def captured(request: pytest.FixtureRequest) -> tuple[nn.Module, Program]:
    model = BY_NAME[request.param].build("eager")
    return model, capture(model, BY_NAME[request.param].inputs(), ROLES)


def run(program: Program) -> Tensor:
    inputs = BY_NAME["llama"].inputs()
    with torch.no_grad():
        return program.module(*[inputs[i.name] for i in program.inputs])[program.outputs.explained]


def test_each_pass_keeps_the_output_to_the_bit(captured: tuple[nn.Module, Program]) -> None:
    model, program = captured
    with torch.no_grad(), inference_configuration(model):  # a cache would copy keys into another memory layout
        expected = model(**BY_NAME["llama"].inputs()).logits
    assert torch.equal(run(program), expected)
    for step in PASSES:
        before = [n.name for n in program.graph.nodes]
        result = step(program)
        assert [n.name for n in program.graph.nodes] == before, "the argument is left alone"
        program = result
        assert torch.equal(run(program), expected), step.name


def test_canonical_programs_are_what_they_promise(captured: tuple[nn.Module, Program]) -> None:
    _, program = captured
    with pytest.raises(LrpError, match="should be gone after canonicalisation"):
        check_canonical(program)
    canonical = canonicalize(program)
    check_well_formed(canonical)
    check_canonical(canonical)
    calls = [
        (n.target, n.args, tuple(sorted(n.kwargs.items(), key=str)))
        for n in canonical.graph.nodes
        if n.op == "call_function"
    ]
    assert len(calls) == len({str(c) for c in calls}), "nothing is computed twice"
    assert not any(op_name(n) == "aten.view" for n in canonical.graph.nodes)


def test_a_broken_pass_is_caught(captured: tuple[nn.Module, Program]) -> None:
    """A pass that leaves a value without its record, or a mutation, breaks its own promise."""

    def forgets(program: Program) -> Program:
        module, _ = copy_graph(program)
        node = next(n for n in module.graph.nodes if op_name(n) == "aten.embedding")
        del node.meta["val"]
        return dataclasses.replace(program, module=module)

    def mutates(program: Program) -> Program:
        module, _ = copy_graph(program)
        node = next(n for n in module.graph.nodes if op_name(n) == "aten.add")
        node.target = torch.ops.aten.add_.Tensor
        return dataclasses.replace(program, module=module)

    _, program = captured
    with pytest.raises(LrpError, match="has no recorded value"):
        Pass("forgets", "", forgets, requires=(check_well_formed,), ensures=(check_well_formed,))(program)
    with pytest.raises(LrpError, match="mutates its argument"):
        Pass("mutates", "", mutates, ensures=(check_canonical,))(canonicalize(program))


def test_provenance_tells_content_from_position(captured: tuple[nn.Module, Program]) -> None:
    _, program = captured
    program = canonicalize(program)
    facts = find_provenance(program)
    assert "content" in facts.sources[program.explained_node]
    for node in program.graph.nodes:
        if op_name(node) in ("aten.cos", "aten.sin"):
            assert facts.is_position_only(node)
        if op_name(node) == "aten.softmax":
            assert "content" in facts.sources[node]
            assert not facts.is_position_only(node)


def test_the_relevance_graph_is_flat_and_needs_no_autograd() -> None:
    found = converted("llama", "sdpa")
    explain, inputs, relevance = found.explainer, found.inputs, found.relevance
    graph = found.graph.graph
    assert {n.op for n in graph.nodes} == {"placeholder", "get_attr", "call_function", "output"}
    functions = {n.target for n in graph.nodes if n.op == "call_function"}
    assert all(
        isinstance(f, torch._ops.OpOverload)
        or f is operator.getitem
        or f.__module__ in ("_operator", "math", "torch", "builtins")
        for f in functions
    ), functions
    with torch.inference_mode():
        again = explain(**inputs)
    assert torch.equal(again.tokens, relevance.tokens)
    assert not relevance.tokens.requires_grad
    assert "def forward" in found.graph.print_readable(print_output=False)


def test_output_is_the_models_own_to_the_bit() -> None:
    for name in ("bert", "llama", "vit", "t5"):
        found = converted(name, "sdpa")
        with torch.no_grad():
            expected = found.model(**found.inputs).logits
        got = found.relevance.output
        assert type(got).__name__ == type(found.model(**found.inputs)).__name__
        assert torch.equal(got.logits, expected), name


def test_converted_parameters_are_shared_not_copied() -> None:
    model = BY_NAME["bert"].build()
    explain = lrp_fx.convert(model)
    inputs = BY_NAME["bert"].inputs()
    before = explain(**inputs).score
    with torch.no_grad():
        model.classifier.bias.add_(1.0)
    assert torch.allclose(explain(**inputs).score, before + 1.0, atol=1e-5)


class Island(nn.Module):
    """A router that keeps its weights, and what it computes, in float32 whatever the model is in."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router, self.head = nn.Embedding(11, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        return self.head(x.mean(1)) * self.router(x.mean(1).float()).softmax(-1).to(x.dtype)


def test_islands_of_float32_do_not_round_the_books_of_a_float64_model() -> None:
    model = Island().double()
    model.router.float()
    relevance = lrp_fx.convert(model.eval(), conserve="site")(input_ids=torch.tensor([[1, 2, 3], [4, 5, 6]]), target=0)
    assert float(relevance.ledger.error.max()) <= 1e-14
    assert model.router.weight.dtype == torch.float32, "the model is as it was"


def test_a_stride_is_read_as_the_sizes_it_spans() -> None:
    """Along an axis of size 1 a stride is anything: a size that the tracer finds there only must be written
    otherwise.
    """
    environment = ShapeEnv()
    mode = FakeTensorMode(shape_env=environment)
    real = torch.randn(2, 1, 16, 8)
    x = mode.from_tensor(real, symbolic_context=StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC] * 4))
    with mode:
        value = x.permute(0, 3, 1, 2)
    module = trace(lambda v: [v.new_zeros(v.stride(2))], [value], mode)
    assert not module.graph.find_nodes(op="call_function", target=torch.ops.aten.sym_stride.int)
    module.recompile()
    odd = torch.randn(3, 8, 1, 16).as_strided((3, 8, 1, 16), (128, 1, 5, 8))
    assert module(odd)[0].shape == (128,), "features times the axis inside, whatever stride a single chunk has"
