"""Size: what an explanation needs of memory, told from its relevance graph without running it.

requires  a relevance graph, and the sizes of a call
ensures   bytes; the model is not run on inputs of these sizes, and may be without weights
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from lrp_fx.capture.checks import plain_tensors
from lrp_fx.guards.guard import Arguments, guard_of
from lrp_fx.guards.inputs import TensorGuard
from lrp_fx.ir.graph import output_node
from lrp_fx.ir.memory import used_by
from lrp_fx.ir.source import source_line
from lrp_fx.optimize.reuse_buffers import reuse_buffers
from lrp_fx.runtime.compiled import Built
from lrp_fx.runtime.run import target_arguments


@dataclass(frozen=True)
class Size:
    """What explaining inputs of these shapes needs of memory, in bytes.

    ``weights``: the model's parameters and buffers, each once, and what else the graph holds. ``inputs``: the tensors
    of the call. ``kept``: what is held for the transpose when the forward part has run. ``peak``: the most that is held
    at once beside weights and inputs, while ``at`` runs. ``result``: what the result holds on to.

    It is what is asked of the allocator. Kernels' own scratch space comes on top, and what the allocator of the C
    library cannot give again (docs/devices.md).
    """

    shapes: dict[str, tuple[int, ...]]
    weights: int
    inputs: int
    kept: int
    peak: int
    at: str
    result: int

    @property
    def total(self) -> int:
        """Bytes that are held at the peak, with weights and inputs."""
        return self.weights + self.inputs + self.peak

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "shapes": {n: list(s) for n, s in self.shapes.items()}, "total": self.total}

    def __str__(self) -> str:
        given = ", ".join(f"{name} {tuple(shape)}" for name, shape in self.shapes.items())
        rows = [
            ("weights", self.weights, ""),
            ("inputs", self.inputs, given),
            ("kept", self.kept, "for the transpose, when the forward part has run"),
            ("peak", self.peak, f"beside weights and inputs, at {self.at}"),
            ("result", self.result, "what a result holds on to"),
            ("total", self.total, "weights, inputs and peak"),
        ]
        return "\n".join(f"{name:8}{_readable(size):>11}  {note}".rstrip() for name, size, note in rows)


def _readable(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def size_of(model: nn.Module, built: Built, call: Arguments) -> Size:
    """What a relevance graph needs for a call that it holds for."""
    graph, module = built.graph.module.graph, built.graph.module
    arguments = target_arguments([built.target], built.guards, call)[0]
    tensors = [call.bound[info.name] for info in guard_of(TensorGuard, built.guards).inputs]
    used = used_by(graph, module, [*tensors, *arguments], reuse_buffers(graph))
    score: Any = output_node(graph).args[0][built.graph.signature.outputs]  # type: ignore[index]
    node = next((n for n in graph.nodes if n.name == used.at), None)
    held = [getattr(module, str(n.target)) for n in graph.find_nodes(op="get_attr")]
    return Size(
        {name: tuple(tensor.shape) for name, tensor in call.tensors.items()},
        _bytes([*model.parameters(), *model.buffers(), *(t for t in held if isinstance(t, Tensor))]),
        _bytes(tensors),
        used.behind.get(score.name, 0),
        used.peak,
        f"%{used.at} ({source_line(node)})" if node is not None else "",
        used.returned,
    )


def _bytes(tensors: list[Tensor]) -> int:
    """Each block of memory once; tensors that are made of others count as these."""
    plain = (p for t in tensors for p in plain_tensors(t) if p.numel())
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in plain}
    return sum(storages.values())
