"""The default target explains the last token that a mask keeps, however the model writes what its mask means."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.analysis.mask_sense import sense_of
from lrp_fx.targets import Predicted
from testing.handmade import F, T, V, ids, ready

pytestmark = pytest.mark.usefixtures("quiet")
H = 2
LOW = float("-inf")


def causal(t: int, dtype: torch.dtype = torch.bool) -> Tensor:
    return torch.ones(t, t, dtype=dtype).triu(1)


#: Masks of (batch, heads, queries, keys) that hide where they are true, made of one (B, T) that does.
MOVES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "unsqueeze": lambda m, t: m[:, None, None, :],
    "expand": lambda m, t: m[:, None, None, :].expand(-1, H, t, -1),
    "repeat": lambda m, t: m[:, None, None, :].repeat(1, H, t, 1),
    "repeat_interleave": lambda m, t: m[:, None, None, :].repeat_interleave(H, 1),
    "tile": lambda m, t: torch.tile(m[:, None, None, :], (1, H, t, 1)),
    "stack": lambda m, t: torch.stack([m] * H, 1)[:, :, None, :],
    "cat": lambda m, t: torch.cat([m[:, None]] * H, 1)[:, :, None, :],
    "logical_or": lambda m, t: torch.logical_or(m[:, None, None, :], causal(t)),
    "or": lambda m, t: m[:, None, None, :] | causal(t),
    "sum": lambda m, t: (m[:, None, None, :].int() + causal(t, torch.int32)) != 0,
    "maximum": lambda m, t: torch.maximum(m[:, None, None, :].float(), causal(t, torch.float32)) > 0.5,
    "transposed twice": lambda m, t: m.t().t()[:, None, None, :],
    "negated twice": lambda m, t: ~(~m)[:, None, None, :],
    "equals true": lambda m, t: (m == True)[:, None, None, :],  # noqa: E712
    "one minus": lambda m, t: ((1 - m.int()) == 0)[:, None, None, :],
    "by de Morgan": lambda m, t: ~(~m[:, None, None, :] & ~causal(t)),
    "outer product": lambda m, t: ~((~m)[:, None, :, None] & (~m)[:, None, None, :]) & ~torch.eye(t, dtype=torch.bool),
}


class Attention(nn.Module):
    def __init__(self, hide: Callable[[Tensor, Tensor, int], Tensor]) -> None:
        super().__init__()
        self.hide = hide
        self.words, self.places = nn.Embedding(V, F), nn.Embedding(64, F)
        self.maps, self.head = nn.ModuleList(nn.Linear(F, F) for _ in range(3)), nn.Linear(F, V)

    def forward(self, input_ids: Tensor, padding_mask: Tensor) -> Tensor:
        b, t = input_ids.shape
        x = self.words(input_ids) + self.places(torch.arange(t))
        q, k, v = (m(x).reshape(b, t, H, F // H).transpose(1, 2) for m in self.maps)
        scores = self.hide(q @ k.mT / math.sqrt(F // H), padding_mask, t)
        return self.head(x + (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, F))  # type: ignore[no-any-return]


def padding(rows: int = 2, *, hides: bool = True) -> Tensor:
    mask = torch.zeros(rows, T, dtype=torch.bool)
    mask[0, -2:] = True
    return mask if hides else ~mask


def check(model: nn.Module, mask: Tensor, last: list[int], **options: object) -> None:
    given = ids(mask.shape[0])
    output = model(given, mask)
    expected = output[torch.arange(len(last)), last].amax(-1)
    found = lrp_fx.convert(model, **options)(given, mask)  # type: ignore[arg-type]
    assert torch.allclose(found.score, expected)


@pytest.mark.parametrize("name", MOVES)
def test_a_mask_that_hides(name: str) -> None:
    model = ready(Attention(lambda s, m, t: s.masked_fill(MOVES[name](m, t), LOW)))
    check(model, padding(), [3, 5])


@pytest.mark.parametrize("name", ["or", "sum", "outer product"])
@pytest.mark.parametrize("rows", [1, 2])
def test_nothing_is_padded(name: str, rows: int) -> None:
    """Masks that say nothing are dropped from the graph, not from the target."""
    model = ready(Attention(lambda s, m, t: s.masked_fill(MOVES[name](m, t), LOW)))
    check(model, torch.zeros(rows, T, dtype=torch.bool), [5] * rows)


#: What hides where the mask is false, and where it is true.
USES: dict[str, tuple[bool, Callable[[Tensor, Tensor, int], Tensor]]] = {
    "where": (False, lambda s, m, t: torch.where(m[:, None, None, :] & ~causal(t), s, LOW)),
    "where, the other way": (True, lambda s, m, t: torch.where(m[:, None, None, :] | causal(t), LOW, s)),
    "where, a full tensor": (False, lambda s, m, t: torch.where(m[:, None, None, :], s, torch.full_like(s, -1e9))),
    "added": (False, lambda s, m, t: s + (1.0 - m[:, None, None, :].to(s.dtype)) * torch.finfo(s.dtype).min),
    "subtracted": (True, lambda s, m, t: s - m[:, None, None, :].to(s.dtype) * 1e9),
    "minimum": (False, lambda s, m, t: torch.minimum(s, torch.where(m[:, None, None, :], 1e9, -1e9).to(s.dtype))),
    "logarithm": (False, lambda s, m, t: s + m[:, None, None, :].to(s.dtype).log()),
}


@pytest.mark.parametrize("name", USES)
def test_what_is_done_with_a_mask(name: str) -> None:
    hides, use = USES[name]
    check(ready(Attention(use)), padding(hides=hides), [3, 5])


class ByIds(Attention):
    """A mask joined with what ids say of themselves."""

    def forward(self, input_ids: Tensor, padding_mask: Tensor) -> Tensor:
        return super().forward(input_ids, padding_mask | (input_ids == 0))


def test_ids_have_a_say() -> None:
    check(ready(ByIds(lambda s, m, t: s.masked_fill(m[:, None, None, :], LOW))), padding(), [3, 5])


class Multiplied(nn.Module):
    """No attention: hidden tokens are zero."""

    def __init__(self, *, hides: bool) -> None:
        super().__init__()
        self.hides, self.words, self.head = hides, nn.Embedding(V, F), nn.Linear(F, V)

    def forward(self, input_ids: Tensor, padding_mask: Tensor) -> Tensor:
        x = self.words(input_ids)
        kept = (~padding_mask if self.hides else padding_mask).to(x.dtype)[:, :, None]
        return self.head(x + ((x * kept).cumsum(1) / kept.cumsum(1).clamp_min(1)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("hides", [True, False])
def test_a_product_hides(hides: bool) -> None:
    check(ready(Multiplied(hides=hides)), padding(hides=hides), [3, 5])


class Replaced(Attention):
    """Hidden tokens are a learned one."""

    def forward(self, input_ids: Tensor, padding_mask: Tensor) -> Tensor:
        x = torch.where(padding_mask[..., None], self.words(input_ids), self.maps[0].bias)  # type: ignore[arg-type]
        return self.head(x + (x @ x.mT).softmax(-1) @ x)  # type: ignore[no-any-return]


def test_what_stands_in_the_place_of_hidden_tokens() -> None:
    check(ready(Replaced(lambda s, m, t: s)), padding(hides=False), [3, 5])


class FixedLength(Attention):
    """Its length is that of a table: tracing finds the mask's size to be a number."""

    def __init__(self) -> None:
        super().__init__(lambda s, m, t: s.masked_fill(m[:, None, None, :] == 0, LOW))
        self.table = nn.Parameter(torch.randn(T, F))

    def forward(self, input_ids: Tensor, padding_mask: Tensor) -> Tensor:
        x = self.words(input_ids) + self.table
        scores = (x @ x.mT).masked_fill(padding_mask[:, None, :] == 0, LOW)
        return self.head(x + scores.softmax(-1) @ x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_model_of_fixed_length_has_its_mask(dynamic: bool) -> None:
    check(ready(FixedLength()), padding(hides=False).long(), [3, 5], dynamic=dynamic)


class Ignoring(Multiplied):
    def forward(self, input_ids: Tensor, padding_mask: Tensor) -> Tensor:
        return self.head(self.words(input_ids))  # type: ignore[no-any-return]


def test_a_mask_that_nobody_reads() -> None:
    """Whole numbers keep by convention; of truth values there is none, so all tokens count."""
    check(ready(Ignoring(hides=True)), padding(hides=False).long(), [3, 5])
    check(ready(Ignoring(hides=True)), padding(hides=False), [5, 5])
    explain = lrp_fx.convert(ready(Ignoring(hides=True)))
    explain(ids(), padding())
    assert sense_of(explain.rewritten.program, "padding_mask") is None


class Frames(nn.Module):
    """Half as many rows as samples."""

    def __init__(self) -> None:
        super().__init__()
        self.wave, self.head = nn.Conv1d(1, F, 2, stride=2), nn.Linear(F, 4)

    def forward(self, samples: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.wave((samples * attention_mask)[:, None]).mT)  # type: ignore[no-any-return]


def test_which_row_is_the_last_has_to_be_said() -> None:
    model, mask = ready(Frames()), torch.ones(2, 12, dtype=torch.long)
    samples = torch.randn(2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    explain = lrp_fx.convert(model, roles={"samples": "content"})
    whole = explain(samples=samples, attention_mask=mask)
    assert torch.allclose(whole.score, whole.output[:, -1].amax(-1)), "nothing is hidden"
    mask[0, 6:] = 0
    with pytest.raises(lrp_fx.TargetError, match=r"hides some of 12 places, and the output has 6 rows"):
        explain(samples=samples, attention_mask=mask)
    told = explain(samples=samples, attention_mask=mask, target=Predicted(position=[2, 5]))
    assert torch.allclose(told.score, told.output[torch.arange(2), [2, 5]].amax(-1))


# ------------------------------------------------------------------------------------------------ found by running
#: What a mask does to scores, in ways of which no list has all: 1 hides.
HIDDEN_SOMEHOW: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "scaled sum": lambda s, m: torch.add(s, m, alpha=-1e30),
    "turned about": lambda s, m: -(1e9 * m - s),
    "in between": lambda s, m: torch.lerp(s, torch.full_like(s, -1e30), m.expand_as(s)),
    "product and sum": lambda s, m: torch.addcmul(s, m, torch.full_like(s, -1e30)),
    "bounded": lambda s, m: s.clamp(max=torch.where(m != 0, -1e30, 1e30)),
    "lesser": lambda s, m: torch.fmin(s, torch.where(m != 0, -1e30, 1e30)),
    "not so low": lambda s, m: s - 100 * m,
}


@pytest.mark.parametrize("name", HIDDEN_SOMEHOW)
@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.float64])
def test_what_is_hidden_reaches_no_other_token(name: str, dtype: torch.dtype) -> None:
    model = ready(Attention(lambda s, m, t: HIDDEN_SOMEHOW[name](s, m[:, None, None, :].to(s.dtype))))
    check(model, padding().to(dtype), [3, 5])


def test_masks_of_queries_and_keys() -> None:
    """(B, 1, queries, keys): true where a key is seen, or a very low number where it is not."""
    shown = padding(hides=False)[:, None, None, :] & ~causal(T)
    check(ready(Attention(lambda s, m, t: s.masked_fill(~m, LOW))), shown, [3, 5])
    added = torch.zeros(shown.shape, dtype=torch.float64).masked_fill(~shown, -1e300)
    check(ready(Attention(lambda s, m, t: s + m)), added, [3, 5])
    check(ready(Attention(lambda s, m, t: s.masked_fill(~m[:, None], LOW))), shown[:, 0], [3, 5])


def test_masks_of_numbers_with_a_point() -> None:
    check(ready(Attention(lambda s, m, t: s - 1e9 * (1 - m[:, None, None, :]))), padding(hides=False).double(), [3, 5])
    check(ready(Attention(lambda s, m, t: s + m[:, None, None, :])), padding().double() * -1e9, [3, 5])


class Prefixed(Attention):
    """Tokens of a prefix see each other; the others see what is before them. A padding mask may come behind."""

    def __init__(self) -> None:
        super().__init__(lambda s, m, t: s.masked_fill(causal(t) & (m == 0)[:, None, None, :], LOW))

    def forward(self, input_ids: Tensor, prefix_mask: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.words(input_ids)
        scores = self.hide((x @ x.mT)[:, None], prefix_mask, x.shape[1])[:, 0]
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask[:, None, :] == 0, LOW)
        return self.head(x + scores.softmax(-1) @ x)  # type: ignore[no-any-return]


def test_a_mask_that_hides_no_token_from_all_others_is_no_padding() -> None:
    prefix = torch.zeros(2, T, dtype=torch.long)
    prefix[:, :2] = 1
    check(ready(Prefixed()), prefix, [5, 5])
    kept = padding(hides=False).long()
    found = lrp_fx.convert(ready(Prefixed()))(ids(), prefix, kept)
    assert [one.position for one in found.target] == [3, 5]


def test_truth_values_named_for_places_are_none() -> None:
    class Masked(Attention):
        def forward(self, input_ids: Tensor, bool_masked_pos: Tensor, attention_mask: Tensor) -> Tensor:  # type: ignore[override]
            x = torch.where(bool_masked_pos[..., None], self.head.weight[0], self.words(input_ids))
            scores = (x @ x.mT).masked_fill(attention_mask[:, None, :] == 0, LOW)
            return self.head(x + scores.softmax(-1) @ x)  # type: ignore[no-any-return]

    masked = torch.zeros(2, T, dtype=torch.bool)
    masked[:, 1] = True
    found = lrp_fx.convert(ready(Masked(lambda s, m, t: s)))(ids(), masked, padding(hides=False).long())
    assert [one.position for one in found.target] == [3, 5]


def test_rows_counted_back_onto_hidden_tokens_are_said() -> None:
    model = ready(Attention(lambda s, m, t: s.masked_fill(m[:, None, None, :] == 0, LOW)))
    holes = torch.tensor([[1, 1, 1, 0, 0, 1], [1] * T])
    with pytest.warns(UserWarning, match=r"row 4 of the output is padding in example 0"):
        lrp_fx.convert(model)(ids(), holes, target=Predicted(position=-2))


def test_explainers_of_one_model_have_their_own_roles() -> None:
    class Named(Attention):
        def forward(self, input_ids: Tensor, valid: Tensor) -> Tensor:
            return super().forward(input_ids, valid)

    model = ready(Named(lambda s, m, t: s.masked_fill(m[:, None, None, :] == 0, LOW)))
    given = (ids(), padding(hides=False).long())
    for roles, last in ((None, [5, 5]), ({"valid": "mask"}, [3, 5]), (None, [5, 5])):
        assert [one.position for one in lrp_fx.convert(model, roles=roles)(*given).target] == last
