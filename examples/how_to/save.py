"""Save: results for a paper, graphs for a machine without the model's code.

A result goes to one file and comes back to the bit; so does an explainer, as its graph. Neither holds code.
"""

import sys
import tempfile
from pathlib import Path

import torch

import lrp_fx
from shipped import marks

model, tokenizer, texts = marks()
explainer = lrp_fx.convert(model, tokenizer=tokenizer)
relevance = explainer(texts[:2])
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())

relevance.save(folder / "relevance.safetensors")  # a result: tensors, names, books
back = lrp_fx.Relevance.load(folder / "relevance.safetensors")
print("result:", torch.equal(back.tokens, relevance.tokens), back.target[0].title)
print("most:", [(part.text.strip(), round(part.relevance, 3)) for part in relevance.top(2)[0]])

explainer.save(folder / "marks.lrp")  # the graph, with the weights; transformers is not needed to run it
loaded = lrp_fx.load(folder / "marks.lrp")
inputs = explainer.reader.inputs(texts[:2])
print("graph:", torch.equal(loaded(**inputs).tokens, relevance.tokens))

relevance.to_html(folder / "relevance.html")  # a page; .plot() a figure, .to_json() and .to_frame() the numbers
print(sorted(path.name for path in folder.iterdir()))
