"""Values inside the model replaced, and the model run on: `Explainer.patched`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrp_fx
from lrp_fx.errors import InputError
from testing.converted import TRAINED, trained
from testing.scoring import load_sequences

LLAMA = "task_induction"


def inputs(name: str, count: int = 3) -> dict[str, Tensor]:
    sequences = load_sequences(TRAINED / name, count)
    return {"input_ids": sequences.ids, "attention_mask": sequences.mask}


@lru_cache
def everything() -> lrp_fx.Relevance:
    return trained(LLAMA)(
        **inputs(LLAMA), at=["residual", "mlp", "attention", "heads", "neurons", "model.layers.*.mlp"]
    )


def test_a_head_set_to_zero_is_a_slice_set_to_zero_before_the_output_map() -> None:
    explainer, given = trained(LLAMA), inputs(LLAMA)
    model: Any = explainer.model
    attended = model.model.layers[1].self_attn
    width = attended.head_dim

    def without(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        merged = args[0].clone()
        merged[..., 2 * width : 3 * width] = 0
        return (merged,)

    def zero(heads: Tensor) -> Tensor:
        assert heads.shape[:2] == (3, 4), "examples first, then heads"
        heads[:, 2] = 0
        return heads

    with torch.no_grad(), attended.o_proj.register_forward_pre_hook(without):
        expected = model(**given).logits
    found = explainer.patched(**given, values={"heads.1": zero}).logits
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        assert not torch.allclose(found, model(**given).logits), "a head that does nothing would prove nothing"


def test_the_own_value_changes_no_bit() -> None:
    explainer, given = trained(LLAMA), inputs(LLAMA)
    values: list[Any] = [{name: a.value} for name, a in everything().at.items()]
    values += [{kind: lambda value: value} for kind in ("heads", "residual")]
    with torch.no_grad():
        expected = explainer.model(**given).logits
    for changed, output in zip(values, explainer.patched(**given, values=values), strict=True):
        assert torch.equal(output.logits, expected), list(changed)


def test_several_places_are_patched_together_in_the_order_of_the_graph() -> None:
    explainer, given = trained(LLAMA), inputs(LLAMA)
    plain = everything()
    seen: dict[str, Tensor] = {}

    def look(value: Tensor) -> Tensor:
        seen["after"] = value
        return value

    both = {"residual.1": 2 * plain.at["residual.1"].value, "mlp.1": look}
    explainer.patched(**given, values=both)
    assert not torch.equal(seen["after"], plain.at["mlp.1"].value), "computed from what was patched before it"
    apart = explainer.patched(**given, values=[{"mlp.1": 0}, {"mlp.0": 0.0}])
    assert torch.equal(apart[0].logits, explainer.patched(**given, values={"mlp.1": torch.zeros(())}).logits)
    assert not torch.equal(apart[0].logits, apart[1].logits), "each patch alone"
    untouched = explainer.patched(**given, values={"mlp.1": lambda value: value})
    assert torch.equal(untouched.logits, plain.output.logits), "nothing of it stays"


def test_rows_of_one_input_may_get_a_value_each() -> None:
    explainer, given = trained(LLAMA), inputs(LLAMA, 1)
    rows = {name: value.expand(4, -1) for name, value in given.items()}

    def one_each(heads: Tensor) -> Tensor:
        heads[range(4), range(4)] = 0
        return heads

    together = explainer.patched(**rows, values={"heads.0": one_each}).logits
    for head in range(4):
        keep = torch.ones(1, 4, 1, 1)
        keep[0, head] = 0
        alone = explainer.patched(**given, values={"heads.0": lambda heads, keep=keep: heads * keep}).logits
        torch.testing.assert_close(together[head : head + 1], alone)


class Merged(nn.Module):
    """Heads lie in front of examples, in one axis with them; tokens come first at the end."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.maps = nn.Embedding(9, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor, without: int = -1) -> Tensor:
        x = self.table(ids)
        B, T, _ = x.shape
        q, k, v = (m(x).view(B, T, 2, 4).permute(2, 0, 1, 3).reshape(2 * B, T, 4) for m in self.maps[:3])
        mixed = torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)), -1), v).view(2, B, T, 4)
        if without >= 0:
            mixed = torch.cat([mixed[:without], torch.zeros_like(mixed[:1]), mixed[without + 1 :]])
        x = x + self.maps[3](mixed.permute(1, 2, 0, 3).reshape(B, T, 8))
        return self.head(x.transpose(0, 1).mean(0))  # type: ignore[no-any-return]


def test_examples_that_share_an_axis_with_heads_are_laid_out_and_put_back() -> None:
    model, ids = Merged().eval(), torch.arange(10).remainder(9).view(2, 5)
    explainer = lrp_fx.convert(model, ids)
    (place,) = [p for p in explainer.places if p.kind == "heads"]
    value = explainer(ids, at=place.name).at[place.name].value
    with torch.no_grad():
        assert torch.equal(explainer.patched(ids, values={place.name: value}), model(ids))
        for head in (0, 1):

            def zero(mixed: Tensor, head: int = head) -> Tensor:
                mixed.select(place.axes.index("heads"), head).zero_()
                return mixed

            torch.testing.assert_close(explainer.patched(ids, values={place.name: zero}), model(ids, head))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"heads.7": 0.0}, "no place 'heads.7'.*\n    next: "),
        ({"heads.0": torch.zeros(5, 7)}, r"heads.0 .* is \(3, 4, 18, 12\) \(batch 3, heads 4.*\n    next: "),
        ({"heads.0": lambda heads: None}, "the function returned NoneType\n    next: "),
        ({"heads.0": "zero"}, "str is no value\n    next: "),
        ({"mlp": 0.0, "mlp.1": 0.0}, "'mlp.1' and 'mlp.1' are one value"),
        ({}, "place -> new value"),
        ([0.0], "place -> new value"),
    ],
)
def test_what_cannot_be_patched_is_said(values: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"(?s){said}"):
        trained(LLAMA).patched(**inputs(LLAMA), values=values)
