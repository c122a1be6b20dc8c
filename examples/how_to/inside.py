"""Inside the model: layer by layer, place by place, operation by operation.

Relevance is known at every depth of the residual stream, at every place where position enters, and at every
operation.
"""

from pathlib import Path

import lrp_fx

STORIES = Path(__file__).parents[1] / "models" / "stories260k"

explainer = lrp_fx.convert(STORIES, conserve="site")
relevance = explainer("Once upon a time, there was a little girl named")

print("depth:", tuple(relevance.depth.shape), "(before each block and after the last, examples, tokens)")
for number, row in enumerate(relevance.depth[:, 0]):
    print(f"  {number}: token {int(row.abs().argmax()):>2} has most, {float(row.abs().max() / row.abs().sum()):.0%}")

print("position enters at", len(relevance.position), "places:")
for site in relevance.position[:2]:
    print(f"  {site.module}: {site.kind}, {site.variant}, {float(site.share):+.2%} of the score")

print(
    "balanced operations:",
    len(relevance.ledger.sites),
    "the worst off by",
    f"{max(s.error for s in relevance.ledger.sites):.0e}",
)
print("what was recognised:", ", ".join(sorted({site.kind for site in explainer.sites})))

# Any tensor that the model returns can be explained: a hidden state, one neuron of it, an attention weight.
hidden = lrp_fx.convert(explainer.model, output="hidden_states.2")
ids = explainer.reader.inputs("Once upon a time")["input_ids"]
neuron = hidden(input_ids=ids, output_hidden_states=True, target=lambda states: states[:, -1, 5])
print(f"neuron 5 of layer 2 at the last token: {float(neuron.score):+.4f} from {neuron.tokens.shape[1]} tokens")
