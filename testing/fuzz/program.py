"""A program as data: what it reads, its steps and its head; the model that it is, and its text in Python."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from testing.fuzz.operations import OPERATIONS, Operation
from testing.fuzz.weights import CLASSES, B, D, T, V, Weights

#: Inputs that hold tokens or features; each gives one value before the first step.
VALUES = ("input_ids", "other_ids", "features")
MASK = "attention_mask"
#: What is read of the last value, (B, T, D), and how that is written.
HEADS = {
    "mean": "x.mean(1)",
    "last": "x[:, -1]",
    "first": "x[:, 0]",
    "maximum": "x.amax(1)",
    "sum": "x.sum(1) / 3",
    "tokens": "x",
}


@dataclass(frozen=True)
class Step:
    """One operation, and the numbers of the values that it reads."""

    operation: str
    reads: tuple[int, ...]

    @property
    def what(self) -> Operation:
        return OPERATIONS[self.operation]


@dataclass(frozen=True)
class Program:
    """Values are numbered: those of the inputs come first, then one for each step; the head reads the last.

    several: return a dictionary with the last value beside the logits.
    """

    steps: tuple[Step, ...]
    inputs: tuple[str, ...] = ("input_ids",)
    head: str = "mean"
    several: bool = False
    seed: int = 0

    @property
    def read(self) -> tuple[str, ...]:
        """Inputs that give values."""
        return tuple(name for name in self.inputs if name in VALUES)

    @property
    def narrow(self) -> bool:
        """Whether a value passes through less than double precision."""
        return any(step.what.narrow for step in self.steps)

    def model(self) -> Model:
        return Model(self)

    def example(self, rows: int = B, length: int = T) -> dict[str, Tensor]:
        """Inputs: words, features, and a mask that hides the last token of each example but the first."""
        g = torch.Generator().manual_seed(self.seed + 1)
        keeps = torch.ones(rows, length, dtype=torch.int64)
        keeps[1:, -1] = 0
        made = {
            "input_ids": torch.randint(1, V, (rows, length), generator=g),
            "other_ids": torch.randint(1, V, (rows, length), generator=g),
            "features": torch.randn(rows, length, D, generator=g, dtype=torch.float64),
            MASK: keeps,
        }
        return {name: made[name] for name in self.inputs}

    def __str__(self) -> str:
        return source(self)


class Model(nn.Module):
    """The program as a model, in double precision, its weights by its seed."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        with torch.random.fork_rng([]):
            torch.manual_seed(program.seed)
            self.words, self.other, self.head = nn.Embedding(V, D), nn.Embedding(V, D), nn.Linear(D, CLASSES)
            self.weights = nn.ModuleList(Weights() for _ in program.steps)
        self.double().eval()

    def begin(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """The values of the inputs: (B, T, D) each."""
        tables = {"input_ids": self.words, "other_ids": self.other}
        return [tables[n](inputs[n]) if n in tables else inputs[n] for n in self.program.read]

    def values(self, begun: list[Tensor], mask: Tensor | None) -> list[Tensor]:
        """All values in order, then the logits."""
        values = list(begun)
        for step, w in zip(self.program.steps, self.weights, strict=True):
            read = [values[i] for i in step.reads]
            values.append(step.what.function(w, *read, *([mask] if step.what.masked else [])))
        read_at_end = eval(HEADS[self.program.head], {"x": values[-1]})
        return [*values, self.head(read_at_end)]

    def forward(
        self,
        input_ids: Tensor | None = None,
        other_ids: Tensor | None = None,
        features: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor | dict[str, Tensor]:
        given = dict(input_ids=input_ids, other_ids=other_ids, features=features)
        values = self.values(self.begin({k: v for k, v in given.items() if v is not None}), attention_mask)
        return {"logits": values[-1], "hidden": values[-2]} if self.program.several else values[-1]


class Looking(Model):
    """The same, but it looks at its values, so that only a record of the very call can hold it."""

    def values(self, begun: list[Tensor], mask: Tensor | None) -> list[Tensor]:
        if not bool(torch.isfinite(begun[0]).all()):
            raise ValueError("not finite")
        return super().values(begun, mask)


def source(program: Program) -> str:
    """The program as Python that stands alone but for `testing.fuzz.weights`; ``Net`` has the weights of the model."""
    used = list(dict.fromkeys(step.operation for step in program.steps))
    helpers = "from testing.fuzz.weights import CLASSES, B, D, H, T, V, Weights, causal, heads, merged"
    lines = ["import math", "", "import torch", "from torch import Tensor, nn", "from torch.nn import functional as F"]
    lines += ["", helpers, "", ""]
    for name in _with_called(used):
        lines += [*inspect.getsource(OPERATIONS[name].function).rstrip().splitlines(), "", ""]
    lines += ["class Net(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    lines += [f"        torch.manual_seed({program.seed})"]
    lines += [
        "        self.words, self.other, self.head = nn.Embedding(V, D), nn.Embedding(V, D), nn.Linear(D, CLASSES)"
    ]
    lines += [f"        self.weights = nn.ModuleList(Weights() for _ in range({len(program.steps)}))"]
    lines += ["        self.double().eval()", "", f"    def forward(self, {', '.join(program.inputs)}):"]
    begin = {"input_ids": "self.words(input_ids)", "other_ids": "self.other(other_ids)", "features": "features"}
    lines += [f"        x{i} = {begin[name]}" for i, name in enumerate(program.read)]
    for number, step in enumerate(program.steps):
        read = ", ".join([f"x{i}" for i in step.reads] + [MASK] * step.what.masked)
        lines += [f"        x{number + len(program.read)} = {step.operation}(self.weights[{number}], {read})"]
    last = f"x{len(program.read) + len(program.steps) - 1}"
    logits = f"self.head({HEADS[program.head].replace('x', last, 1)})"
    lines += [
        f"        return {{'logits': {logits}, 'hidden': {last}}}" if program.several else f"        return {logits}"
    ]
    return "\n".join(lines) + "\n"


def _with_called(names: list[str]) -> list[str]:
    """Operations that these call come before them."""
    ordered: list[str] = []
    for name in names:
        called = set(OPERATIONS[name].function.__code__.co_names) & OPERATIONS.keys() - {name}
        ordered += [n for n in (*_with_called(sorted(c for c in called if _calls(name, c))), name) if n not in ordered]
    return ordered


def _calls(name: str, other: str) -> bool:
    """Whether the function of one operation reads another as a global (methods of tensors may have its name)."""
    function = OPERATIONS[name].function
    return function.__globals__.get(other) is OPERATIONS[other].function and f"{other}(w" in inspect.getsource(function)
