"""Exported graphs become functional without a second trace where nobody else sees what is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.canonicalize.passes import canonicalize
from lrp_fx.capture import export as exporting
from lrp_fx.capture.ladder import capture
from lrp_fx.ir.graph import op_name
from lrp_fx.ir.program import Program

pytestmark = pytest.mark.usefixtures("quiet")
F = 6


class Written(nn.Module):
    """A map, and what a function does with its result and with the input."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.map = function, nn.Linear(F, F)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.map(x), x)


def added(y: Tensor, x: Tensor) -> Tensor:
    y += x
    return y.mul_(2).tanh()


def detached(y: Tensor, x: Tensor) -> Tensor:
    return y + torch.tensor(2.0) * x


def view_made_after(y: Tensor, x: Tensor) -> Tensor:
    y.add_(x)
    return y.unflatten(-1, (2, F // 2)).sum(-2)


def view_not_used_again(y: Tensor, x: Tensor) -> Tensor:
    first = y[..., :1]
    first = first.tanh()
    return y.mul_(2) + first


def one_of_several(y: Tensor, x: Tensor) -> Tensor:
    values, places = y.topk(3, -1)
    values /= values.sum(-1, keepdim=True)
    return torch.zeros_like(y).scatter(-1, places, values)


def view_seen_later(y: Tensor, x: Tensor) -> Tensor:
    half = y[..., : F // 2]
    y.mul_(2)
    return torch.cat([y, half], -1)


def part_written(y: Tensor, x: Tensor) -> Tensor:
    y[..., 0] = 1.0
    return y.tanh()


def parts_written(y: Tensor, x: Tensor) -> Tensor:
    y[:, 1:, 2] = x[:, 1:, 0] * y[:, :-1, 2]
    y[:, :2] *= 3
    y[:, 0] = y[:, 1]
    y[:, 1] = y[:, 0] * 2
    return y + y[:, :1]


def part_written_twice_and_read(y: Tensor, x: Tensor) -> Tensor:
    first = y[:, 0]
    first.mul_(2)
    first.add_(x[:, 1])
    return y + first[:, None]


def part_of_a_part(y: Tensor, x: Tensor) -> Tensor:
    some = y[:, :2]
    one = some[:, 0]
    one.mul_(2)
    return y + some.sum(1, keepdim=True) + one[:, None]


def part_seen_by_another(y: Tensor, x: Tensor) -> Tensor:
    first = y[:, 0]
    y[:, 0] = 5.0
    return y + first[:, None]


def part_that_lies_otherwise(y: Tensor, x: Tensor) -> Tensor:
    y.transpose(1, 2)[:, 0] = x[:, :, 0]
    return y.tanh()


def dropped_and_written(y: Tensor, x: Tensor) -> Tensor:
    same = nn.functional.dropout(y, 0.5, training=False)
    y.mul_(2)
    return y * same


def cast_on_writing(y: Tensor, x: Tensor) -> Tensor:
    return y.add_(x.double()).tanh()


SIMPLE = [added, detached, view_made_after, view_not_used_again, one_of_several, dropped_and_written]
SIMPLE += [part_written, parts_written, part_written_twice_and_read, part_of_a_part]
RETRACED = [view_seen_later, part_seen_by_another, part_that_lies_otherwise]


def captured(function: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> tuple[Program, int]:
    """The program (compared with the model as every capture is), and how often it was traced again."""
    retraced = []
    real = torch.export.ExportedProgram.run_decompositions
    monkeypatch.setattr(
        torch.export.ExportedProgram, "run_decompositions", lambda self, *a: retraced.append(1) or real(self, *a)
    )
    torch.manual_seed(0)
    return capture(Written(function), {"x": torch.randn(3, 5, F)}, {"x": "content"}), len(retraced)


@pytest.mark.parametrize("function", SIMPLE, ids=lambda f: f.__name__)
def test_own_values_are_written_without_a_second_trace(
    function: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, retraced = captured(function, monkeypatch)
    assert retraced == 0 and program.method == "dynamic"
    assert not any(n.target._schema.is_mutable for n in program.graph.nodes if hasattr(n.target, "_schema"))


@pytest.mark.parametrize("function", RETRACED, ids=lambda f: f.__name__)
def test_what_others_see_is_traced_again(
    function: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, retraced = captured(function, monkeypatch)
    assert retraced == 1 and program.method == "dynamic"


def test_a_type_is_kept_that_the_plain_operation_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    program, _ = captured(cast_on_writing, monkeypatch)
    assert program.explained_node.meta["val"].dtype == torch.float32


def test_what_drops_elements_is_refused() -> None:
    """Numbers drawn anew in every call: nothing that is captured computes what the model computes."""
    model = Written(lambda y, x: nn.functional.dropout(y, 0.5, training=True))
    with pytest.raises(lrp_fx.CaptureError, match="could not be captured"):
        capture(model, {"x": torch.randn(3, 5, F)}, {"x": "content"})


#: torch's second trace misses the write into what dropout returned: its graph computes something else.
COMPARED = [f for f in (*SIMPLE, *RETRACED) if f is not dropped_and_written]


@pytest.mark.parametrize("function", COMPARED, ids=lambda f: f.__name__)
def test_relevance_is_that_of_the_retraced_graph(
    function: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(graph: torch.fx.Graph) -> None:
        raise exporting.NeedsRetracing("a test asks for it")

    torch.manual_seed(0)
    model, x = Written(function).double(), torch.randn(3, 5, F, dtype=torch.float64)
    ours = lrp_fx.convert(model, conserve="site")(x, target=lambda out: out.flatten(1).sum(1))
    monkeypatch.setattr(exporting, "check_flat", never)
    theirs = lrp_fx.convert(model, conserve="site")(x, target=lambda out: out.flatten(1).sum(1))
    assert torch.equal(ours.content["x"], theirs.content["x"])


COMPOSITES: dict[str, Callable[[Tensor], Tensor]] = {
    "chunk": lambda y: y.chunk(2, -1)[0],
    "hsplit": lambda y: torch.hsplit(y, [2])[1],
    "unflatten": lambda y: y.unflatten(-1, (2, -1)).sum(-1),
    "flatten": lambda y: y.flatten(1),
    "movedim": lambda y: y.movedim(0, 1),
    "narrow": lambda y: y.narrow(1, 1, 2),
    "mT": lambda y: y.mT,
    "ravel": lambda y: y.ravel(),
    "swapaxes": lambda y: y.swapaxes(0, 1),
    "broadcast_to": lambda y: torch.broadcast_to(y, (2, *y.shape)),
    "atleast_3d": lambda y: torch.atleast_3d(y),
    "to": lambda y: y.to(torch.float64).to(y.device),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_composites_that_may_be_views_are_opened(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function = COMPOSITES[name]
    program, retraced = captured(lambda y, x: function(y), monkeypatch)
    canonical = canonicalize(program)
    assert retraced == 0
    assert f"aten.{name}" not in {op_name(n) for n in canonical.graph.nodes}
    x = torch.randn(4, 7, F)
    assert all(torch.equal(a, b) for a, b in zip(program.module(x), canonical.module(x), strict=True))
