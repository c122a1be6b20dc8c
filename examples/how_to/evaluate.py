"""Evaluate: is it true of the model?

`lrp_fx.evaluate` takes tokens away in the order of their relevance and watches the model, beside other rules, a
random order and the place alone; each difference with a paired test.
"""

import lrp_fx
from shipped import marks

model, tokenizer, texts = marks(12)
explainer = lrp_fx.convert(model, tokenizer=tokenizer)
found = lrp_fx.evaluate(explainer, texts, metrics=("abpc", "comprehensiveness"), against=["gradient"], fill="[PAD]")
print(found)
