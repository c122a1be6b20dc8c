"""Tables: a result as plain numbers and names, for JSON and data frames.

requires  a result
ensures   numbers that JSON has; what is no number (NaN, infinity) is None
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from lrp_fx.errors import InputError
from lrp_fx.render.write import write_text
from lrp_fx.report.heat import heatmap
from lrp_fx.report.pieces import Named, Part, tokens_of
from lrp_fx.report.position import KEY
from lrp_fx.report.tokens import is_text


def pandas() -> Any:
    """The module, imported when it is asked for; raises `InputError` where it is not there."""
    try:
        import pandas as module
    except ImportError as error:
        raise InputError("to_frame() needs pandas\n    next: pip install pandas, or read to_dict()") from error
    return module


def as_dict(result: Named, tokenizer: Any = None) -> dict[str, Any]:
    """Everything that is drawn of a result, in plain lists and numbers."""
    tokens = _tokens_or_none(result, tokenizer)
    examples = []
    for b, one in enumerate(result.target):
        ledger = result.ledger
        examples.append(
            {
                "explained": one.title,
                "indices": list(one.indices),
                "labels": list(one.labels),
                "positions": list(one.positions),
                "probabilities": [_number(p) for p in one.probabilities],
                "score": _number(one.score),
                "tokens": [as_row(part) for part in tokens[b]],
                "maps": {n: _nested(R[b].tolist()) for n, R in _maps(result).items()},
                "ledger": {
                    "leaves": {n: _number(t[b]) for n, t in ledger.leaves.items()},
                    "sinks": {n: _number(t[b]) for n, t in ledger.sinks.items()},
                    "error": _number(ledger.error[b]),
                    "cancellation": _number(ledger.cancellation[b]),
                },
            }
        )
    return {"target": str(result.target), "ruleset": result.ruleset, "examples": examples}


def as_row(part: Part) -> dict[str, Any]:
    """One token or word."""
    return {
        "input": part.input,
        "place": part.start,
        "text": part.text,
        "content": _number(part.content),
        "position": _number(part.position),
        "relevance": _number(part.relevance),
    }


def as_frame(result: Named, tokenizer: Any = None) -> Any:
    """A `pandas.DataFrame` with one row for each token: example, input, place, text, content, position, relevance."""
    module = pandas()
    examples = tokens_of(result, tokenizer)
    return module.DataFrame([{"example": b, **as_row(part)} for b, parts in enumerate(examples) for part in parts])


def as_json(data: Any, path: str | Path | None) -> str:
    """JSON text, written to ``path`` (UTF-8) if one is given."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    if path is not None:
        write_text(path, text)
    return text


def _tokens_or_none(result: Named, tokenizer: Any) -> list[list[Part]]:
    try:
        return tokens_of(result, tokenizer)
    except InputError:
        return [[] for _ in result.target]


def _maps(result: Named) -> dict[str, Tensor]:
    """Content of the inputs that are no texts, examples first: pixels of images, time of sound, rows of what is in one
    list of an only example.
    """
    batch = len(result.target)
    found: dict[str, Tensor] = {}
    for name, R in result.content.items():
        if not is_text(name, R, result.inputs):
            rows = _map(result, name, R)
            if len(rows) == batch or batch == 1:
                found[name] = rows if len(rows) == batch else rows.unsqueeze(0)
    return found


def _map(result: Named, name: str, R: Tensor) -> Tensor:
    try:
        return heatmap(result, name, None, KEY)
    except InputError:  # pictures of several sizes in one list
        return R.flatten(1).sum(1) if R.dim() > 1 else R


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _nested(values: Any) -> Any:
    return [_nested(v) for v in values] if isinstance(values, list) else _number(values)
