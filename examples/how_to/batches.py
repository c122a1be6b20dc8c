"""Batches: many texts in one call, each with a question of its own.

Texts are padded as the model reads them; a padded token gets exactly zero. A result is a sequence of results: `len`,
`[i]`, slices, iteration. Targets may be one for all, or one for each text.
"""

import lrp_fx
from shipped import marks

model, tokenizer, texts = marks()
explainer = lrp_fx.convert(model, tokenizer=tokenizer)

relevance = explainer(texts[:3])
for text, one in zip(texts[:3], relevance, strict=True):
    print(f"{one.target.title:<40} {text}")

# A class for each text, by label or number.
relevance = explainer(texts[:3], target=["v0", "v1", "v2"])
print([round(score, 3) for score in relevance.score.tolist()])

# Several questions about the same texts share one forward pass.
first, second = explainer(texts[:3], targets=["v0", "v1"])
print(len(first), "texts,", first.target[0].title, "and", second.target[0].title)
