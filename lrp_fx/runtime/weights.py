"""Weights: has a model other ones than those that its graphs were made with?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lrp_fx.capture.checks import check_mode, check_weights
from lrp_fx.errors import InputError
from lrp_fx.ir.program import CONCRETE, Program
from lrp_fx.ir.read import Read, all_as_read
from lrp_fx.ir.sparse import address_of


@dataclass(frozen=True)
class Now:
    """A model's tensors at one moment: which they are, and their versions.

    ``changing``: those whose versions are counted, parameters and buffers first.
    """

    identity: Any
    changing: tuple[Tensor, ...]
    versions: tuple[int, ...]


class Weights:
    """The tensors of one model as they were when it was looked at last.

    ``loose``: captured tensors that are neither parameters nor buffers, by place; ``read``: tensors that constants of
    programs were made of; ``deciding``: all those of the model, where a program is the record of one call.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.loose: dict[tuple[nn.Module, str], Tensor] = {}
        self.read: list[Read] = []
        self.deciding: list[Read] = []
        self._identity: Any = None
        self._checked: Any = None

    def now(self) -> Now:
        """The tensors as they are. Raises `InputError` for a model in training mode."""
        check_mode(self.model)
        tensors = [*self.model.named_parameters(), *self.model.named_buffers()]
        identity = tuple((n, id(t), address_of(t), t.dtype, t.device) for n, t in tensors)
        changing = tuple(t for t in (*(t for _, t in tensors), *self.loose.values()) if not t.is_inference())
        return Now(identity, changing, tuple(t._version for t in changing))

    def differ(self, now: Now) -> bool:
        """Do graphs made before hold others: replaced, converted, moved, or copied before they were written to?"""
        if self._identity is None:
            return False
        replaced = any(getattr(module, name, None) is not tensor for (module, name), tensor in self.loose.items())
        return now.identity != self._identity or replaced or not all_as_read(self.read)

    def written_to(self, now: Now) -> bool:
        """Do the tensors hold other numbers than when they were looked at last?"""
        if self._checked is None:
            return False
        return (now.identity, now.versions) != self._checked or not all_as_read(self.deciding)

    def remember(self, now: Now) -> None:
        """Check the weights, again only after they have changed, and take these for what graphs hold from now on:
        those of others have to be forgotten before. Raises `InputError`.
        """
        if (now.identity, now.versions) != self._checked:
            check_weights(self.model)
            self._checked = (now.identity, now.versions)
        self._identity = now.identity

    def forget(self) -> None:
        """Look after no program any more."""
        self.loose.clear()
        self.read.clear()
        self.deciding.clear()

    def note(self, program: Program) -> None:
        """Look after the tensors of a program, too."""
        self.loose |= _loose_tensors(self.model, program)
        self.note_read(program)
        if program.method == CONCRETE:
            tensors = (*self.model.parameters(), *self.model.buffers(), *self.loose.values())
            self.deciding = [Read(t) for t in tensors]

    def note_read(self, program: Program) -> None:
        """Look after what constants of a program were made of."""
        known = {id(one) for one in self.read}
        self.read += [one for one in program.read if id(one) not in known]


def check_followed(modules: Iterable[nn.Module], program: Program) -> None:
    """Raise `InputError` where a program reads a copy of a parameter: gradients would end there, not in the model (or
    a module that was put into it).
    """
    own = {id(p) for module in modules for p in module.parameters()}
    held = {str(n.target): getattr(program.module, str(n.target)) for n in program.graph.find_nodes(op="get_attr")}
    copies = [n for n, t in held.items() if isinstance(t, nn.Parameter) and t.requires_grad and id(t) not in own]
    if copies:
        raise InputError(
            f"no gradient would reach {', '.join(copies[:3])}: parameters of several types are computed with as copies "
            "of one type\n    next: give all floating parameters one type (model.float() or model.double())"
        )


def _loose_tensors(model: nn.Module, program: Program) -> dict[tuple[nn.Module, str], Tensor]:
    """Tensors of a program that are plain attributes of the model's modules: they may be replaced without a trace."""
    module = program.captured or program.module  # before passes that copy tensors (`promote_precision`)
    captured = {address_of(getattr(module, str(n.target))) for n in module.graph.nodes if n.op == "get_attr"}
    return {
        (m, name): v
        for m in model.modules()
        for name, v in vars(m).items()
        if isinstance(v, Tensor) and address_of(v) in captured
    }
