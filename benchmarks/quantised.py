"""What is explained of quantised models: ``python -m benchmarks quantised``.

A small Llama with random weights is quantised by each library that is installed (torchao, optimum-quanto, hqq,
bitsandbytes; torch.ao is torch's own). **as it is**: explained, with how far the relevance lies from that of the
dequantised copy (`lrp_fx.dequantised`), relative to its largest value; or the reason why not. **copy**: how far its
logits lie from the quantised model's, relative to the largest: layers that quantise their inputs as well become layers
that do not.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

import lrp_fx
from benchmarks.compare import ANY, OTHERS, TEXT
from benchmarks.page import Page, table

HEADINGS = ("library", "weights", "as it is", "copy")


def base() -> nn.Module:
    import transformers as t

    torch.manual_seed(0)
    sizes = dict(vocab_size=101, hidden_size=64, intermediate_size=128, num_hidden_layers=1)
    config = t.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    return t.LlamaForCausalLM(config).eval()


# ------------------------------------------------------------------------------------------------ quantisers
def with_layers(make: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """The model with another layer in place of each linear one but the last."""
    model = base()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and name != "lm_head":
                setattr(module, name, make(child))
    return model.eval()


def torchao(config: str) -> nn.Module:
    import torchao.quantization as ao  # type: ignore[import-not-found]

    model = base()
    ao.quantize_(model, getattr(ao, config)())
    return model


def quanto(kind: str) -> nn.Module:
    from optimum import quanto as q  # type: ignore[import-not-found]

    model = base()
    q.quantize(model, weights=getattr(q, kind))
    q.freeze(model)
    return model.eval()


def hqq() -> nn.Module:
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear  # type: ignore[import-not-found]

    config = BaseQuantizeConfig(nbits=4, group_size=64)
    return with_layers(lambda layer: HQQLinear(layer, config, compute_dtype=torch.float32, device="cpu"))


def bitsandbytes(bits: int) -> nn.Module:
    import bitsandbytes as b  # type: ignore[import-not-found]

    def make(layer: nn.Linear) -> nn.Module:
        sizes = (layer.in_features, layer.out_features)
        if bits == 8:
            made = b.nn.Linear8bitLt(*sizes, bias=False, has_fp16_weights=False, threshold=6.0)
            made.weight = b.nn.Int8Params(layer.weight.data.clone(), requires_grad=False, has_fp16_weights=False)
        else:
            made = b.nn.Linear4bit(*sizes, bias=False, compute_dtype=torch.float32)
            made.weight = b.nn.Params4bit(layer.weight.data.clone(), requires_grad=False, quant_type="nf4")
        return made  # type: ignore[no-any-return]

    return with_layers(make).to("cpu")


def torch_ao() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(base(), {nn.Linear}, dtype=torch.qint8).eval()  # type: ignore[no-any-return, no-untyped-call]


QUANTISERS: tuple[tuple[str, str, Callable[[], nn.Module]], ...] = (
    ("torchao", "int8", lambda: torchao("Int8WeightOnlyConfig")),
    ("torchao", "int8, inputs too", lambda: torchao("Int8DynamicActivationInt8WeightConfig")),
    ("optimum-quanto", "int4", lambda: quanto("qint4")),
    ("optimum-quanto", "int8", lambda: quanto("qint8")),
    ("optimum-quanto", "float8", lambda: quanto("qfloat8")),
    ("hqq", "int4, groups of 64", hqq),
    ("bitsandbytes", "8 bit, inputs too", lambda: bitsandbytes(8)),
    ("bitsandbytes", "4 bit (nf4)", lambda: bitsandbytes(4)),
    ("torch", "torch.ao: int8, inputs too", torch_ao),
)


# ------------------------------------------------------------------------------------------------ the page
def row(library: str, weights: str, make: Callable[[], nn.Module]) -> list[str]:
    ids = torch.randint(0, 101, (1, 9), generator=torch.Generator().manual_seed(1))
    model = make()
    plain = lrp_fx.dequantised(model)
    logits, theirs = (_logits(m, ids) for m in (model, plain))
    wanted = lrp_fx.convert(plain)(input_ids=ids, target=5).per_token()
    try:
        found = lrp_fx.convert(model)(input_ids=ids, target=5).per_token()
        direct = f"explained, {_off(found, wanted):.1e}"
    except lrp_fx.LrpError as error:
        direct = f"refused: {_reason(str(error))}"
    return [f"{library} {version(library)}", weights, direct, f"{_off(theirs, logits):.1e}"]


def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits  # type: ignore[no-any-return]


def _off(found: Any, wanted: Any) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def _reason(text: str) -> str:
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
    rows = [row(*quantiser) for quantiser in QUANTISERS if is_installed(quantiser[0])]
    missing = sorted({library for library, *_ in QUANTISERS if not is_installed(library)})
    said = f"\n\nNot installed, not tried: {', '.join(missing)}." if missing else ""
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
