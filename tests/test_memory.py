"""Memory told beforehand, against what the allocator was asked for while the same call ran."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.profiler import ProfilerActivity, profile
from typer.testing import CliRunner

import lrp_fx
from lrp_fx.cli.app import app
from lrp_fx.ir.memory import used_by

MODELS = Path(__file__).parents[1] / "examples" / "models"


def asked_for(run: Callable[[], Any]) -> int:
    """Bytes that were held at most of those that the allocator gave meanwhile."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        held = run()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    assert held is not None
    return most


def traced(function: Callable[..., Any], *inputs: Tensor) -> fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(function)(*inputs)


# ------------------------------------------------------------------------------------------------ graphs
def test_a_block_counts_until_the_last_look_at_it_is_gone() -> None:
    x = torch.zeros(1024)  # 4096 bytes

    def function(x: Tensor) -> Tensor:
        a = x + 1
        view = a.view(32, 32)
        b = view.t().exp()  # a is held by the view
        return b.sum() + 0

    module = traced(function, x)
    used = used_by(module.graph, module, [x])
    assert used.peak == 2 * 4096
    names = [n.name for n in module.graph.nodes if n.op == "call_function"]
    assert [used.behind[n] for n in names[:4]] == [4096, 4096, 4096, 4096]  # behind exp the view is gone
    assert used.returned == 64


def test_results_in_the_place_of_operands_take_no_memory_and_parameters_are_not_counted() -> None:
    module = traced(lambda x, w: (x * w).exp(), torch.zeros(1000), torch.zeros(1000))
    (exp,) = module.graph.find_nodes(op="call_function", target=torch.ops.aten.exp.default)
    given = [torch.zeros(1000), nn.Parameter(torch.zeros(1000))]
    assert used_by(module.graph, module, given).peak == 2 * 4032
    instead = {exp: (torch.ops.aten.exp_.default, {})}
    assert used_by(module.graph, module, given, instead).peak == 4032


# ------------------------------------------------------------------------------------------------ explainers
@pytest.mark.parametrize(
    ("model", "options", "inputs"),
    [
        ("stories260k", {}, {"input_ids": torch.arange(5, 197).view(2, 96)}),
        pytest.param(
            *("stories260k", {"checkpoint": True}, {"input_ids": torch.arange(5, 197).view(2, 96)}),
            marks=pytest.mark.slow,
        ),
        ("vit_mnist", {"rules": "pa-lrp-gamma"}, {"pixel_values": torch.linspace(-1, 1, 784 * 8).view(8, 1, 28, 28)}),
    ],
    ids=["decoder", "checkpoint", "image"],
)
def test_what_is_told_is_what_is_asked_for(
    model: str, options: dict[str, Any], inputs: dict[str, Tensor], quiet: None
) -> None:
    explain = lrp_fx.convert(MODELS / model, **options)
    explain.trace(**inputs)
    told = explain.size(**inputs)
    assert told.peak == pytest.approx(asked_for(lambda: explain(**inputs)), rel=0.02)
    assert told.weights == sum(t.nbytes for t in (*explain.model.parameters(), *explain.model.buffers()))
    assert told.result < told.kept <= told.peak
    assert "for the transpose, when the forward part has run" in str(told)
    assert told.total == told.weights + told.inputs + told.peak


@pytest.mark.slow
def test_size_runs_no_model_on_inputs_of_that_size(quiet: None) -> None:
    explain = lrp_fx.convert(MODELS / "stories260k", weights=False)
    seen: list[int] = []
    explain.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    small, large = (explain.size(input_ids=torch.ones(8, n, dtype=torch.int64)) for n in (256, 512))
    assert 1.8 < large.peak / small.peak < 2.2 and max(seen) < 100


def test_size_on_the_command_line(quiet: None) -> None:
    said = CliRunner().invoke(app, ["size", str(MODELS / "synth_rope"), "--tokens", "128", "--batch", "3", "--json"])
    assert said.exit_code == 0, said.output
    told = json.loads(said.output)
    assert told["shapes"] == {"input_ids": [3, 128]} and told["weights"] < told["peak"] < told["total"]
