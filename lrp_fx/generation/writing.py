"""Writing: a prompt and what follows it, as one call of the model that shows every step at once.

requires  a prompt, as text or as the model's arguments, and what follows it, as text or ids
ensures   arguments of forward that hold both; row ``start - 1 + k`` of the output is the one that step ``k`` is read in
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrp_fx.capture.arguments import role_of
from lrp_fx.errors import InputError
from lrp_fx.preprocess.forward import Forward
from lrp_fx.preprocess.names import going_on
from lrp_fx.preprocess.reader import Reader

DECODER, TEXT = "decoder_input_ids", "input_ids"
#: What a reader takes beside the prompt.
MEDIA = ("images", "audio")
_NO_READER = (
    "no tokenizer is known that reads texts\n    next: convert(model, tokenizer=...), or give ids, tensors (1, T)"
)


@dataclass(frozen=True)
class Writing:
    """``inputs``: the call, one example. ``name``: the input that holds what is written, prompt and all; ``start``: at
    which of its places that begins.
    """

    inputs: dict[str, Any]
    name: str
    start: int

    @property
    def ids(self) -> list[int]:
        """All ids of the text that is written on, (T,)."""
        found: list[int] = self.inputs[self.name][0].tolist()
        return found

    @property
    def written(self) -> list[int]:
        """The ids of what follows the prompt, one for each step."""
        return self.ids[self.start :]


def begun(
    forward: Forward, reader: Reader | None, prompt: Any, inputs: Mapping[str, Any], settings: Any = None
) -> Writing:
    """The prompt, with nothing written yet.

    prompt: a text (or what else the reader reads, as a chat), ids (1, T) or (T,), the arguments of forward as a dict,
        or None where ``inputs`` has them. settings: a ``generation_config``, which may say what a decoder begins with.

    Raises `InputError` for several prompts, and for texts without a tokenizer.
    """
    names = forward.names or frozenset()
    given = {n: v for n, v in inputs.items() if n in names or n not in MEDIA}
    media = {n: v for n, v in inputs.items() if n not in given}
    if isinstance(prompt, Mapping) and not {"role", "content"} <= set(prompt):
        given = {**prompt, **given}
    elif _ids_of(prompt) is not None:
        given[TEXT if forward.takes(TEXT) else forward.main] = _ids_of(prompt)
    elif prompt is not None or media:
        given = {**_read(reader, prompt, media), **given}
    decodes = DECODER in names or DECODER in given
    name = DECODER if decodes else TEXT if forward.takes(TEXT) or TEXT in given else forward.main
    if name == DECODER and name not in given:
        given[name] = torch.tensor([[_first_token(settings, forward.config)]])
    ids = given.get(name)
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
        raise InputError(f"nothing to write on: {name}=, the ids (1, T) of the prompt, is missing")
    if len(ids) != 1:
        raise InputError(f"one prompt at a time: {name} has {len(ids)} rows\n    next: give a list of prompts")
    end = _ending(reader, prompt, ids[0].tolist()) if isinstance(prompt, str) and name == TEXT else 0
    if end:
        given = {n: v[:, :-end] if _goes_along(n, v, ids, name) else v for n, v in given.items()}
        ids = given[name]
    placed = {n: v.to(forward.device) if isinstance(v, Tensor) else v for n, v in given.items()}
    return Writing(placed, name, ids.shape[1])


def _ids_of(prompt: Any) -> Tensor | None:
    """(1, T): a prompt that is numbers."""
    first = prompt
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    if isinstance(prompt, Tensor) or (isinstance(first, int) and not isinstance(prompt, int)):
        ids = torch.as_tensor(prompt)
        return ids.unsqueeze(0) if ids.dim() == 1 else ids
    return None


def _ending(reader: Reader | None, text: str, ids: Sequence[int]) -> int:
    """How many tokens a tokenizer puts behind a text that ends there, as a written one does not."""
    if reader is None or reader.tokenizer is None:
        return 0
    plain = reader.pieces(text)
    places = [k for k in range(len(ids) - len(plain) + 1) if list(ids[k : k + len(plain)]) == plain]
    return len(ids) - len(plain) - places[0] if plain and places else 0


def _goes_along(name: str, value: Any, text: Tensor, written: str) -> bool:
    """Is it told token by token of the text that is written, or that text itself?"""
    own = name.startswith("decoder_") == written.startswith("decoder_")
    return own and isinstance(value, Tensor) and value.shape == text.shape


def _read(reader: Reader | None, prompt: Any, media: Mapping[str, Any]) -> dict[str, Tensor]:
    if reader is None:
        raise InputError(_NO_READER)
    return reader.inputs(*([prompt] if prompt is not None else []), **media)


def _first_token(*holders: Any) -> int:
    """The token that a decoder begins with, as the first of these that does says."""
    for holder in holders:
        for name in ("decoder_start_token_id", "bos_token_id"):
            found = getattr(holder, name, None)
            if isinstance(found, int):
                return found
    raise InputError(f"what the decoder begins with is not known\n    next: give {DECODER}=, ids (1, T)")


# ------------------------------------------------------------------------------------------------ what follows
def following(reader: Reader | None, prompt: Any, begun: Writing, text: Any) -> list[int]:
    """The ids of what follows the prompt.

    text: ids, or a text, which is read together with the prompt where the prompt's ids stay what they are, by itself
        elsewhere (after a chat, in a decoder of its own, where a word goes on over the seam).
    """
    if not isinstance(text, str):
        ids = torch.as_tensor(text)
        if ids.numel() == 0 or ids.is_floating_point() or (ids.dim() == 2 and len(ids) != 1) or ids.dim() > 2:
            raise InputError(f"what follows is a text or ids (T,), at least one; got {text!r}")
        return [int(i) for i in ids.flatten().tolist()]
    if reader is None:
        raise InputError(_NO_READER)
    if isinstance(prompt, str) and begun.name != DECODER:
        whole = reader.inputs(prompt + text)[begun.name][0].tolist()
        whole = whole[: len(whole) - _ending(reader, prompt + text, whole)]
        if whole[: begun.start] == begun.ids and len(whole) > begun.start:
            return [int(i) for i in whole[begun.start :]]
    found = reader.pieces(text) if begun.name == DECODER else going_on(text, reader.tokenizer)
    if not found:
        raise InputError("what follows the prompt has no token: there is no step to explain")
    return found


def written(begun: Writing, ids: Sequence[int]) -> Writing:
    """The prompt and what follows it as one call: masks and segments of the prompt go on over what follows.

    Raises `InputError` where the prompt's positions are given: what they go on with is not known.
    """
    text = begun.inputs[begun.name]
    inputs = dict(begun.inputs)
    for name, value in begun.inputs.items():
        if name == begun.name or not _goes_along(name, value, text, begun.name):
            continue
        role = role_of(name, value)
        if role == "position":
            raise InputError(f"{name} of a prompt: leave it out, so that the model counts what follows itself")
        if role not in ("mask", "segment"):
            continue  # a text of its own, that happens to be as long
        fill = value.new_ones(1, len(ids)) if role == "mask" else value.new_zeros(1, len(ids))
        inputs[name] = torch.cat([value, fill], 1)
    inputs[begun.name] = torch.cat([text, torch.tensor([list(ids)], dtype=text.dtype, device=text.device)], 1)
    return Writing(inputs, begun.name, begun.start)


def generated(model: nn.Module, begun: Writing, options: Mapping[str, Any]) -> list[list[int]]:
    """What the model writes after the prompt, one list of ids for each sequence that it returns.

    options: of its own ``generate``.
    """
    write: Any = getattr(model, "generate", None)
    if not callable(write):
        raise InputError(
            f"{type(model).__name__} has no generate()\n    next: explainer.continuation(prompt, ids) explains what "
            "was written in another way"
        )
    with torch.no_grad():
        result = write(**begun.inputs, **options)
    sequences = result if isinstance(result, Tensor) else result["sequences"]
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    last = {int(e) for e in (ends if isinstance(ends, (list, tuple)) else [ends]) if e is not None}
    found = [_after(row, begun.ids, last) for row in sequences.tolist()]
    if not all(found):
        raise InputError("the model wrote nothing: it ended at once, or max_new_tokens= is 0")
    return found


def _after(row: list[int], prompt: list[int], ends: set[int]) -> list[int]:
    """What is new in a sequence, up to where it ends: shorter ones are filled up."""
    new = row[len(prompt) :] if row[: len(prompt)] == prompt else row
    return new[: next((k + 1 for k, i in enumerate(new) if i in ends), len(new))]
