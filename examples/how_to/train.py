"""Train on relevance: what the model must not look at.

`convert(model, differentiable=True)`: relevance carries gradients, so that it can stand in a loss. Here a tag in front
of each sequence says the answer in training, and nothing afterwards. A penalty on the tag's relevance makes the model
learn the task instead: are most of the seven digits high?
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import lrp_fx
from lrp_fx.targets import Contrast


class Classifier(nn.Module):
    """One block of attention, one map, the mean over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.qkv = nn.Embedding(12, 16), nn.Linear(16, 48)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        x = x + scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))


def sequences(count: int, generator: torch.Generator, *, tagged: bool) -> tuple[Tensor, Tensor]:
    digits = torch.randint(10, (count, 7), generator=generator)
    labels = ((digits >= 5).sum(1) > 3).long()
    tags = labels if tagged else torch.randint(2, (count,), generator=generator)
    return torch.cat([10 + tags[:, None], digits], 1), labels


def trained(penalty: float) -> str:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = Classifier().eval()  # no dropout: relevance is of one function
    explainer = lrp_fx.convert(model, differentiable=True)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(200):
        ids, labels = sequences(64, generator, tagged=True)
        found = explainer(input_ids=ids, target=Contrast(1, 0))
        loss = cross_entropy(found.output, labels) + penalty * found.tokens[:, 0].square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    ids, labels = sequences(1000, generator, tagged=False)
    right = (model(ids).argmax(1) == labels).float().mean()
    tag = explainer(input_ids=ids, target=Contrast(1, 0)).detach()
    share = (tag.tokens[:, 0].abs() / tag.tokens.abs().sum(1)).mean()
    captures = explainer.statistics.captures
    return f"{right:.0%} right where the tag says nothing, {share:.0%} of relevance on it; captures: {captures}"


print("without a penalty:", trained(0.0))
print("with a penalty:   ", trained(1.0))
