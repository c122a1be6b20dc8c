"""Custom: a function of the output as a target."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_fx.errors import LrpError, TargetError, UntracedTargetError, is_ours, raise_if_out_of_memory
from lrp_fx.ir.source import TORCH_FOLDER
from lrp_fx.targets.asked import Asked, ask
from lrp_fx.targets.derivative import derived
from lrp_fx.targets.stand_ins import Size

_WITHOUT_SHAPES = ("DynamicOutputShapeException", "DataDependentOutputException", "UnsupportedOperatorException")
_BY_VALUES = ("GuardOnDataDependentSymNode", "DataDependentOutputException", "UserError")


class Custom:
    """Any function of the output that returns one number per example, shape (B,), and differentiates.

    It is asked anew in every call. The tensors that it reads (labels of the examples, a probe, a direction, a
    reference; as variables, globals, attributes, modules) are inputs of the graph: other values, or another function
    that does the same, need no other graph. What it is not linear in is booked in the sink ``target``. It may decide in
    Python by whatever it reads, but not by the values of the output.
    """

    linear = False

    def __init__(self, function: Callable[[Tensor], Tensor], asked: Asked | None = None) -> None:
        self.function, self._asked = function, asked

    def asked(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Custom:
        """The function as it is now, for an output of this kind.

        Raises `TargetError` with the user's line where it fails, or gives no score.
        """
        try:
            return Custom(self.function, ask(self.function, shape, dtype, device))
        except Exception as error:
            raise self.failure(shape, error) from error

    def failure(self, shape: Sequence[int], error: Exception) -> Exception:
        """What to raise for an error of the function on an output of this shape."""
        raise_if_out_of_memory(error)
        if isinstance(error, LrpError):
            return error
        where, said = _users_line(error), next(iter(str(error).strip().splitlines()), "")
        what = f"{type(error).__name__}: {said}".replace("FakeTensor", "Tensor")
        if type(error).__name__ in _BY_VALUES:
            return UntracedTargetError(
                f"the target {self!r} could not be transposed: it decides by the values of the output{where}\n"
                "    next: choose by torch.where, gather or max, which are part of what is differentiated"
            )
        next_step = ""
        if isinstance(error, AttributeError) and "Tensor" in str(error):
            next_step = (
                "\n    next: a target is given the explained output itself, a tensor, not all that the model gives"
            )
        elif type(error).__name__ in _WITHOUT_SHAPES:
            next_step = (
                "\n    next: this operation does not say how large its results are before it has numbers: write "
                "the target with others"
            )
        return TargetError(f"the target {self!r} fails on the model's output {tuple(shape)}: {what}{where}{next_step}")

    @property
    def signature(self) -> tuple[Any, ...]:
        """Equal for functions that do the same; before they are asked, nothing is known of that."""
        return ("Custom", self._asked.key if self._asked is not None else id(self.function))

    @property
    def held(self) -> dict[str, Tensor]:
        """The tensors that the function reads beside the output, in shapes of their own."""
        return {f"held_{i}": tensor for i, tensor in enumerate(self._asked.held)} if self._asked is not None else {}

    @property
    def sizes(self) -> list[tuple[Size, ...]]:
        """Theirs: numbers, or what follows the output's (`lrp_fx.targets.stand_ins`)."""
        return list(self._asked.sizes) if self._asked is not None else []

    def example_arguments(self) -> dict[str, Tensor]:
        """The tensors that the function reads beside the output."""
        return self.held

    def arguments(self, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
        """As `example_arguments`, for any output."""
        return self.held

    def score(self, output: Tensor, mask: Tensor | None, **held: Tensor) -> Tensor:
        """(B,): what the function gives."""
        return self.derived(output, held)[0]

    def derived(self, output: Tensor, held: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The score, and the coefficient of the output."""
        if self._asked is None:
            return derived(self.function, output)
        return self._asked.derived(output, list(held.values()))

    def __repr__(self) -> str:
        return f"Custom({getattr(self.function, '__name__', self.function)})"


def _users_line(error: BaseException) -> str:
    """Where it was raised in the user's code."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not is_ours(frame.filename) and TORCH_FOLDER not in frame.filename.replace("\\", "/")
    ]
    frames = [f for f in frames if "contextlib.py" not in f.filename and not f.filename.startswith("<string")]
    if not frames:
        return ""
    last = frames[-1]
    return f"\n    where: {last.filename.rsplit(chr(47), 1)[-1]}:{last.lineno}: {(last.line or '')[:100]}"
