"""What goes on while a model is compiled is said where somebody looks, and may be interrupted anywhere."""

from __future__ import annotations

import contextlib
import io
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.ir.passes import listening
from lrp_fx.runtime.pipeline import PIPELINE
from lrp_fx.runtime.progress import progress
from testing.architectures import ARCHITECTURES

pytestmark = pytest.mark.usefixtures("quiet")
BERT = next(a for a in ARCHITECTURES if a.name == "bert")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def compile_it() -> None:
    lrp_fx.convert(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).eval())(torch.randn(2, 3), target=0)


@pytest.mark.parametrize(("shown", "stream", "said"), [
    (None, Terminal(), True), (None, io.StringIO(), False), (True, io.StringIO(), True), (False, Terminal(), False),
])  # fmt: skip
def test_it_is_said_where_somebody_looks(shown: bool | None, stream: io.StringIO, said: bool) -> None:
    with progress(shown, stream):
        compile_it()
    assert ("lrp_fx: capture" in stream.getvalue()) is said
    if said:
        lines = stream.getvalue().split("\r")
        assert lines[-1] == "" and lines[-2].strip() == "", "the line is gone at the end"


def test_a_second_call_compiles_nothing_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    explain = lrp_fx.convert(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).eval(), progress=True)
    explain(torch.randn(2, 3), target=0)
    assert "capture" in capsys.readouterr().err
    explain(torch.randn(2, 3), target=0)
    assert capsys.readouterr().err == ""


def test_the_logger_says_what_each_pass_did(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lrp_fx"):
        compile_it()
    said = [r.getMessage().split()[0] for r in caplog.records if r.name == "lrp_fx"]
    assert said[0] == "capture" and {"assign_rules", "reverse"} <= set(said)


def state_of(model: nn.Module) -> Any:
    """All that an interrupted compilation could leave behind."""
    config = {k: v for k, v in vars(model.config).items() if not k.startswith("_")} if hasattr(model, "config") else {}
    process = (
        torch.is_grad_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
        logging.root.manager.disable,
        torch.get_default_dtype(),
    )
    modules = [{k: v for k, v in vars(m).items() if k[0] != "_" or k == "_modules"} for m in model.modules()]
    return str(config), process, modules, [(p.requires_grad, p.grad is None) for p in model.parameters()]


def interrupted(model: nn.Module, inputs: dict[str, Tensor], name: str) -> lrp_fx.Explainer:
    """Interrupted as a pass starts; checks that all is as it was."""
    before, explain = state_of(model), lrp_fx.convert(model)

    def interrupt(running: str, done: object) -> None:
        if running == name and done is None:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt), listening(interrupt):
        explain(**inputs, target=0)
    assert state_of(model) == before
    return explain


@pytest.mark.parametrize("name", [p.name for p in PIPELINE])
def test_interrupted_at_any_pass_all_is_as_it_was(name: str) -> None:
    model, x = Interrupted(), {"x": torch.ones(2, 4)}
    assert interrupted(model, x, name)(**x, target=0).ledger.error.max() < 1e-5


def test_interrupted_while_caches_are_off() -> None:
    model, inputs = BERT.build("sdpa"), BERT.inputs()
    model.config.use_cache = True
    assert interrupted(model, inputs, "capture")(**inputs).ledger.error.max() < 1e-5


class Interrupted(nn.Module):
    """Interrupted by its own forward, at the n-th time that this runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        Countdown.left -= 1
        if Countdown.left == 0:
            raise KeyboardInterrupt
        return x


class Countdown:
    left = -1


@pytest.mark.parametrize("run", range(1, 7))
def test_interrupted_while_the_model_runs(run: int) -> None:
    """Checked, traced, compared: whenever its forward runs."""
    model, x = Interrupted(), torch.randn(2, 4)
    before, explain = state_of(model), lrp_fx.convert(model)
    Countdown.left = run
    with contextlib.suppress(KeyboardInterrupt):
        explain(x, target=0)
    Countdown.left = -1
    assert state_of(model) == before
    assert explain(x, target=0).ledger.error.max() < 1e-5
