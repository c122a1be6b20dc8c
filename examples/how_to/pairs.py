"""Pairs: why are two texts alike?

A similarity is explained by pairs: which word of the one text meets which of the other (BiLRP, Eberle et al. 2020).
Every dimension of both embeddings is explained, in one pass of the transpose for many of them, and multiplied; the
similarity is the sum of all pairs, and of what is no token's: biases and other sinks.
"""

from pathlib import Path

import torch
import transformers

import lrp_fx

STORIES = Path(__file__).parents[1] / "models" / "stories260k"

explainer = lrp_fx.convert(
    transformers.AutoModel.from_pretrained(STORIES, dtype=torch.float32).eval(), tokenizer=STORIES, rules="attnlrp"
)
x, y = "The girl had a red ball", "A boy saw the big ball"
alike = lrp_fx.pairs(explainer, x, y, pool="mean", measure="cosine")
print(alike)
for one, two, amount in alike.top(4):
    print(f"  {one.strip():>6} with {two.strip():<6} {amount:+.3f}")

own = [explainer.model(**explainer.reader.inputs(t)).last_hidden_state.mean(1)[0].detach() for t in (x, y)]
print(f"the model's own embeddings: {float(torch.cosine_similarity(own[0], own[1], 0)):+.4f}")
print(f"all that is booked: {alike.total:+.4f}, of it pairs of tokens {float(alike.matrix.sum()):+.4f}")
