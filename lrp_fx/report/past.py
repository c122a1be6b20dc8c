"""Past: the relevance of a cache, summed for each token that it was made of.

requires  relevance by the dotted name of each tensor of a cache (``past_key_values.layers.0.keys``)
ensures   one row sum for each earlier token; what has no rows that stand for tokens (recurrent states) is left out
"""

from __future__ import annotations

from collections import defaultdict

from torch import Tensor

from lrp_fx.errors import InputError

#: Axes of keys and values: (B, heads, T, features).
_RANK, _ROWS = 4, 2


def past(cached: dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
    """(B, T), or a dict by cache of them; raises `InputError` where there is nothing with rows."""
    rows: dict[str, list[Tensor]] = defaultdict(list)
    for name, R in cached.items():
        if R.dim() == _RANK:
            rows[_cache_of(name)].append(R.sum([axis for axis in range(1, _RANK) if axis != _ROWS]))
    if not rows:
        raise InputError(
            "no cached keys and values (B, heads, T, features) were given; .cached has "
            f"{', '.join(cached) or 'nothing'}"
        )
    result = {name: _added(parts) for name, parts in rows.items()}
    return next(iter(result.values())) if len(result) == 1 else result


def _cache_of(name: str) -> str:
    """A dotted name without numbers of layers, and without the last word, which says keys or values."""
    words = [part for part in name.split(".") if not part.isdigit()]
    return ".".join(words[:-1] or words)


def _added(parts: list[Tensor]) -> Tensor:
    """Row by row, counted from the last."""
    longest = max(part.shape[1] for part in parts)
    total = parts[0].new_zeros(parts[0].shape[0], longest)
    for part in parts:
        total[:, longest - part.shape[1] :] += part
    return total
