"""Datasets: many examples, in batches, with a line for each.

One explainer serves all: other lengths and batch sizes use what was captured. Sort by length to pad little, keep what
you need of each result, and write as you go, so that a run that stops can go on. `ledger.error` and
`ledger.token_cancellation` belong into every line: they say which explanations to read with care.
"""

import json
import sys
import tempfile
from pathlib import Path

import lrp_fx
from shipped import marks

model, tokenizer, texts = marks(40)
explainer = lrp_fx.convert(model, tokenizer=tokenizer, keep_output=False)
order = sorted(range(len(texts)), key=lambda number: len(texts[number].split()))

path = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "relevance.jsonl"
with path.open("w", encoding="utf-8") as lines:
    for start in range(0, len(order), 8):
        numbers = order[start : start + 8]
        relevance = explainer([texts[n] for n in numbers])
        for number, one in zip(numbers, relevance, strict=True):
            kept = one.tokens[0, : len(texts[number].split())]
            line = {
                "text": texts[number],
                "score": float(one.score),
                "tokens": kept.tolist(),
                "error": float(one.ledger.error),
            }
            print(json.dumps(line), file=lines)

written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
print(len(written), "lines; captures:", explainer.statistics.captures)
print("largest error:", f"{max(line['error'] for line in written):.0e}")
