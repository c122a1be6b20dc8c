"""What is explained of quantised models: ``python -m benchmarks quantised``.

A small Llama with random weights is quantised by each library that is installed (torchao, optimum-quanto, hqq,
bitsandbytes, gptqmodel, compressed-tensors, transformers; torch.ao is torch's own). **as it is**: explained, with how
far the relevance lies from that of the dequantised copy (`lrp_fx.dequantised`), relative to its largest value; or the
reason why not. *Matrices*: kernels without a derivative were found to be linear maps, and stand in the graph as the
matrices that they apply, as large as is said. *Rounding said*: a warning names the layers whose inputs are rounded,
and that relevance passes that. *Call by call*: what the layers do in Python no export sees through, and every call is
recorded anew. **copy**: how far its logits lie from the quantised model's, relative to the largest: layers that
quantise their inputs as well become layers that do not. Where weights are held as plain numbers there is nothing to
dequantise; the copy is then a plain Llama with these weights, if that computes the same.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

import lrp_fx
from benchmarks.compare import ANY, OTHERS, TEXT
from benchmarks.page import Page, table
from benchmarks.quantisers import QUANTISERS, base

_MATRICES = re.compile(r"\(\d+ tensors, ([^,]+), beside")
#: How far logits of the same weights may lie apart.
_SAME = 1e-5
HEADINGS = ("library", "weights", "as it is", "copy")


# ------------------------------------------------------------------------------------------------ the page
def row(library: str, weights: str, make: Callable[[], nn.Module]) -> list[str]:
    ids = torch.randint(0, 101, (1, 9), generator=torch.Generator().manual_seed(1))
    name = f"{library} {version(library)}"
    try:
        model = make()
        logits = _logits(model, ids)
    except Exception as error:  # of a library, which has no kernel for this machine
        first = next(iter(str(error).splitlines()), "")
        return [name, weights, f"does not run here: {type(error).__name__}: {first}", ""]
    plain = _plain(model, ids, logits)
    copied = "" if plain is None else f"{_off(_logits(plain, ids), logits):.1e}"
    return [name, weights, _explained(model, plain, ids), copied]


def _plain(model: nn.Module, ids: Tensor, logits: Tensor) -> nn.Module | None:
    """The dequantised copy; of weights that are plain numbers, a Llama with these; None where it computes another
    thing.
    """
    try:
        return lrp_fx.dequantised(model)
    except lrp_fx.InputError:
        plain = base()
        plain.load_state_dict(model.state_dict(), strict=False)
        return plain if _off(_logits(plain, ids), logits) < _SAME else None


def _explained(model: nn.Module, plain: nn.Module | None, ids: Tensor) -> str:
    explainer = lrp_fx.convert(model)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = explainer(input_ids=ids, target=5).per_token()
    except lrp_fx.LrpError as error:
        return f"refused: {reason(str(error))}"
    said = " ".join(str(warning.message) for warning in told)
    parts = ["explained"]
    if plain is not None:
        parts.append(f"{_off(found, lrp_fx.convert(plain)(input_ids=ids, target=5).per_token()):.1e}")
    parts += [f"matrices ({size[1]})"] if (size := _MATRICES.search(said)) else []
    parts += ["rounding said"] if "activations are rounded" in said else []
    parts += ["call by call"] if explainer.rewritten.program.method == "concrete" else []
    return ", ".join(parts)


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits  # type: ignore[no-any-return]


def _off(found: Any, wanted: Any) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def reason(text: str) -> str:
    """The reason that an error gives, without its place and the way out."""
    lines = [line.strip() for line in text.splitlines()]
    why = next((line for line in lines if line.startswith("why:")), lines[0])
    return why.removeprefix("why:").strip()


def is_installed(library: str) -> bool:
    try:
        return bool(version(library))
    except PackageNotFoundError:
        return False


def about(options: argparse.Namespace) -> str:
    return f"{__doc__.split(chr(10) * 2)[1]}\n\nWith torch {torch.__version__}, on a CPU."


def body(options: argparse.Namespace) -> Iterator[str]:
    warnings.simplefilter("ignore")
    missing = sorted({library for library, *_ in QUANTISERS if not is_installed(library)})
    said = f"\n\nNot installed, not tried: {', '.join(missing)}." if missing else ""
    rows = []
    with torch.compiler.set_stance("force_eager"):
        for quantiser in QUANTISERS:
            if is_installed(quantiser[0]):
                rows.append(row(*quantiser))
                yield table(HEADINGS, rows) + said


BENCHMARK = Page(
    "quantised",
    "What is explained of quantised models, library by library",
    "quantised.md",
    "Quantised models",
    about,
    body,
    noise={TEXT: ANY, OTHERS: ANY},
)
