"""Inputs: data of any form as a list of examples, each the arguments of one call with a batch of one, unpadded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrp_fx.analysis.mask_effect import KEEPS, NO_PADDING
from lrp_fx.analysis.mask_sense import kept as kept_by
from lrp_fx.analysis.mask_sense import sense_of
from lrp_fx.capture.call import as_call, bind
from lrp_fx.errors import InputError
from lrp_fx.ir.program import CONTENT_ROLE, MASK_ROLE
from lrp_fx.preprocess.call import read_call
from lrp_fx.preprocess.kinds import is_message
from lrp_fx.preprocess.reader import Reader
from lrp_fx.runtime.explainer import Explainer


@dataclass(frozen=True)
class Given:
    """``inputs``: arguments for one example. ``name``: of the input whose units are perturbed. ``kept``: the places of
    it that stand there, of those that were given (T,): the others were padding.
    """

    inputs: dict[str, Any]
    name: str
    kept: Tensor


def examples_of(explainer: Explainer, data: Any, of: str | None) -> list[Given]:
    """One entry for each example of the data.

    data: texts or images (or whatever else the explainer's tokenizer or processor reads), one or a list; the model's
        arguments for a batch, as a dictionary; a list of such dictionaries; or a tensor, the model's first argument.
    of: the name of the input to perturb, where several are content.

    Raises `InputError` for data of another kind, and where there is none.
    """
    batches = _batches(explainer, data)
    found = [one for batch in batches for one in _split(explainer, batch, of)]
    if not found:
        raise InputError("no examples to evaluate on")
    return found


def _batches(explainer: Explainer, data: Any) -> list[dict[str, Any]]:
    reader = reader_of(explainer)
    several = isinstance(data, list) and not any(map(is_message, data))
    items = data if several else [data]
    return [bind(explainer.model, *read_call(reader, (item,), {})) for item in items]


def reader_of(explainer: Explainer) -> Reader:
    """What reads for the explainer's model; without a tokenizer or processor it knows labels only."""
    return explainer.reader or Reader(explainer.model)


def _split(explainer: Explainer, bound: dict[str, Any], of: str | None) -> list[Given]:
    roles = as_call(explainer.model, bound, explainer.roles).roles
    content = [n for n, v in bound.items() if isinstance(v, Tensor) and roles.get(n) == CONTENT_ROLE]
    name = _chosen(content, of)
    count = bound[name].shape[0]
    others = [n for n in content if bound[n].dim() and bound[n].shape[0] != count]
    if others and count > 1:
        raise InputError(
            f"{name} holds {count} examples, and {others[0]} has a first axis of {bound[others[0]].shape[0]}: which "
            "part belongs to which is not known\n    next: give a list with the arguments of each example"
        )
    rows = [{n: _row(v, i, count) for n, v in bound.items()} for i in range(count)]
    return [_unpadded(explainer, row, roles, name) for row in rows]


def _row(value: Any, index: int, count: int) -> Any:
    batched = count > 1 and isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == count
    return value[index : index + 1] if batched else value


def _chosen(content: list[str], of: str | None) -> str:
    if of is not None and of not in content:
        raise InputError(f"of={of!r}: the inputs with content are {', '.join(content)}")
    if of is None and len(content) != 1:
        listed = ", ".join(content) or "none that is a tensor"
        raise InputError(
            f"which input is perturbed? There are {listed}\n    next: say which, for example "
            f"of={next(iter(content), 'x')!r}"
        )
    return content[0] if of is None else of


def _unpadded(explainer: Explainer, inputs: dict[str, Any], roles: Mapping[str, str], name: str) -> Given:
    """An example without the places of its input that its mask hides."""
    value = inputs[name]
    length = value.shape[1] if value.dim() > 1 else 1
    everything = torch.ones(length, dtype=torch.bool)
    mask = _mask_of(inputs, roles, name) if value.dim() == 2 else None
    if mask is None or bool((inputs[mask] == inputs[mask][0, 0]).all()):
        return Given(inputs, name, everything)
    explainer.trace(**inputs)
    sense = sense_of(explainer.rewritten.program, mask)
    kept = kept_by(inputs[mask], KEEPS if sense in (None, NO_PADDING) else sense, 1)[0].cpu()
    wide = [n for n, v in inputs.items() if isinstance(v, Tensor) and v.dim() > 2 and length in v.shape[1:]]
    if wide:
        raise InputError(
            f"{mask} hides places of {name}, and {wide[0]} {tuple(inputs[wide[0]].shape)} goes with them in a way that "
            "is not known\n    next: give a list with the arguments of each example, without padding"
        )
    own = [n for n, v in inputs.items() if isinstance(v, Tensor) and _goes_with(n, v, inputs, roles, name)]
    cut = {n: inputs[n][:, kept.to(inputs[n].device)] for n in own}
    return Given({**inputs, **cut}, name, kept)


def _mask_of(inputs: Mapping[str, Any], roles: Mapping[str, str], name: str) -> str | None:
    """The mask of an input (1, T): of its shape. Where several inputs have content, the one that is named as it is
    (``decoder_attention_mask`` of ``decoder_input_ids``), and no other's.
    """
    shape = inputs[name].shape
    masks = [n for n, v in inputs.items() if isinstance(v, Tensor) and roles.get(n) == MASK_ROLE and v.shape == shape]
    several = sum(role == CONTENT_ROLE for role in roles.values()) > 1
    usual = name.removesuffix("input_ids") + "attention_mask"
    return next((m for m in masks if m == usual or not (several and m.endswith("attention_mask"))), None)


def _goes_with(n: str, value: Tensor, inputs: Mapping[str, Any], roles: Mapping[str, str], name: str) -> bool:
    """Does an argument speak of the places of the input ``name``, and of no other input's?"""
    others = [m for m in inputs if m != name and roles.get(m) == CONTENT_ROLE]
    elsewhere = {m for other in others if inputs[other].dim() == 2 for m in (other, _mask_of(inputs, roles, other))}
    mine = {name, _mask_of(inputs, roles, name)}
    return value.shape == inputs[name].shape and (n in mine or n not in elsewhere)
