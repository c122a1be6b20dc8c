"""Dictionary: what encodes an activation into latents and reconstructs it from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lrp_fx.errors import InputError

#: An activation as it lies in the model, its features last: (..., d) to latents (..., n), or the other way round.
Part = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Dictionary:
    """A dictionary of latents: a sparse autoencoder, or a transcoder.

    encoder: a module or a function: an activation (..., d) -> latents (..., n). decoder: latents -> what reconstructs
    the activation (..., d) that the dictionary is put at. reads: the place that the encoder reads, if that is another
    one (a transcoder reads what goes into an MLP and reconstructs what comes out of it).

    Modules are used as they are: in evaluation mode, with their own weights. Functions are traced once; the tensors
    that they close over are taken for weights.
    """

    encoder: Part
    decoder: Part
    reads: str | None = None

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The modules that encode and decode, each once."""
        owners = (_module_of(part) for part in (self.encoder, self.decoder))
        return tuple(dict.fromkeys(owner for owner in owners if owner is not None))


def dictionaries_of(given: Any) -> dict[str, Dictionary]:
    """What `lrp_fx.convert` was given, place by place; raises `InputError` for what is no dictionary."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(place, str) and place for place in given):
        raise InputError(f"dictionaries= takes a dictionary: place -> what encodes and decodes, got {given!r}")
    return {place: _dictionary_of(place, value) for place, value in given.items()}


def _dictionary_of(place: str, given: Any) -> Dictionary:
    if isinstance(given, (tuple, list)) and len(given) == 2:
        given = Dictionary(*given)
    elif not isinstance(given, Dictionary):
        parts = [getattr(given, name, None) for name in ("encode", "decode")]
        if not all(map(callable, parts)):
            raise InputError(
                f"dictionaries={{{place!r}: ...}}: {type(given).__name__} has no encode and decode"
                "\n    next: give a module that has both, a pair of functions, or lrp_fx.Dictionary(encoder, decoder)"
            )
        given = Dictionary(parts[0], parts[1])  # type: ignore[arg-type]
    for what in ("encoder", "decoder"):
        if not callable(getattr(given, what)):
            raise InputError(
                f"dictionaries={{{place!r}: ...}}: its {what} is no function, but {getattr(given, what)!r}"
            )
    found: Dictionary = given
    require_evaluation(place, found)
    return found


def require_evaluation(place: str, dictionary: Dictionary) -> None:
    """Raise `InputError` for a dictionary in training mode: dropout would make every run another."""
    if any(m.training for module in dictionary.modules for m in module.modules()):
        raise InputError(f"the dictionary at {place!r} is in training mode\n    next: call its eval() first")


def _module_of(part: Any) -> nn.Module | None:
    """The module that a part is, or is a method of."""
    owner = part if isinstance(part, nn.Module) else getattr(part, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None
