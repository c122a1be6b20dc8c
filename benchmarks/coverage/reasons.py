"""Why a head falls short, where the row that was measured cannot say it: read in the model's code."""

from __future__ import annotations

from benchmarks.coverage.row import Row

_SELECTED = (
    "the model takes the class token of the first rows of all frames for that of each example (`[:batch_size]`), so "
    "that an example's token is another one's row: the books close for the batch, not for each example"
)
_CODEBOOKS = (
    "the output of a row reads all rows of its example, one for each codebook, so that rows are no examples: the books "
    "close for the batch, not for each row"
)
_COUNTED_FROM_THE_END = (
    "its bias counts from the last column, so that padding on the right adds a number to all of a row: the softmax "
    "does not see it, the place of position's relevance does (content and position's sum are those of the text alone)"
)
_MORE_ROWS = (
    "the output has more rows than the text, and a mask that hides tokens does not say which is the last that counts: "
    "the default target is refused, with `position=` as the next step"
)
_NOT_IN_EVALUATION = "the model itself refuses to be differentiated in evaluation mode"
#: (start of the head's name) -> reason.
REASONS = {
    "Timesformer": _SELECTED,
    "MusicgenForCausalLM": _CODEBOOKS,
    "MusicgenMelodyForCausalLM": _CODEBOOKS,
    "Reformer": _NOT_IN_EVALUATION,
    "PerceiverForMaskedLM": _MORE_ROWS,
    "Mpt": _COUNTED_FROM_THE_END,
}


def true_reason(row: Row) -> str:
    """The reason; empty where the row says it itself, or nothing is short."""
    short = (
        (row.runs and not row.closed) or any(w in row.padding for w in ("off", "failed")) or "gradient" in row.reason
    )
    return next((why for head, why in REASONS.items() if short and row.head.startswith(head)), "")
