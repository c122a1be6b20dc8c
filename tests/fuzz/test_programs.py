"""Random programs keep the laws. ``python -m benchmarks fuzz --programs 5000`` asks more of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testing.fuzz.campaign import ALWAYS, faults, laws_of, operations_of
from testing.fuzz.draw import at, drawn, shrunk, sound, without_idle
from testing.fuzz.known import LEFT_OUT
from testing.fuzz.laws import LAWS
from testing.fuzz.operations import FAMILIES, OPERATIONS
from testing.fuzz.program import Program, Step

#: Of the seeds that are tried here; blocks of them can run at the same time. All laws are asked of those below `QUICK`,
#: the law that always holds of those below `SHORT`; what is beyond runs with the slow tests.
PROGRAMS, BLOCK, QUICK, SHORT = 150, 5, 20, 100


def _seeds(first: int, quick: int) -> list[object]:
    """Where blocks begin; those from ``quick`` on are slow."""
    return [pytest.param(n, marks=[pytest.mark.slow] if n >= quick else []) for n in range(first, PROGRAMS, BLOCK)]


@pytest.mark.parametrize("first", _seeds(0, QUICK))
def test_programs_keep_the_laws(first: int) -> None:
    broken = [fault for found in faults(range(first, first + BLOCK)) for fault in found]
    assert not broken, "\n\n".join(map(str, broken))


@pytest.mark.parametrize("first", _seeds(QUICK, SHORT))
def test_programs_have_the_gradient_of_autograd(first: int) -> None:
    broken = [fault for found in faults(range(first, first + BLOCK), ALWAYS) for fault in found]
    assert not broken, "\n\n".join(map(str, broken))


def test_all_laws_are_asked_and_most_operations_tried() -> None:
    assert {law for seed in range(PROGRAMS) for law in laws_of(seed)} >= {*LAWS} - {"compiled"}
    assert LEFT_OUT.keys() <= OPERATIONS.keys() and not LEFT_OUT.keys() & operations_of(range(PROGRAMS)).keys()
    assert len(OPERATIONS) >= 300 and len(operations_of(range(PROGRAMS))) > 0.8 * len(OPERATIONS)


@given(data=st.data())
@settings(max_examples=30)
def test_a_program_prints_as_python_that_computes_the_same(data: st.DataObject) -> None:
    program = drawn(lambda things: data.draw(st.sampled_from(list(things))))
    assert 1 <= len(program.steps) <= 12
    model, inputs = program.model(), program.example()
    scope: dict[str, object] = {}
    exec(str(program), scope)
    written = scope["Net"]()(**inputs)  # type: ignore[operator]
    expected = model(**inputs)
    for a, b in zip(_flat(written), _flat(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def _flat(output: object) -> list:
    return list(output.values()) if isinstance(output, dict) else [output]


@pytest.mark.parametrize("family", FAMILIES)
def test_spellings_compute_the_same(family: str) -> None:
    for operation in FAMILIES[family]:
        inputs = ("input_ids", *["other_ids"] * (operation.values - 1), *["attention_mask"] * operation.masked)
        reads = tuple(range(operation.values))
        values = [Program((Step(n, reads),), inputs).model() for n in operation.spellings or (operation.name,)]
        first, *others = [m.values(m.begin(i := m.program.example()), i.get("attention_mask"))[-2] for m in values]
        assert first.shape == (3, 5, 8) and all(first.allclose(other, rtol=1e-9, atol=1e-9) for other in others)


def test_a_broken_program_shrinks_to_what_breaks_it() -> None:
    program = next(
        p for p in map(at, range(1000)) if any(s.operation == "softmax" for s in p.steps) and len(p.steps) > 5
    )
    small = shrunk(program, lambda p: any(s.operation == "softmax" for s in p.steps))
    assert [s.operation for s in small.steps] == ["softmax"] and small.inputs == ("input_ids",)


def test_the_same_seed_draws_the_same_sound_program() -> None:
    assert at(3) == at(3) != at(4)
    assert all(sound(at(seed)) and without_idle(at(seed)) == at(seed) for seed in range(3))
