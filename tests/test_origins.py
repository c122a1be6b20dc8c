"""Relevance goes to the token that a row was looked up for, wherever the row stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
import transformers
from torch import Tensor, nn

import lrp_fx
from lrp_fx.errors import InputError

pytestmark = pytest.mark.usefixtures("quiet")
V, F, T = 20, 8, 6
IDS = torch.randint(1, V, (2, T), generator=torch.Generator().manual_seed(1))
Way = Callable[[nn.Embedding, Tensor], Tensor]


class Body(nn.Module):
    """Rows of tokens, as ``look`` looks them up, with rows of places."""

    def __init__(self, look: Way) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places, self.inner, self.head = (
            nn.Embedding(V, F),
            nn.Parameter(torch.randn(T + 2, F)),
            nn.Linear(F, F),
            nn.Linear(F, 3),
        )
        self.look = look

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.look(self.words, input_ids) + self.places[: input_ids.shape[1]]
        x = x + torch.relu(self.inner(x))
        weights = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)
        return self.head((x * weights[:, None]).mean(1))  # type: ignore[no-any-return]


def explained(look: Way, given: Tensor = IDS, **options: Any) -> lrp_fx.Relevance:
    return lrp_fx.convert(Body(look).double().eval(), conserve="site", **options)(input_ids=given, target=1)


def plain(words: nn.Embedding, ids: Tensor) -> Tensor:
    return words(ids)  # type: ignore[no-any-return]


ORDER = torch.tensor([3, 1, 0, 2, 5, 4])
TURNED: dict[str, Way] = {
    "from the end": lambda words, ids: words(ids.flip(1)).flip(1),
    "rolled": lambda words, ids: words(ids.roll(1, 1)).roll(-1, 1),
    "in another order": lambda words, ids: words(ids[:, ORDER])[:, ORDER.argsort()],
    "gathered": lambda words, ids: words(ids.gather(1, ORDER.expand_as(ids)))[:, ORDER.argsort()],
    "selected": lambda words, ids: words(ids.index_select(1, ORDER)).index_select(1, ORDER.argsort()),
    "tokens first": lambda words, ids: words(ids.t()).transpose(0, 1),
    "halves": lambda words, ids: words(torch.cat([ids[:, 3:], ids[:, :3]], 1))[:, torch.arange(T).roll(3)],
    "even and odd": lambda words, ids: torch.stack([words(ids[:, 0::2]), words(ids[:, 1::2])], 2).flatten(1, 2),
    "split": lambda words, ids: torch.cat([words(part) for part in ids.split(4, 1)], 1),
    "windows of one": lambda words, ids: words(ids.unfold(1, 1, 1)).squeeze(2),
    "the middle of three": lambda words, ids: words(nnf.pad(ids, (1, 1)).unfold(1, 3, 1))[:, :, 1],
    "unbound": lambda words, ids: torch.stack([words(token) for token in ids.unbind(1)], 1),
    "one by one": lambda words, ids: torch.stack([words(ids[:, i]) for i in range(T)], 1),
    "counted from one": lambda words, ids: words((ids + 1).flip(1) - 1).flip(1),
    "turned and one-hot": lambda words, ids: (nnf.one_hot(ids.flip(1), V).double() @ words.weight).flip(1),
    "turned by index_put": lambda words, ids: words(
        torch.zeros_like(ids).index_put((torch.arange(2)[:, None], ORDER), ids)
    )[:, ORDER],
}  # fmt: skip


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("name", TURNED)
def test_turned_before_and_back_after_is_not_turned(name: str, dynamic: bool) -> None:
    found, expected = explained(TURNED[name], dynamic=dynamic), explained(plain)
    assert found.content.keys() == expected.content.keys()
    assert torch.allclose(found.content["input_ids"], expected.content["input_ids"], rtol=1e-9, atol=1e-12)


def beside(words: nn.Embedding, ids: Tensor) -> Tensor:
    return torch.cat([words(torch.zeros_like(ids[:, :1])), words(ids)[:, :-1]], 1)


def written(words: nn.Embedding, ids: Tensor) -> Tensor:
    later = ids.new_zeros(ids.shape)
    later[:, 1:] = ids[:, :-1].clone()
    later.masked_fill_(later == -100, 1)
    return words(later)  # type: ignore[no-any-return]


KEPT: dict[str, tuple[Way, Way]] = {
    "a prefix of words": (
        lambda words, ids: words(torch.cat([torch.arange(2).expand(len(ids), 2), ids[:, :4]], 1)),
        lambda words, ids: torch.cat([words(torch.arange(2)).expand(len(ids), 2, F), words(ids)[:, :4]], 1),
    ),
    "counted by ones": (lambda words, ids: words(ids.gather(1, torch.ones_like(ids).cumsum(1) - 1)), plain),
    "parts of a counter": (lambda words, ids: words(ids[:, torch.cat(torch.arange(T).split(3))]), plain),
    "a sorted counter": (lambda words, ids: words(ids[:, torch.arange(T).flip(0).sort().values]), plain),
    "hidden by a mask": (lambda words, ids: words(torch.where(ids > 0, ids, 1)), plain),
    "features put ahead": (
        lambda words, ids: torch.cat([words.weight.new_zeros(*ids.shape, 2), words(ids.clone())[..., :6]], -1),
        lambda words, ids: nnf.pad(words(ids)[..., :6], (2, 0)),
    ),
    "the first one another": (
        lambda words, ids: words(torch.where(torch.arange(T) == 0, 2, ids)),
        lambda words, ids: torch.cat([words(torch.full_like(ids[:, :1], 2)), words(ids[:, 1:])], 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("name", KEPT)
def test_places_are_those_of_the_tokens(name: str, dynamic: bool) -> None:
    look, plainly = KEPT[name]
    found, expected = explained(look, dynamic=dynamic), explained(plainly)
    assert torch.allclose(found.content["input_ids"], expected.content["input_ids"], rtol=1e-9, atol=1e-12)
    assert torch.allclose(found.tokens, expected.tokens, rtol=1e-9, atol=1e-12)  # type: ignore[arg-type]


def test_places_of_a_text_that_is_rolled_by_counting_are_nobodys() -> None:
    rolled = explained(
        lambda words, ids: words(ids.gather(1, ((torch.arange(T) + torch.ones(T).long()) % T).expand_as(ids)))
    )
    assert {site.owner() for site in rolled.position} == {None}


SHIFTED: dict[str, Way] = {
    "put together": lambda words, ids: words(torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], 1)),
    "padded": lambda words, ids: words(nnf.pad(ids, (1, 0))[:, :-1]),
    "written": written,
    "chosen": lambda words, ids: words(torch.where(torch.arange(ids.shape[1]) == 0, 0, ids.roll(1, 1))),
    "scattered": lambda words, ids: words(ids.roll(1, 1).scatter(1, torch.zeros_like(ids[:, :1]), 0)),
}


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("name", SHIFTED)
def test_a_text_that_is_read_one_place_later(name: str, dynamic: bool) -> None:
    """What starts it is no token of the text: a learned row."""
    found, expected = explained(SHIFTED[name], dynamic=dynamic), explained(beside)
    assert torch.allclose(found.content["input_ids"], expected.content["input_ids"], rtol=1e-9, atol=1e-12)
    for kind in ("content", "learned", "position"):
        assert torch.allclose(found.ledger.leaves[kind], expected.ledger.leaves[kind], rtol=1e-9, atol=1e-12)
    assert isinstance(found.tokens, Tensor) and isinstance(expected.tokens, Tensor)
    assert torch.allclose(found.tokens, expected.tokens, rtol=1e-9, atol=1e-12)
    rows = sum(site.per_token() for site in found.position)  # type: ignore[misc]
    assert torch.allclose(
        found.tokens[:, :-1], (found.content["input_ids"][:, :-1] + rows[:, 1:]), rtol=1e-9, atol=1e-12
    )


def test_other_sizes_and_files(tmp_path: Path) -> None:
    explainer = lrp_fx.convert(Body(SHIFTED["padded"]).double().eval(), dynamic=True)
    explainer(input_ids=IDS, target=1)
    shorter = IDS[:, :4]
    found = explainer(input_ids=shorter, target=1)
    assert explainer.statistics.captures == 1
    assert torch.allclose(found.content["input_ids"], explained(beside, shorter).content["input_ids"], rtol=1e-9)
    explainer.save(tmp_path / "shifted.lrp")
    again = lrp_fx.load(tmp_path / "shifted.lrp")(input_ids=shorter, target=1)
    assert torch.equal(again.content["input_ids"], found.content["input_ids"])


def test_rows_whose_order_is_not_known_stay_apart() -> None:
    def look(words: nn.Embedding, ids: Tensor) -> Tensor:
        return words(ids.sort(1).values)  # type: ignore[no-any-return]

    found = explained(look)
    assert list(found.content) == ["input_ids:embedding"]
    with pytest.raises(InputError, match="of which tokens the rows of input_ids:embedding are is not known"):
        found.tokens  # noqa: B018


# ------------------------------------------------------------------------------------------------ encoder and decoder
def bart() -> nn.Module:
    torch.manual_seed(0)
    settings = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    settings |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    settings |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32)
    config = transformers.BartConfig(
        vocab_size=60, d_model=16, max_position_embeddings=32, num_labels=3, init_std=0.5, **settings
    )
    return transformers.BartForSequenceClassification(config).double().eval()


def t5() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_decoder_layers=1, num_heads=2, num_labels=3,
        decoder_start_token_id=2, pad_token_id=1, eos_token_id=30,
    )  # fmt: skip
    return transformers.T5ForSequenceClassification(config).double().eval()


NUMBERS = torch.randint(0, 256, (V, F // 2), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
OTHERS = torch.randperm(V, generator=torch.Generator().manual_seed(3))


def unpacked(codes: Tensor) -> Tensor:
    return torch.stack([codes & 15, codes >> 4], -1).flatten(-2).double() / 8


WHOLE: dict[str, tuple[Way, Way]] = {
    "of codes": (lambda words, ids: unpacked(NUMBERS[ids]), lambda words, ids: nnf.embedding(ids, unpacked(NUMBERS))),
    "of codes, cast": (
        lambda words, ids: nnf.embedding(ids, NUMBERS).double().repeat(1, 1, 2),
        lambda words, ids: nnf.embedding(ids, NUMBERS.double().repeat(1, 2)),
    ),
    "of other words": (
        lambda words, ids: words(OTHERS[ids]),
        lambda words, ids: nnf.embedding(ids, words.weight[OTHERS]),
    ),
    "of other words, turned": (
        lambda words, ids: words(OTHERS[ids].flip(1)).flip(1),
        lambda words, ids: nnf.embedding(ids, words.weight[OTHERS]),
    ),
}


@pytest.mark.parametrize("how", WHOLE)
def test_rows_of_tables_of_whole_numbers_are_those_of_their_tokens(how: str) -> None:
    found, expected = (explained(look) for look in WHOLE[how])
    assert torch.allclose(found.content["input_ids"], expected.content["input_ids"], rtol=1e-9, atol=1e-12)
    assert torch.allclose(found.tokens, expected.tokens, rtol=1e-9, atol=1e-12)  # type: ignore[arg-type]


TEXT = torch.cat(
    [torch.zeros(2, 1, dtype=torch.int64), IDS + 5, torch.full((2, 1), 2)], 1
)  # begins with <s>, ends with </s>


@pytest.mark.parametrize(("make", "last"), [(bart, 2), (t5, 30)], ids=["places", "distances"])
def test_a_decoder_that_reads_the_text_of_its_encoder(make: Callable[[], nn.Module], last: int) -> None:
    """These classifiers make the decoder's text of the encoder's: the same as giving both, token by token."""
    explainer = lrp_fx.convert(make())
    text = torch.cat([TEXT[:, :-1], torch.full((2, 1), last)], 1)
    later = torch.cat([torch.full((2, 1), 2), text[:, :-1]], 1)
    both = explainer(input_ids=text, decoder_input_ids=later, target=1)
    alone = explainer(input_ids=text, target=1)
    for found, expected in ((alone.content, both.content), ({"input_ids": alone.tokens}, both.tokens)):
        assert isinstance(expected, dict)
        together = expected["input_ids"].clone()
        together[:, :-1] += expected["decoder_input_ids"][:, 1:]
        assert torch.allclose(found["input_ids"], together, rtol=1e-9, atol=1e-12)  # type: ignore[arg-type]
    start = both.content["decoder_input_ids"][:, 0]
    assert torch.allclose(alone.ledger.leaves["learned"], start, rtol=1e-9)


@pytest.mark.parametrize("dynamic", [True, "auto"])
def test_two_texts_that_are_equally_long(dynamic: bool | str) -> None:
    """Places of the decoder are its own tokens', not the encoder's."""
    explainer = lrp_fx.convert(bart(), dynamic=dynamic)
    relevance = explainer(input_ids=TEXT[:1], decoder_input_ids=TEXT[:1].flip(1), target=torch.tensor([1]))
    assert [site.owner() for site in relevance.position] == ["input_ids", "decoder_input_ids"]
