"""Implementation invariance: the same function, however it is spelled, gives the same relevance.

Each file under ``testing/spellings/`` lists ways to write one function. Every one is put into the same small model with
the same weights; content and position relevance must equal the first spelling's, and nothing may be left unexplained.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

import lrp_fx
from testing.spellings import FAMILIES
from testing.spellings.common import Tokens, build, input_ids

FEWEST = 8
TOLERANCE = 1e-9

#: Presets beside the default, where they treat the family differently.
OTHER_RULES = {
    "rotary": ("attnlrp",),
    "silu_gate": ("cp-lrp",),
    "modulation": ("cp-lrp", "pa-lrp-path"),
    "highway": ("pa-lrp-path",),
    "attention": ("cp-lrp", "pa-lrp-path"),
    "softmax": ("pa-lrp-path",),
    "masked_softmax": ("pa-lrp-path",),
    "sink_softmax": ("pa-lrp-path",),
    "moe": ("pa-lrp-path",),
}


def spellings() -> Iterator[tuple[str, str]]:
    for family in FAMILIES:
        yield from ((family, s.__name__) for s in FAMILIES[family].SPELLINGS)


def cases() -> Iterator[Any]:
    for family, name in spellings():
        slow = name in getattr(FAMILIES[family], "SLOW", ())
        for rules in ("pa-lrp", *OTHER_RULES.get(family, ())):
            marks = [pytest.mark.slow] if slow or (rules != "pa-lrp" and family in ("attention", "moe")) else []
            yield pytest.param(family, name, rules, id=f"{family}-{name}-{rules}", marks=marks)


@cache
def model(family: str, name: str) -> Tokens:
    module = FAMILIES[family]
    return build(module.host, getattr(module, name))


@cache
def explained(family: str, name: str, rules: str) -> tuple[lrp_fx.Explainer, lrp_fx.Relevance]:
    explainer = lrp_fx.convert(model(family, name), rules=rules, conserve="site")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cancellation in random models
        return explainer, explainer(input_ids=input_ids(), target=0)


def first(family: str) -> str:
    name: str = FAMILIES[family].SPELLINGS[0].__name__
    return name


@pytest.mark.parametrize("family", FAMILIES)
def test_there_are_enough_spellings(family: str) -> None:
    names = [s.__name__ for s in FAMILIES[family].SPELLINGS]
    assert len(set(names)) == len(names) >= FEWEST


@pytest.mark.parametrize(("family", "name"), list(spellings()))
def test_spellings_are_one_function(family: str, name: str) -> None:
    with torch.no_grad():
        expected, got = model(family, first(family))(input_ids()), model(family, name)(input_ids())
    assert torch.allclose(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("family", "name", "rules"), list(cases()))
def test_spelling(family: str, name: str, rules: str) -> None:
    _, expected = explained(family, first(family), rules)
    explainer, got = explained(family, name, rules)
    assert explainer.coverage["unexplained"] == {}, explainer.coverage["unexplained"]
    for part, theirs, ours in (
        ("content", expected.content, got.content),
        ("position", {"": _position(expected)}, {"": _position(got)}),
    ):
        assert set(ours) == set(theirs)
        for key, R in theirs.items():
            scale = float(R.abs().max().clamp_min(1e-300))
            assert float((ours[key] - R).abs().max()) <= TOLERANCE * scale, (
                f"{part}: {ours[key].tolist()} for {R.tolist()}\n{explainer.rewritten.print_readable()}"
            )


def _position(result: lrp_fx.Relevance) -> torch.Tensor:
    """(B, T): position relevance of all sites, per token, signed."""
    tokens = result.per_token("signed", content=False)
    assert isinstance(tokens, torch.Tensor)
    return tokens
