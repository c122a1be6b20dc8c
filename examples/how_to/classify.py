"""Classify: which tokens decide for a class?

The model answers one question about a row of symbols; the class of `QMARK` is the value that stands after `MARK`.
Give `lrp_fx.convert` the model with its tokenizer, and ask with a text. Any classifier of transformers goes the same
way: `lrp_fx.convert("folder or name on the hub")` loads model and tokenizer, `lrp_fx.convert(pipeline)` takes both
from there.
"""

import lrp_fx
from shipped import marks

model, tokenizer, texts = marks()  # a small classifier trained for this project, and some of its texts
explainer = lrp_fx.convert(model, tokenizer=tokenizer)

relevance = explainer(texts[0])  # explains the class that the model predicts
print(relevance.target.title)
relevance.show()

# Ask for another class by its label (or its number): what speaks for v3, and what against it?
other = explainer(texts[0], target="v3")
print(other.target.title, f"score {float(other.score):+.3f}")
