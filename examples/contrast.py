"""What speaks for one class rather than another?

The model answers questions about short sequences, here: does A come before B? The contrast of the classes yes and no
cancels what speaks for both. Because the causal tokens of every sequence are known, the example also counts how often
the most relevant token is one of them. Runs offline:

    python examples/contrast.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers

import lrp_fx

MODEL = Path(__file__).parent / "models" / "synth_learned"
QUESTION, YES, NO = "QORDER", 10, 11


def main() -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(MODEL, dtype=torch.float32).eval()
    data = np.load(MODEL / "eval.npz")
    vocab = data["vocab"].tolist()
    asked = np.flatnonzero((data["input_ids"] == vocab.index(QUESTION)).any(1))
    ids, mask, labels, causal = (
        torch.from_numpy(data[name][asked]) for name in ("input_ids", "attention_mask", "labels", "gt_full")
    )

    explainer = lrp_fx.convert(model)
    single = explainer(input_ids=ids[:1], attention_mask=mask[:1], target=lrp_fx.targets.Contrast(YES, NO))
    print(f"Does A come before B? The right class is {int(labels[0])} ({YES} is yes, {NO} is no)\n")
    single.show(vocab)

    # One graph serves the whole batch: the classes of a contrast are inputs of the graph, one pair per example.
    other = torch.where(labels == YES, NO, YES)
    relevance = explainer(input_ids=ids, attention_mask=mask, target=lrp_fx.targets.Contrast(labels, other))
    per_token = relevance.per_token()
    assert isinstance(per_token, torch.Tensor)
    per_token[:, 0] = -torch.inf  # [BOS] may serve as an anchor: it is left out
    hits = causal.gather(1, per_token.argmax(1, keepdim=True)).sum().item()
    print(
        f"the most relevant token is A, B or the question in {hits} of {len(asked)} sequences; padded tokens get "
        f"{float(relevance.per_token()[mask == 0].abs().sum())}"
    )


if __name__ == "__main__":
    main()
