"""Patching: what the model would say if a value inside it were another.

`explainer.patched` runs the model with heads, neurons, or the residual stream at a token replaced; `relevance.at` says
beforehand, for all of them at once, what that would about do to the score. How well it does is measured in
[Explanations against activation patching](../measured/patching.md).
"""

from pathlib import Path

import torch

import lrp_fx

STORIES = Path(__file__).parents[1] / "models" / "stories260k"

explainer = lrp_fx.convert(STORIES)
reader = explainer.reader
ids = reader.inputs("Lily went to the park. She saw a big red")["input_ids"]
relevance = explainer(input_ids=ids, at="mlp")
explained = relevance.target[0]
answer, score = explained.index, explained.score
print(f"next: {explained.label}, logit {score:.2f}")

# One run for each MLP, set to zero at all tokens; what comes before it is computed once.
names = list(relevance.at)
outputs = explainer.patched(input_ids=ids, values=[{name: 0.0} for name in names])
for name, output in zip(names, outputs, strict=True):
    change = float(output.logits[0, -1, answer]) - score
    print(f"without {name}: {change:+.2f}, expected {-float(relevance.at[name].total):+.2f}")

# The value of another text in the place of this one's, at the last token alone.
other = reader.inputs("Tom went to the shop. He had a big red")["input_ids"][:, -ids.shape[1] :]
there = explainer(input_ids=other, at="residual.3").at["residual.3"].value


def swapped(value: torch.Tensor) -> torch.Tensor:
    value[:, -1] = there[:, -1]
    return value


output = explainer.patched(input_ids=ids, values={"residual.3": swapped})
print(f"with the last token of the other text in layer 3: {float(output.logits[0, -1, answer]) - score:+.2f}")
