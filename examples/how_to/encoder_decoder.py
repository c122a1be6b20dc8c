"""Encoder and decoder: what of the source, and what of the words written so far, made the next word?

Give both texts; the result has relevance for each, in `content` by the names of the model's arguments. The weights
here are random (a model of the size of this page is not worth a download): the numbers mean nothing, what they are
called and how they add up is what you would see with yours.
"""

import torch
import transformers

import lrp_fx

torch.manual_seed(0)
config = transformers.T5Config(
    vocab_size=60, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
)
model = transformers.T5ForConditionalGeneration(config).eval()
source, written = torch.tensor([[5, 17, 23, 8, 1]]), torch.tensor([[0, 31, 12]])

explainer = lrp_fx.convert(model)
relevance = explainer(input_ids=source, decoder_input_ids=written)
for name, tokens in relevance.tokens.items():
    print(f"{name:<18} {tokens.sum():+.4f} in {tokens.shape[1]} tokens")
ledger = relevance.ledger
print(f"score {float(relevance.score):+.4f}, in leaves and sinks {float(ledger.total):+.4f}")
relevance.show()
