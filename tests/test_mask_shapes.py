"""The last token is found whatever the shape of a mask: a column for each example, heads merged with it, lengths."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as fn
from torch import Tensor, nn

import lrp_fx
from testing.handmade import F, T, V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")
HEADS, WIDTH, LAST = 2, 8, (4, 6)
KEEP = torch.tensor([[True] * 5 + [False] * 2, [True] * 7])
IDS = torch.randint(1, 20, (2, 7), generator=torch.Generator().manual_seed(0))
Shape = Callable[[Tensor], Tensor]


def hidden(keep: Tensor) -> Tensor:
    """(B * heads, T, T): where nothing is seen, in the order of `nn.MultiheadAttention`."""
    length = keep.shape[1]
    seen = keep[:, None, None] & torch.ones(length, length, dtype=torch.bool).tril()
    return ~seen.expand(-1, HEADS, -1, -1).reshape(-1, length, length)


class Decoder(nn.Module):
    """``hide``: (B * heads, T, T) truth, where nothing is seen, made of a mask."""

    def __init__(self, hide: Shape) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(20, WIDTH), nn.Embedding(16, WIDTH)
        self.mix = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.head, self.hide = nn.Linear(WIDTH, 20), hide
        self.double().eval()

    def forward(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        x = x + self.mix(x, x, x, attn_mask=self.hide(mask), need_weights=False)[0]
        logits: Tensor = self.head(x)
        return logits


#: (a mask given for what is kept (B, T), what the model makes of it)
MASKS: dict[str, tuple[Shape, Shape]] = {
    "column": (lambda keep: keep[..., None], lambda m: hidden(m[..., 0])),
    "column of numbers": (lambda keep: keep[..., None].double(), lambda m: hidden(m.mT[:, 0] > 0)),
    "column that hides": (lambda keep: ~keep[..., None], lambda m: hidden(~m.squeeze(-1))),
    "by head": (hidden, lambda m: m),
    "by head, that keeps": (lambda keep: ~hidden(keep), lambda m: ~m),
    "by head, added": (lambda k: torch.zeros(4, 7, 7).double().masked_fill(hidden(k), -torch.inf), lambda m: m),
}


def by_length(lengths: Tensor) -> Tensor:
    return hidden(torch.arange(7) < lengths[:, None])


MASKS["lengths"] = lambda keep: keep.sum(1), by_length


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_the_last_token_that_a_mask_keeps_is_explained(name: str, dynamic: bool) -> None:
    given, made = MASKS[name]
    model = Decoder(made)
    found = lrp_fx.convert(model, dynamic=dynamic)(IDS, given(KEEP))
    logits = model(IDS, given(KEEP))
    tokens = found.tokens
    assert isinstance(tokens, Tensor)
    assert not tokens[0, 5:].any()
    for example, last in enumerate(LAST):
        torch.testing.assert_close(found.score[example], logits[example, last].max(), rtol=0, atol=1e-12)


def test_numbers_that_hide_nothing_from_the_last_are_no_lengths() -> None:
    """The words of a prefix are seen by all; what stands behind it, by what stands behind that."""

    def prefix(lengths: Tensor) -> Tensor:
        return hidden(torch.ones(len(lengths), 7, dtype=torch.bool)) & (
            torch.arange(7) >= lengths[:, None]
        ).repeat_interleave(HEADS, 0).unsqueeze(1)

    model = Decoder(prefix)
    found = lrp_fx.convert(model)(IDS, torch.tensor([5, 3]))
    assert [said.position for said in found.target] == [6, 6]


class BehindPrefix(nn.Module):
    """A causal model whose keys stand behind learned ones; whether a key is seen is looked up in the mask by number."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.maps, self.head = nn.Embedding(V, F), nn.Linear(F, 3 * F), nn.Linear(F, V)
        self.prefix = nn.Parameter(torch.randn(2, F))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x, before = self.words(input_ids), 2
        q, k, v = self.maps(x).chunk(3, -1)
        k, v = (torch.cat([self.prefix.expand(x.shape[0], -1, -1), a], 1) for a in (k, v))
        seen = torch.cat([attention_mask.new_ones(x.shape[0], before), attention_mask], 1).bool()
        keys, queries = torch.arange(before + x.shape[1]), torch.arange(x.shape[1])
        shown = seen[torch.arange(x.shape[0])[:, None, None], keys] & (keys <= queries[:, None] + before)
        return self.head(x + fn.scaled_dot_product_attention(q, k, v, attn_mask=shown))  # type: ignore[no-any-return]


def test_a_mask_that_keys_are_looked_up_in_says_which_token_is_the_last() -> None:
    mask = torch.ones(3, T, dtype=torch.long)
    mask[1, T - 1 :] = mask[2, T - 3 :] = 0
    explainer = lrp_fx.convert(ready(BehindPrefix()), dynamic=True)
    found = explainer(input_ids=ids(3), attention_mask=mask)
    assert explainer.rewritten.program.method == "dynamic"
    assert [t.position for t in found.target] == [T - 1, T - 2, T - 4]
    alone = explainer(input_ids=ids(3)[2:, : T - 3], attention_mask=mask[2:, : T - 3])
    torch.testing.assert_close(found.tokens[2:, : T - 3], alone.tokens)
    assert not found.tokens[mask == 0].any()
