"""Why does a language model continue a story the way it does?

Explains the next token: relevance of every token, split into what it is (content) and where it stands (position), and
the ledger that shows where the rest of the logit went. Runs offline:

    python examples/next_token.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers

import lrp_fx

MODEL = Path(__file__).parent / "models" / "stories260k"


def main(text: str) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)

    explainer = lrp_fx.convert(model)
    relevance = explainer(**tokenizer(text, return_tensors="pt"))

    best = int(relevance.output.logits[0, -1].argmax())
    print(f"{text!r} is continued by {tokenizer.convert_ids_to_tokens(best)!r}\n")
    relevance.show(tokenizer)

    # The books close: the logit is the sum of all leaves and sinks.
    print(f"score {relevance.score.item():.5f} = {relevance.ledger.total.item():.5f} in leaves and sinks")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "Tim had a red ball. One day, he lost his red")
