"""Concepts: relevance that passes one part of the model.

Concept relevance propagation (Achtibat et al. 2023) asks what a prediction owes to one concept: a neuron, a head, a
latent. `through=` lets on only what passes it. The rest of the score is the sink `elsewhere`, so that the books stay
closed, and what passes all neurons of a place is the sum of what passes each.
"""

import warnings
from pathlib import Path

import lrp_fx

STORIES = Path(__file__).parents[1] / "models" / "stories260k"

warnings.simplefilter("ignore")  # a small part of a score has parts that cancel: it is to be one
explainer = lrp_fx.convert(STORIES, conserve="site")
text = "Once upon a time, there was a little girl named"
whole = explainer(text, at=["neurons.3", "heads"])
print(f"{whole.target.title}, score {float(whole.score):+.3f}")

# Which neurons of one block, and which heads of all, carry most of it?
neurons = whole.at["neurons.3"]
shares = neurons.by("features")[0]
heads = whole.at.by("heads", "heads")[:, 0]
print("neurons of block 3:", ", ".join(f"{k} {float(shares[k]):+.2f}" for k in shares.abs().topk(3).indices.tolist()))
layer, head = divmod(int(heads.argmax()), heads.shape[1])
print(f"the head with most: {head} of block {layer}, {float(heads[layer, head]):+.2f}")

# The tokens that one concept has its part from.
concept = int(shares.argmax())
for name, through in ((f"neuron {concept}", {"neurons.3": [concept]}), (f"head {head}", {f"heads.{layer}": [head]})):
    passed = explainer(text, through=through)
    part = float(passed.score - passed.ledger.sinks["elsewhere"])
    print(f"{name}: {part:+.2f} of the score,", ", ".join(map(str, passed.top(3)[0])))

# A concept may be a set, or a mask; concepts that share a place and nothing else add up.
positive = shares > 0
parts = [explainer(text, through={"neurons.3": {"features": mask}}) for mask in (positive, ~positive)]
sums = [float(p.score - p.ledger.sinks["elsewhere"]) for p in parts]
print(f"what speaks for it {sums[0]:+.2f}, against it {sums[1]:+.2f}: {sum(sums):+.2f} of {float(neurons.total):+.2f}")
