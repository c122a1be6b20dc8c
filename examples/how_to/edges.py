"""Edges: which head of a model reads which, and how does a circuit look?

The shipped model answers "what stood behind the last token before?" with two layers. How such models do it is known
(Olsson et al., 2022): heads below write into each token which one stands in front of it, and heads above, the
induction heads, look with that for the token that once came after the last. Their edges are followed here, head by
head.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

import lrp_fx

FOLDER = Path(__file__).parents[1] / "models" / "task_induction"
model = transformers.LlamaForSequenceClassification.from_pretrained(FOLDER, attn_implementation="eager").eval()
data = np.load(FOLDER / "eval.npz")
inputs = {name: torch.tensor(data[name][:16]) for name in ("input_ids", "attention_mask")}

# What passes from head to head: one graph for all pairs, one batched transpose for each place. Each head's books close.
explainer = lrp_fx.convert(model)
relevance = explainer(**inputs, edges=["heads", "mlp"])
edges = relevance.edges
print(edges, f"off by {float(edges.error.max()):.0e} at most")
share = (edges.relevance / relevance.score[:, None]).mean(0)
print("of the score:", ", ".join(f"{name} {float(r):.0%}" for name, r in zip(edges.names, share, strict=True)))

# The largest of one sequence: a networkx graph, that can be shown, drawn and written for other tools.
circuit = relevance.graph(0.08)
print(circuit)
circuit.show()
with tempfile.TemporaryDirectory() as folder:
    circuit.to_html(Path(folder) / "circuit.html")
    circuit.to_graphml(Path(folder) / "circuit.graphml")
    circuit.to_circuit_tracer(Path(folder) / "induction.json")
    print("written:", ", ".join(sorted(file.name for file in Path(folder).iterdir())))

# Is it the known circuit? With heads at each token as the units below: what do the two largest heads of the upper layer
# read at the last token, where the question is? Beside it what attention itself says of the lower heads.
by_token = lrp_fx.Between(["heads.0", "heads.1"], by={"heads.0": ("heads", "tokens")})
amounts = explainer(**inputs, edges=by_token).edges.between("heads.1", "heads.0").abs()
last = inputs["attention_mask"].sum(1) - 1
rows = torch.arange(len(last))
amounts = amounts.view(len(last), 4, 4, -1)[rows, :, :, last].sum(0)
upper = edges.between("score", "heads.1", "direct")[:, 0].sum(0).topk(2).indices
with torch.no_grad():
    below, _ = model(**inputs, output_attentions=True).attentions
looks_back = below[rows, :, last, last - 1].mean(0)
print("induction heads:", sorted(upper.tolist()))
read = amounts[upper].sum(0) / amounts[upper].sum()
for head in range(4):
    print(f"  heads.0[{head}]: {float(read[head]):.0%} of what they read there; looks back by {looks_back[head]:.2f}")
assert set(read.topk(2).indices.tolist()) == set(looks_back.topk(2).indices.tolist())
