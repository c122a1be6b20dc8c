"""Why a head falls short, where the row that was measured cannot say it: read in the model's code."""

from __future__ import annotations

from benchmarks.coverage.row import Row

_SELECTED = (
    "the model takes the class token of the first rows of all frames for that of each example (`[:batch_size]`), so "
    "that an example's token is another one's row: the books close for the batch, not for each example"
)
_CODEBOOKS = "rows of its ids are codebooks, several of an example: they are not the examples of its output"
#: (start of the head's name) -> reason.
REASONS = {
    "Timesformer": _SELECTED,
    "MusicgenForCausalLM": _CODEBOOKS,
    "MusicgenMelodyForCausalLM": _CODEBOOKS,
}


def true_reason(row: Row) -> str:
    """The reason; empty where the row says it itself, or nothing is short."""
    return next((why for head, why in REASONS.items() if row.head.startswith(head) and not row.closed), "")
