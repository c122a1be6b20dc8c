"""Prune: which heads does it need?

`explainer.parameters` sums the relevance of weights over examples: what passes each of them on the way to the score,
by weight, row, layer, head or expert. What little passes can go. `python -m benchmarks pruning` measures how much,
beside other rankings; for single weights their size may be the better guide.
"""

import copy

import torch

import lrp_fx
from shipped import marks

model, tokenizer, texts = marks(80)
ranked_on, others = texts[:40], texts[40:]
explainer = lrp_fx.convert(model, tokenizer=tokenizer)
relevance = explainer.parameters([ranked_on[:20], ranked_on[20:]])
print(relevance)
print("by layer:", {layer: round(amount) for layer, amount in relevance.by("layer").items()})

# What passes a map is what its result hands to its operand: the last map's weights hold the whole score.
print(f"scores {relevance.score:+.1f}, score.weight {float(relevance['score.weight'].sum()):+.1f}")

inputs = tokenizer(others, return_tensors="pt", padding=True)
inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}


def answers(gone: list[tuple[str, int]]) -> torch.Tensor:
    """The classes that the model gives to the other texts without some heads: all places that are theirs alone."""
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        for part in relevance.divisions:
            for number, share in enumerate(part.shares):
                if (part.site, number) in gone:
                    places = (share == 1).nonzero().flatten()
                    pruned.get_parameter(part.parameter).index_fill_(part.axis, places, 0.0)
        return pruned(**inputs).logits.argmax(-1)


by_relevance = relevance.by("head")
by_size = relevance.with_values({name: p.detach().abs() for name, p in model.named_parameters()}).by("head")
before = answers([])
for count in (2, 4, 6):
    same = []
    for amounts in (by_relevance, by_size):
        least = sorted(amounts, key=lambda head: abs(amounts[head]))[:count]
        same.append(int((answers(least) == before).sum()))
    print(f"without {count} of {len(by_relevance)} heads: {same[0]} of {len(others)} answers stay, by size {same[1]}")
