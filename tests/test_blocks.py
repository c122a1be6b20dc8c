"""Blocks that are alike are traced once, and nothing but the time tells."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.capture import export as exporting
from lrp_fx.capture.alike import repeated_blocks
from lrp_fx.capture.blocks import stamping
from lrp_fx.capture.ladder import capture
from lrp_fx.ir.graph import ancestors
from lrp_fx.ir.program import Program
from lrp_fx.ir.source import module_path
from lrp_fx.runtime import captures
from testing.architectures import ARCHITECTURES

pytestmark = pytest.mark.usefixtures("quiet")
F, DEPTH = 6, 5
X = torch.randn(2, 5, F, generator=torch.Generator().manual_seed(0))
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers")


class Block(nn.Module):
    def __init__(self, index: int, function: Callable[..., Tensor], window: int = 3) -> None:
        super().__init__()
        self.index, self.window, self.function = index, window, function
        self.map, self.norm = nn.Linear(F, F), nn.LayerNorm(F)

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        return self.function(self, x, *others)


class Stack(nn.Module):
    """Blocks, one after another; ``given(i, x)``: what a block is given beside the stream."""

    def __init__(
        self,
        function: Callable[..., Tensor],
        given: Callable[[int, Tensor], tuple[Any, ...]] = lambda i, x: (),
        windows: tuple[int, ...] = (3,) * DEPTH,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.given = given
        self.layers = nn.ModuleList(Block(i, function, window) for i, window in enumerate(windows))
        self.head = nn.Linear(F, 3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = x * 2
        for i, layer in enumerate(self.layers):
            x = layer(x, *self.given(i, x))
        return self.head(x.mean(1))


def plain(block: Block, x: Tensor, *others: Any) -> Tensor:
    return x + torch.tanh(block.map(block.norm(x)))


def scaled(block: Block, x: Tensor, scale: Tensor) -> Tensor:
    return x + scale * torch.tanh(block.map(x))


def shifted(block: Block, x: Tensor) -> Tensor:
    return x + block.map(x).roll(block.window, 1)


def in_place(block: Block, x: Tensor) -> Tensor:
    y = block.map(x)
    y += x
    return y


def into_its_operand(block: Block, x: Tensor) -> Tensor:
    x += block.map(x)
    return x


def by_turns(block: Block, x: Tensor) -> Tensor:
    return x + block.map(x).tanh() if block.index % 2 else x - block.map(x)


def times_index(block: Block, x: Tensor) -> Tensor:
    return x + block.map(x) * block.index


class Turn:
    """Something that blocks share and change."""

    turn = 0


def counting(block: Block, x: Tensor) -> Tensor:
    Turn.turn += 1
    return x + block.map(x) * (Turn.turn % DEPTH)


def captured(model: nn.Module) -> Program:
    return capture(model, {"x": X}, {"x": "content"})


# ------------------------------------------------------------------------------------------------ the same graph
SWEEP = ("llama", "gpt2", "mixtral", "vit", "deberta_v2", "bart", "gemma3", "whisper")
SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in SWEEP]


@pytest.mark.parametrize("name", ["bert", "t5", *SLOW])
def test_stamped_is_block_by_block(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations, their order, their places in the model, and every bit of relevance. (What comes of no input, like
    the root of a size, blocks may share.)
    """
    plan = next(a for a in ARCHITECTURES if a.name == name)
    plan = dataclasses.replace(plan, settings=plan.settings | {k: 4 for k in plan.settings if k in LAYERS})
    model, inputs = plan.build("sdpa" if plan.fused else "eager"), plan.inputs()
    found = []
    for once in (True, False):
        if not once:
            monkeypatch.setattr(exporting, "_stamped", lambda *a: None)
        captures.forget()
        explainer = lrp_fx.convert(model)
        relevance = explainer(**inputs)
        assert explainer.rewritten.program.stamped is once
        calls = [n for n in explainer.rewritten.program.graph.nodes if n.op == "call_function"]
        of_inputs = [n for n in calls if any(a.op == "placeholder" for a in ancestors([n]))]
        found.append(([(str(n.target), module_path(n)) for n in of_inputs], relevance))
    (ours, a), (theirs, b) = found
    assert ours == theirs
    assert torch.equal(a.score, b.score)
    assert all(torch.equal(a.content[k], b.content[k]) for k in b.content)
    assert all(torch.equal(p.relevance, q.relevance) for p, q in zip(a.position, b.position, strict=True))


@pytest.mark.parametrize("function", [plain, in_place, into_its_operand], ids=lambda f: f.__name__)
def test_one_block_is_traced(function: Callable[..., Tensor]) -> None:
    program = captured(Stack(function))
    assert program.stamped
    assert {module_path(n) for n in program.graph.nodes} >= {f"layers.{i}.map" for i in range(DEPTH)}


def test_blocks_are_given_what_they_are_given() -> None:
    """Two values by turns: what a block reads is its own, though all are of one class."""
    one, two = torch.full((F,), 0.5), torch.full((F,), -2.0)
    assert captured(Stack(scaled, lambda i, x: (one if i % 2 else two,))).stamped


def test_blocks_of_another_kind_are_a_class_of_their_own() -> None:
    model = Stack(shifted, windows=(1, 1, 2, 1, 2, 2))
    groups, _ = repeated_blocks(model)
    assert [[path for path, _ in group] for group in groups] == [
        ["layers.0", "layers.1", "layers.3"],
        ["layers.2", "layers.4", "layers.5"],
    ]
    assert captured(model).stamped


# ------------------------------------------------------------------------------------------------ where it cannot be
@pytest.mark.parametrize("function", [by_turns, times_index, counting], ids=lambda f: f.__name__)
def test_blocks_that_only_look_alike_are_traced(function: Callable[..., Tensor]) -> None:
    """One asks for its index, one multiplies by it, one counts elsewhere: the capture computes what the model does."""
    Turn.turn = 0
    model = Stack(function)
    program = captured(model)
    assert not program.stamped
    assert program.method == "dynamic"


class Store:
    """Where blocks leave what they compute, beside what they return."""

    kept: ClassVar[list[Tensor]] = []


def leaving(block: Block, x: Tensor) -> Tensor:
    Store.kept.append(torch.tanh(block.map(x)))
    return x + Store.kept[-1]


class Collecting(Stack):
    """Returns what its blocks have left as well."""

    def forward(self, x: Tensor) -> Any:
        Store.kept.clear()
        return super().forward(x), tuple(Store.kept)


def test_what_blocks_leave_elsewhere_is_not_lost() -> None:
    program = captured(Collecting(leaving))
    assert not program.stamped
    assert len(program.outputs.names) == 1 + DEPTH


def test_shared_weights_and_hooks_are_no_blocks_of_their_own() -> None:
    shared = Stack(plain)
    for layer in shared.layers:
        layer.map.weight = shared.layers[0].map.weight  # type: ignore[union-attr, assignment]
    assert repeated_blocks(shared) == ([], [])
    hooked = Stack(plain)
    for layer in hooked.layers:
        layer.register_forward_hook(lambda module, given, out: out * 2)
    assert repeated_blocks(hooked) == ([], [])
    assert captured(hooked).method == "dynamic"


# ------------------------------------------------------------------------------------------------ the model afterwards
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_as_it_was(fails: bool) -> None:
    model = Stack(plain)
    before = [dict(vars(m)) for m in model.modules()]
    try:
        with stamping(model):
            assert any("forward" in vars(m) for m in model.modules())
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert [dict(vars(m)) for m in model.modules()] == before
    assert all(type(layer.index) is int for layer in model.layers)


def test_who_else_runs_the_model_gets_the_model() -> None:
    model, found = Stack(plain), []
    expected = model(X)
    with stamping(model):
        other = threading.Thread(target=lambda: found.append(model(X)))
        other.start()
        other.join()
    assert torch.equal(found[0], expected)
