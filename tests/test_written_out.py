"""Fused attention written out: the kernel's outputs, and the relevance that the rule for the kernel gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import lrp_fx
from lrp_fx.canonicalize.written_out import write_out_attention
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.program import STATIC, FlatModule, Input, Outputs, Program
from testing.converted import TRAINED, parts
from testing.scoring import load_model, load_sequences

pytestmark = pytest.mark.usefixtures("quiet")
SDPA = torch.ops.aten.scaled_dot_product_attention.default
RULES = ("pa-lrp", "attnlrp", "pa-lrp-path", "gradient")


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ------------------------------------------------------------------------------------------------ the pass alone
def fused(tensors: list[Tensor], *options: Any, **named: Any) -> Program:
    """A program that is one kernel."""
    graph, mode = fx.Graph(), FakeTensorMode()
    nodes = []
    for number, tensor in enumerate(tensors):
        nodes.append(graph.placeholder(f"x{number}"))
        nodes[-1].meta["val"] = mode.from_tensor(tensor)
    node = graph.call_function(SDPA, (*nodes, *options), named)
    with mode:
        node.meta["val"] = SDPA(*(n.meta["val"] for n in nodes), *options, **named)
    graph.output((node,))
    inputs = tuple(Input(n.name, "content", t.dtype, tuple(t.shape), ()) for n, t in zip(nodes, tensors, strict=True))
    return Program(FlatModule(nn.Module(), graph), inputs, Outputs(("output",), None, 0), STATIC)


Q, K, V = draw(2, 4, 5, 3), draw(2, 4, 6, 3, seed=1), draw(2, 4, 6, 3, seed=2)
SEEN = torch.ones(2, 1, 5, 6, dtype=torch.bool)
SEEN[0, :, :, 4:] = False
BLIND = SEEN.clone()
BLIND[1, 0, 2] = False  # a query that sees nothing
BIAS = draw(1, 4, 5, 6, seed=3)
HIDING = torch.zeros(BLIND.shape, dtype=torch.float64).masked_fill(~BLIND, -torch.inf)
CALLS: dict[str, tuple[list[Tensor], tuple[Any, ...], dict[str, Any]]] = {
    "plain": ([Q, K, V], (), {}),
    "a scale": ([Q, K, V], (), {"scale": 0.3}),
    "a mask": ([Q, K, V, SEEN], (), {}),
    "a query sees nothing": ([Q, K, V, BLIND], (), {}),
    "minus infinity": ([Q, K, V, HIDING], (), {}),
    "a bias": ([Q, K, V, BIAS], (), {}),
    "causal": ([Q, K, V], (None, 0.0, True), {}),
    "more queries than keys": ([K, Q, Q], (None, 0.0, True), {}),
    "shared heads": ([Q, K[:, :2], V[:, :2], SEEN], (), {"enable_gqa": True}),
    "no heads": ([Q[:, 0], K[:, 0], V[:, 0]], (), {}),
    "one example": ([Q[0, 0], K[0, 0], V[0, 0]], (None, 0.0, True), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_kernels_outputs(name: str) -> None:
    tensors, options, named = CALLS[name]
    program = fused(tensors, *options, **named)
    written = write_out_attention(program)
    assert [op_name(n) for n in program.graph.nodes if n.op == "call_function"] == [
        "aten.scaled_dot_product_attention"
    ], "the program that was given is as it was"
    assert not any("scaled_dot" in op_name(n) for n in written.graph.nodes)
    (ours,), (theirs,) = written.module(*tensors), program.module(*tensors)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_are_computed_in_float32(dtype: torch.dtype) -> None:
    """Scores of a few hundred: in halves, neighbours of the largest would all be one number."""
    tensors = [t.to(dtype) for t in (Q * 100, K, V)]
    program = fused([*tensors, SEEN])
    (ours,), (theirs,) = write_out_attention(program).module(*tensors, SEEN), program.module(*tensors, SEEN)
    assert ours.dtype == theirs.dtype == dtype
    assert float((ours.double() - theirs.double()).abs().max()) <= 2 * torch.finfo(dtype).eps * float(V.abs().max())


def test_a_kernel_that_drops_weights_stays() -> None:
    program = write_out_attention(fused([Q, K, V], None, 0.5))
    assert any(op_name(n) == "aten.scaled_dot_product_attention" for n in program.graph.nodes)


# ------------------------------------------------------------------------------------------------ relevance
class Heads(nn.Module):
    """Two blocks: causal attention with shared heads, then a bias by distance with what is padded hidden."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.q, self.kv, self.qkv = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 24)
        self.slopes = nn.Parameter(torch.tensor([0.5, 0.25]))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids)
        q = self.q(x).unflatten(-1, (2, 4)).transpose(1, 2)
        k, v = (t.unsqueeze(1) for t in self.kv(x).chunk(2, -1))
        x = x + attend(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2)
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        place = torch.arange(input_ids.shape[1])
        bias = -(place[:, None] - place).abs() * self.slopes[:, None, None]
        padding = torch.zeros_like(attention_mask, dtype=x.dtype).masked_fill(attention_mask == 0, -torch.inf)
        bias = bias + padding[:, None, None]
        return self.head((x + attend(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)).mean(1))


attend = nn.functional.scaled_dot_product_attention


def same(model: nn.Module, rules: str, inputs: dict[str, Tensor], target: Any = None) -> None:
    """Equal to 1e-9 of the largest: content, position, streams, and each sink."""
    kernel = lrp_fx.convert(model, rules=rules)
    written = lrp_fx.convert(model, rules=rules, differentiable=True)
    with torch.no_grad():
        ours, theirs = written(**inputs, target=target), kernel(**inputs, target=target)
    named = [n.target for n in written.relevance_graph.graph.nodes if n.op == "call_function"]
    assert not any("scaled_dot" in str(t) or "attention_path" in str(t) for t in named)
    found, expected = parts(ours), parts(theirs)
    scale = max(float(t.abs().max()) for t in expected.values())
    if rules == "gradient":  # a bias of scores is named as one where it is written out, and part of a kernel's tangent
        for books in (found, expected):
            books["sinks"] = sum((books.pop(n) for n in list(books) if n.startswith("sink")), torch.zeros(()))
    for name in found.keys() ^ expected.keys():  # rounding, where the kernel's rule has no such sink
        assert name.startswith("sink") and float({**found, **expected}[name].abs().max()) <= 1e-9 * scale
    for name in found.keys() & expected.keys():
        part = expected[name]
        torch.testing.assert_close(found[name], part, rtol=1e-9, atol=1e-9 * scale, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(ours.score, theirs.score, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rules", [pytest.param(r, marks=[pytest.mark.slow] if r == "attnlrp" else []) for r in RULES])
def test_relevance_of_shared_heads_and_biases(rules: str) -> None:
    ids, mask = torch.arange(6)[None], torch.tensor([[1, 1, 1, 1, 0, 0]])
    same(Heads().double().eval(), rules, {"input_ids": ids, "attention_mask": mask}, 1)


SHIPPED = ("synth_rope", "synth_learned", "synth_t5", "stories260k", "vit_mnist")


@pytest.mark.slow
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("name", SHIPPED)
def test_relevance_of_shipped_models(name: str, rules: str) -> None:
    model = load_model(TRAINED / name, "sdpa").double()
    if name == "vit_mnist":
        inputs = {"pixel_values": pictures(model)}
    elif name == "stories260k":
        inputs = {"input_ids": torch.arange(3, 13)[None]}
    else:
        data = load_sequences(TRAINED / name, 3)
        inputs = {"input_ids": data.ids, "attention_mask": data.mask}
    same(model, rules, inputs)


def pictures(model: Any) -> Tensor:
    config = model.config
    return draw(2, config.num_channels, config.image_size, config.image_size)
