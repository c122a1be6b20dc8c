"""Latents: relevance by the features of a sparse autoencoder.

A dictionary put at a place stands for the activation there: the model computes what it did, and relevance goes through
the latents that reconstruct the activation. What they miss is the sink `reconstruction error`. Here a small dictionary
is trained on what the model writes by itself.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.targets import At

STORIES = Path(__file__).parents[1] / "models" / "stories260k"
PLACE = "residual.3"


class TopK(nn.Module):
    """Of 256 latents those 8 that fit best."""

    def __init__(self, width: int, latents: int = 256, kept: int = 8) -> None:
        super().__init__()
        self.encoder, self.decoder, self.kept = nn.Linear(width, latents), nn.Linear(latents, width), kept
        self.decoder.weight.data = self.encoder.weight.data.T.clone()

    def encode(self, x: Tensor) -> Tensor:
        values, index = torch.relu(self.encoder(x - self.decoder.bias)).topk(self.kept, -1)
        return torch.zeros(*x.shape[:-1], self.encoder.out_features).scatter(-1, index, values)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)


warnings.simplefilter("ignore")  # words about single pictures: none is drawn here
explainer = lrp_fx.convert(STORIES)
torch.manual_seed(0)
start = explainer.reader.inputs("Once upon a time")["input_ids"]
texts = explainer.model.generate(start, do_sample=True, num_return_sequences=48, min_new_tokens=60, max_new_tokens=60)
rows = explainer(input_ids=texts, at=PLACE).at[PLACE].value.flatten(0, 1)

sae = TopK(rows.shape[-1])
sae.decoder.bias.data = rows.mean(0)
optimiser = torch.optim.Adam(sae.parameters(), 3e-3)
for _ in range(400):
    some = rows[torch.randint(len(rows), (512,))]
    optimiser.zero_grad()
    (sae.decode(sae.encode(some)) - some).square().mean().backward()
    optimiser.step()
sae.eval()
left = (rows - sae.decode(sae.encode(rows))).square().sum() / (rows - rows.mean(0)).square().sum()
print(f"{len(rows)} activations; the dictionary explains {1 - float(left):.0%} of their variance")

text = "Once upon a time, there was a little girl named"
explainer = lrp_fx.convert(explainer.model, tokenizer=STORIES, dictionaries={PLACE: sae}, conserve="site")
relevance = explainer(text, at=[PLACE, "latents"])
place, latents = relevance.at[PLACE], relevance.at[f"{PLACE}.latents"]
error = float(relevance.ledger.sinks["reconstruction error"])
print(f"{relevance.target.title}, score {float(relevance.score):+.2f}; {PLACE} passes {float(place.total):+.2f}:")
print(f"  latents {float(latents.total):+.2f}, reconstruction error {error:+.2f}, the rest is the decoder's bias")

amounts = latents.by("features")[0]
names = amounts.topk(3).indices.tolist()
for k in names:
    step = int(latents.relevance[0, :, k].argmax())
    print(f"latent {k}: {float(amounts[k]):+.2f}, most of it at token {step}")

# What makes the first of them active, at the last token where it is: a latent as target.
step = int(latents.value[0, :, names[0]].nonzero().max())
why = explainer(text, target=At(f"{PLACE}.latents", lambda z: z[:, step, names[0]]))
print(f"latent {names[0]} is {float(why.score):.2f} there, for:", ", ".join(map(str, why.top(3)[0])))

# What of the prediction takes its way through it; all else is the sink `elsewhere`.
passed = explainer(text, through={f"{PLACE}.latents": [names[0]]})
got = float(passed.score - passed.ledger.sinks["elsewhere"])
print(f"through it {got:+.2f} of {float(passed.score):+.2f}, from", ", ".join(map(str, passed.top(3)[0])))
