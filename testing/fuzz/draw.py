"""Programs by chance, and smaller ones that are broken in the same way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from testing.fuzz.known import LEFT_OUT
from testing.fuzz.operations import FAMILIES
from testing.fuzz.program import HEADS, MASK, VALUES, Program, Step

#: Values and relevance beyond these say more about rounding than about rules.
LARGEST = 1e3


class Choose(Protocol):
    """One of some things: by `random.Random.choice`, or by what hypothesis draws."""

    def __call__(self, things: Sequence[Any], /) -> Any: ...


def drawn(choose: Choose, seed: int = 0, *, whole: bool = False) -> Program:
    """A program of 3 to 12 steps; its families alike often, each step on the value before it (and any other).

    whole: also of the operations that have known faults.
    """
    inputs = choose([("input_ids",)] * 3 + [("input_ids", other) for other in VALUES[1:]] + [VALUES])
    mask = choose([(), (), (MASK,)])
    steps: list[Step] = []
    waiting = list(range(len(inputs)))
    for _ in range(choose(range(3, 13))):
        family = FAMILIES[choose([f for f in FAMILIES if mask or f != "masks"])]
        operation = choose([o for o in family if whole or o.name not in LEFT_OUT])
        last = len(inputs) + len(steps) - 1 if steps else 0
        others = [i for i in waiting if i != last] or list(range(len(inputs) + len(steps)))
        reads = (last, *(choose(others) for _ in range(operation.values - 1)))
        waiting = [i for i in waiting if i not in reads]
        steps.append(Step(operation.name, reads))
    if MASK in mask and not any(step.what.masked for step in steps):
        mask = ()
    head = choose([h for h in HEADS if not mask or h != "tokens"])
    return without_idle(Program(tuple(steps), (*inputs, *mask), head, choose([False, False, True]), seed))


def at(seed: int, *, whole: bool = False) -> Program:
    """The program of a seed: the first that the model itself can compute and differentiate well."""
    choose = random.Random(seed).choice
    while True:
        program = drawn(choose, seed, whole=whole)
        if sound(program):
            return program


def sound(program: Program) -> bool:
    """Whether the model runs, its numbers and their gradients are finite and of common size, and something depends on
    its inputs.
    """
    model, inputs = program.model(), program.example()
    begun = [v.detach().requires_grad_() for v in model.begin(inputs)]
    values = model.values(begun, inputs.get(MASK))
    gradients = torch.autograd.grad(values[-1].sum(), begun, allow_unused=True)
    held = [*values, *(g for g in gradients if g is not None)]
    sizes = [float(v.detach().abs().max()) for v in held]
    return max(sizes[len(values) :], default=0.0) > 1e-3 and all(size < LARGEST for size in sizes)


def without_idle(program: Program) -> Program:
    """Without inputs that no step reads, and without steps that nothing reads."""
    first = len(program.read)
    alive = {first + len(program.steps) - 1}
    for number in range(len(program.steps) - 1, -1, -1):
        if number + first in alive:
            alive |= set(program.steps[number].reads)
    kept = [i for i in range(first + len(program.steps)) if i in alive or i == 0]
    place = {old: new for new, old in enumerate(kept)}
    steps = tuple(
        replace(program.steps[i - first], reads=tuple(place[r] for r in program.steps[i - first].reads))
        for i in kept
        if i >= first
    )
    masked = any(step.what.masked for step in steps)
    names = [program.read[i] for i in kept if i < first] + [MASK] * (masked and MASK in program.inputs)
    return replace(program, steps=steps, inputs=tuple(names))


def shrunk(program: Program, broken: Callable[[Program], bool]) -> Program:
    """The smallest found by leaving out steps, inputs and outputs one after the other, while it is broken still."""
    while True:
        for smaller in _smaller(program):
            if _safely(smaller, sound) and broken(smaller):
                program = smaller
                break
        else:
            return program


def _safely(program: Program, ask: Callable[[Program], bool]) -> bool:
    try:
        return ask(program)
    except RuntimeError:  # the model itself fails
        return False


def _smaller(program: Program) -> Iterator[Program]:
    first = len(program.read)
    if len(program.steps) > 1:
        for number in range(len(program.steps)):
            yield without_idle(_left_out(program, number, first))
    for number, step in enumerate(program.steps):
        for place in range(1, len(step.reads)):
            for other in range(first):
                if step.reads[place] > other:
                    reads = (*step.reads[:place], other, *step.reads[place + 1 :])
                    changed = (*program.steps[:number], replace(step, reads=reads), *program.steps[number + 1 :])
                    yield without_idle(replace(program, steps=changed))
    if program.several:
        yield replace(program, several=False)
    if program.head != "mean":
        yield replace(program, head="mean")


def _left_out(program: Program, number: int, first: int) -> Program:
    """What read a step reads the first value that the step read."""
    gone, instead = first + number, program.steps[number].reads[0]
    steps = [
        replace(step, reads=tuple(instead if r == gone else r - (r > gone) for r in step.reads))
        for i, step in enumerate(program.steps)
        if i != number
    ]
    return replace(program, steps=tuple(steps))
