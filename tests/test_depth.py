"""Relevance by depth: residual streams found by dataflow, cut at every block, and balanced there."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.errors import InputError
from testing.architectures import cases
from testing.converted import TRAINED, converted, trained
from testing.scoring import load_sequences

#: Depths expected of each stream: blocks + 1.
STREAMS = {
    "bert": {"input_ids": 3},  # post-norm
    "gpt2": {"input_ids": 3},
    "gpt_neox": {"input_ids": 3},  # attention and feed-forward side by side
    "gemma2": {"input_ids": 3},  # a norm before and after each branch
    "opt": {"input_ids": 3},  # reshaped inside its blocks
    "t5": {"input_ids": 3, "decoder_input_ids": 3},
    "vit": {"vit.encoder.layer.1": 3},
    "swin": {"first stage": 3, "second stage": 3},
    "wav2vec2": {"input_values": 4},  # its convolution of positions mixes tokens as a block does
}


@pytest.mark.parametrize("name", cases(STREAMS))
def test_streams_are_found_and_balance(name: str) -> None:
    found = converted(name, "eager", torch.float64, conserve="site")
    inputs, relevance = found.inputs, found.relevance
    assert [len(s.depth) for s in relevance.streams] == list(STREAMS[name].values())
    texts = [s.owner for s in relevance.streams if s.owner is not None]
    assert texts == [n for n in STREAMS[name] if n in inputs and not inputs[n].is_floating_point()]
    for depth in relevance.ledger.depths:
        assert depth.error.max() <= 1e-10, depth.name
        assert torch.allclose(depth.total, relevance.score)


def test_what_passes_a_decoder_by_is_counted() -> None:
    """Every block of a decoder reads the encoder: relevance goes there past the decoder's stream."""
    relevance = converted("t5", "eager", torch.float64, conserve="site").relevance
    encoder, decoder = relevance.ledger.depths[:3], relevance.ledger.depths[3:]
    assert all(float(d.passing.abs().max()) == 0 for d in encoder)
    assert float(decoder[0].passing.abs().min()) > 0 or float(decoder[1].passing.abs().min()) > 0
    assert float(decoder[-1].passing.abs().max()) == 0, "nothing is left to read after the last block"


def test_the_first_and_the_last_depth() -> None:
    sequences = load_sequences(TRAINED / "synth_rope", 8)
    relevance = trained("synth_rope", dtype=torch.float64, conserve="site")(
        input_ids=sequences.ids, attention_mask=sequences.mask, target=lrp_fx.targets.Class(sequences.labels)
    )
    assert isinstance(relevance.depth, Tensor)
    assert relevance.depth.shape == (4, *sequences.ids.shape)
    assert torch.allclose(relevance.depth[0], relevance.content["input_ids"]), "the stream starts as the embeddings"
    last = torch.nn.functional.one_hot(sequences.mask.sum(1) - 1, sequences.ids.shape[1]).bool()
    assert float(relevance.depth[-1][~last].abs().max()) == 0, (
        "after the last block only the row that is read out counts"
    )
    assert torch.allclose(relevance.depth[-1][last], relevance.score)
    assert float(relevance.depth[:, sequences.mask == 0].abs().max()) == 0


def test_the_mean_over_depths_counts_position_above_each() -> None:
    sequences = load_sequences(TRAINED / "synth_rope", 8)
    relevance = trained("synth_rope", dtype=torch.float64, conserve="site")(
        input_ids=sequences.ids, attention_mask=sequences.mask, target=lrp_fx.targets.Class(sequences.labels)
    )
    assert isinstance(relevance.depth, Tensor)
    expected = relevance.depth.clone()
    for site in relevance.position:
        assert site.layer is not None
        share = site.per_token()
        assert share is not None
        expected[: site.layer + 1] += share  # a block's rotations lie above the depths before it
    assert torch.allclose(relevance.per_token(depth="mean"), expected.mean(0))
    assert torch.allclose(relevance.per_token(None, depth="mean"), relevance.depth.mean(0))


class Residual(nn.Module):
    """Blocks of self-attention in a residual stream, written in a way of their own."""

    def __init__(self, style: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.style = style
        self.embed = nn.Embedding(20, 16)
        self.maps = nn.ModuleList(
            nn.ModuleDict(
                {n: nn.Linear(16, 16) for n in "qkvo"}
                | {"up": nn.Linear(16, 24), "down": nn.Linear(24, 16), "norm": nn.LayerNorm(16)}
            )
            for _ in range(3)
        )
        self.head = nn.Linear(16, 3)

    def attend(self, m: nn.ModuleDict, x: Tensor) -> Tensor:
        weights = torch.softmax(torch.einsum("bid,bjd->bij", m["q"](x), m["k"](x)) / 4, -1)
        return m["o"](torch.einsum("bij,bjd->bid", weights, m["v"](x)))

    def feed(self, m: nn.ModuleDict, x: Tensor) -> Tensor:
        return m["down"](torch.relu(m["up"](x)))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for m in self.maps:
            if self.style == "pre-norm":
                x = x + self.attend(m, m["norm"](x))
                x = self.feed(m, m["norm"](x)) + x
            elif self.style == "post-norm":
                x = m["norm"](x + self.attend(m, x))
                x = m["norm"](self.feed(m, x) + x)
            elif self.style == "parallel":
                h = m["norm"](x)
                x = x + self.attend(m, h) + self.feed(m, h)
            else:  # in place
                x = x.clone()
                x += self.attend(m, m["norm"](x))
                x += self.feed(m, m["norm"](x))
        return self.head(x[:, -1])


@cache
def residual(style: str) -> nn.Module:
    return Residual(style).double().eval()


@pytest.mark.parametrize("rules", ["pa-lrp", "attnlrp-gamma", "cp-lrp"])
@pytest.mark.parametrize("style", ["pre-norm", "post-norm", "parallel", "in place"])
def test_streams_in_any_spelling(style: str, rules: str) -> None:
    relevance = lrp_fx.convert(residual(style), rules=rules, conserve="site")(
        input_ids=torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]), target=0
    )
    assert isinstance(relevance.depth, Tensor)
    assert relevance.depth.shape == (4, 2, 5)
    assert all(float(d.error.max()) <= 1e-10 for d in relevance.ledger.depths)


def test_a_model_without_a_stream_says_so() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)).double().eval()
    relevance = lrp_fx.convert(model)(torch.randn(2, 4, dtype=torch.float64), target=0)
    with pytest.raises(InputError, match="no residual stream"):
        _ = relevance.depth
    assert relevance.ledger.depths == []


# ------------------------------------------------------------------------------------------------ images
def test_windows_hold_the_tokens_that_the_model_puts_there() -> None:
    """Shifted windows of 4 by 4 on 8 by 8 patches: the picture rolled by 2 and cut up."""
    relevance = converted("swin", "eager", torch.float64, conserve="site").relevance
    shifts = []
    for site in relevance.position[:2]:
        assert site.windows is not None and site.windows.count == 64
        for shift in (0, 2):
            picture = torch.arange(64).reshape(8, 8).roll((-shift, -shift), (0, 1))
            expected = picture.reshape(2, 4, 2, 4).permute(0, 2, 1, 3).reshape(4, 16)
            if torch.equal(torch.tensor(site.windows.tokens), expected):
                shifts.append(shift)
        share = site.per_token()
        assert share is not None and share.shape == (2, 64)
        assert torch.allclose(share.sum(1), site.total)
    assert shifts == [0, 2]


def test_position_on_patches_and_pixels() -> None:
    relevance = converted("vit", "eager", torch.float64, conserve="site").relevance
    (site,) = relevance.position
    share, content = site.per_token(), relevance.content["pixel_values"]
    assert share is not None
    patches = relevance.patches()
    assert patches.shape == (2, 4, 4)
    by_hand = content.sum(1).reshape(2, 4, 8, 4, 8).sum((2, 4)) + share[:, 1:].reshape(2, 4, 4)
    assert torch.allclose(patches, by_hand)
    pixels = relevance.heatmap(position="signed")
    assert pixels.shape == (2, 32, 32)
    assert torch.allclose(pixels.reshape(2, 4, 8, 4, 8).sum((2, 4)), patches)
    assert torch.allclose(relevance.heatmap(), content.sum(1))
    assert torch.allclose(relevance.patches(position=None), content.sum(1).reshape(2, 4, 8, 4, 8).sum((2, 4)))
    with pytest.raises(InputError, match="unknown aggregation"):
        relevance.patches(position="loudest")
