"""Interrupts: calls that are broken off at a random moment leave model, explainer and process as they were."""

from __future__ import annotations

import gc
import logging
import random
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import lrp_fx
from benchmarks.load.model import answer, build, same
from lrp_fx.runtime import captures

#: What is raised at a random moment: by the keyboard, by Python's allocator, by torch's.
RAISED: dict[str, Callable[[], BaseException]] = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "MemoryError": MemoryError,
    "torch, out of memory": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1"),
}

#: Torch's own code (in C++) could not go on, and ended the process.
ENDED = "torch ended the process"


def state(model: nn.Module) -> dict[str, Any]:
    """Whatever a call may not change: of the model, of torch, of the process."""
    modules = {n: (m.training, _plain(m), len(m._forward_hooks)) for n, m in model.named_modules()}
    return {
        "modules": modules,
        "weights": [(n, p.detach().clone(), p.requires_grad, p._version) for n, p in model.named_parameters()],
        "switches": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_anomaly_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.mha.get_fastpath_enabled(),
            torch.compiler.is_compiling(),
            torch.compiler.is_exporting(),
            str(torch.get_default_dtype()),
            str(torch.get_default_device()),
            torch.get_num_threads(),
        ),
        "modes": (len(_get_current_dispatch_mode_stack()), torch._C._len_torch_function_stack()),
        "random state": torch.get_rng_state().clone(),
        "process": (gc.isenabled(), logging.root.manager.disable, id(sys.stderr), len(warnings.filters)),
        "hooks of all modules": (
            len(nn.modules.module._global_forward_hooks),
            len(nn.modules.module._global_forward_pre_hooks),
        ),
        "functions of modules": (nn.Module.__call__, nn.Module.__getattr__, nn.Module.register_buffer),
    }


def _plain(module: nn.Module) -> dict[str, Any]:
    return {n: (type(v), v if isinstance(v, (int, float, str, tuple)) else id(v)) for n, v in vars(module).items()}


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Which parts of the state are another."""
    return [name for name in before if not _equal(before[name], after[name])]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


class Trials:
    """Calls of fresh explainers of one model, each broken off at a random moment by a signal that raises."""

    def __init__(self, seed: int = 0) -> None:
        self.model, self.draw = build(), random.Random(seed)
        self.model.requires_grad_(False)
        self.make: Callable[[], BaseException] = KeyboardInterrupt
        self.expected = [answer(self._fresh(), 1), answer(self._fresh(), 2)]
        start = time.perf_counter()
        self._both(self._fresh())
        self.seconds = time.perf_counter() - start

    def _fresh(self) -> lrp_fx.Explainer:
        captures.forget()
        return lrp_fx.convert(self.model, dynamic=True)

    def _both(self, explain: lrp_fx.Explainer) -> None:
        answer(explain, 1), answer(explain, 2)

    def _raise(self, *_: object) -> None:
        raise self.make()  # kept by nobody: an error holds all frames that it came through

    def run(self, count: int) -> Iterator[tuple[str, str]]:
        """What was raised, and what became of it: ``"as before"``, ``"too late"``, or what is another."""
        handler = signal.signal(signal.SIGALRM, self._raise)
        try:
            for number in range(count):
                name = list(RAISED)[number % len(RAISED)]
                yield name, self._one(RAISED[name])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)

    def _one(self, make: Callable[[], BaseException]) -> str:
        explain, self.make = self._fresh(), make
        before, reached = state(self.model), False
        try:
            signal.setitimer(signal.ITIMER_REAL, max(self.draw.random() * self.seconds, 1e-4))
            self._both(explain)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except BaseException as error:
            reached = True
            if type(error) is not type(make()):
                return f"raised {type(error).__name__} instead: {str(error)[:80]}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if others := differing(before, state(self.model)):
            return f"changed: {', '.join(others)}"
        found = [answer(explain, 1), answer(explain, 2)]
        if not all(map(same, found, self.expected)):
            return "another number afterwards"
        if explain.rewritten.program.method != "dynamic":
            return "another way to capture afterwards"
        return "as before" if reached else "too late"


def outcomes(count: int) -> dict[str, Counter[str]]:
    """How often each thing became of each kind of interrupt; in processes of their own, which torch may end."""
    found: dict[str, Counter[str]] = {name: Counter() for name in RAISED}
    done = seed = 0
    while done < count:
        code = f"from benchmarks.load import interrupts; interrupts.tell({count - done}, {seed})"
        child = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
        lines = [line.split("\t") for line in child.stdout.splitlines() if "\t" in line]
        for name, became in lines:
            found[name][became] += 1
        done, seed = done + len(lines), seed + 1
        if done < count:  # the one after the last was its end
            found[list(RAISED)[len(lines) % len(RAISED)]][ENDED] += 1
            done += 1
    return found


def tell(count: int, seed: int) -> None:
    """Print a line for each trial as soon as it is known."""
    torch.set_num_threads(1)
    for name, became in Trials(seed).run(count):
        print(name, became.replace("\n", " ").replace("\t", " "), sep="\t", flush=True)
