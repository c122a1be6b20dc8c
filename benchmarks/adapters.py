"""What is explained of adapted models: ``python -m benchmarks adapters``.

A small Llama with random weights gets an adapter of each kind, with random weights that are not zero. **output**,
**relevance**: how far the adapted model's lie from those of the same model with the adapter merged into its weights,
relative to the largest, in double and in single precision. **disabled**, **scaled**, **switched**, **merged**: one
after the other the adapter is switched off, given half its scale, replaced by a second one, and that merged into the
weights in place, after the explainer was made and used; *yes*: the next explanation is of the model as it is then. A
dash: PEFT has no such thing for this kind.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

import lrp_fx
from benchmarks.compare import ANY, OTHERS, TEXT
from benchmarks.page import Page, table
from benchmarks.quantised import reason
from benchmarks.quantisers import bitsandbytes, hqq, torchao

IDS = torch.randint(3, 101, (1, 9), generator=torch.Generator().manual_seed(1))
_TARGET = 5
#: How far logits may lie from the model's, which computes its rotations in single precision, relative to the largest.
_SAME = 1e-5
_MAPS = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
_SQUARE = {"target_modules": ["q_proj", "o_proj"]}
#: (name, PEFT's configuration, its options)
MERGEABLE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("LoRA", "LoraConfig", {"r": 4, **_MAPS}),
    ("rsLoRA", "LoraConfig", {"r": 4, "use_rslora": True, **_MAPS}),
    ("DoRA", "LoraConfig", {"r": 4, "use_dora": True, **_MAPS}),
    ("AdaLoRA", "AdaLoraConfig", {"init_r": 4, "target_r": 2, "total_step": 10, **_MAPS}),
    ("LoHa", "LoHaConfig", {"r": 4, **_MAPS}),
    ("LoKr", "LoKrConfig", {"r": 4, **_MAPS}),
    ("VeRA", "VeraConfig", {"r": 4, **_SQUARE}),
    ("IA3", "IA3Config", {"feedforward_modules": ["down_proj"], **_MAPS}),
    ("OFT", "OFTConfig", {"r": 0, "oft_block_size": 8, **_MAPS}),
    ("BOFT", "BOFTConfig", {"boft_block_size": 8, **_MAPS}),
)
SOFT: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("prompt tuning", "PromptTuningConfig", {"num_virtual_tokens": 4}),
    ("p-tuning", "PromptEncoderConfig", {"num_virtual_tokens": 4, "encoder_hidden_size": 16}),
    ("prefix tuning", "PrefixTuningConfig", {"num_virtual_tokens": 4}),
    ("LLaMA-adapter", "AdaptionPromptConfig", {"adapter_len": 4, "adapter_layers": 1}),
)
BASES: tuple[tuple[str, str, Callable[[], nn.Module]], ...] = (
    ("torchao", "int8", lambda: torchao("Int8WeightOnlyConfig")),
    ("hqq", "int4, groups of 64", hqq),
    ("bitsandbytes", "4 bit (nf4)", lambda: bitsandbytes(4)),
)


def base() -> nn.Module:
    import transformers as t

    torch.manual_seed(0)
    sizes = dict(vocab_size=101, hidden_size=32, intermediate_size=64, num_hidden_layers=1)
    model = t.LlamaForCausalLM(t.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5 if p.dim() > 1 else 1)
    return model


def adapted(config: str, options: dict[str, Any], on: nn.Module | None = None) -> Any:
    """A model with an adapter whose weights are drawn."""
    import peft  # type: ignore[import-not-found]

    model = peft.get_peft_model(on or base(), getattr(peft, config)(task_type="CAUSAL_LM", **options)).eval()
    _draw(model)
    return model


def _draw(model: nn.Module, seed: int = 7) -> None:
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and p.is_floating_point():
                p.add_(0.1 * torch.randn(p.shape, generator=source, dtype=torch.float64).to(p.dtype))


# ------------------------------------------------------------------------------------------------ merged or not
def row(name: str, config: str, options: dict[str, Any]) -> list[str]:
    cells, explainers = [], []
    for kind in (torch.float64, torch.float32):
        model = adapted(config, options).to(kind)
        merged = copy.deepcopy(model).merge_and_unload().eval()
        explainers.append((lrp_fx.convert(model), model))
        found, expected = _explained(explainers[-1][0]), _explained(lrp_fx.convert(merged))
        cells += [f"{_off(_logits(found), _logits(expected)):.1e}", f"{_off(found.tokens, expected.tokens):.1e}"]
    changes = (_disable, _halve, _switch, _merge)
    return [name, *cells, *(_seen(*explainers[0], change, config, options) for change in changes)]


Change = Callable[[Any, str, dict[str, Any]], Any]


def _seen(explainer: lrp_fx.Explainer, model: Any, change: Change, config: str, options: dict[str, Any]) -> str:
    """Is a change seen by an explainer that was used before it?"""
    before = _run(model)
    try:
        changed = change(model, config, options)
    except (AttributeError, NotImplementedError, ValueError, TypeError):
        return "—"
    with changed or nullcontext():
        now = _run(model)
        if (_off(now, before) > _SAME) == (change is _merge):
            return "—"  # it changes nothing, or merging changes what is computed
        return "yes" if _off(_logits(_explained(explainer)), now) < _SAME else "**no**"


def _merge(model: Any, config: str, options: dict[str, Any]) -> None:
    model.merge_adapter()


def _disable(model: Any, config: str, options: dict[str, Any]) -> Any:
    return model.disable_adapter()


def _halve(model: Any, config: str, options: dict[str, Any]) -> None:
    for module in model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", 0.5)


def _switch(model: Any, config: str, options: dict[str, Any]) -> None:
    import peft

    model.add_adapter("second", getattr(peft, config)(task_type="CAUSAL_LM", **options))
    model.set_adapter("second")
    _draw(model, seed=8)
    model.double().eval()


# ------------------------------------------------------------------------------------------------ soft prompts
def soft_row(name: str, config: str, options: dict[str, Any]) -> list[str]:
    """Tokens in front of the text: what they get, and whether the text's tokens get what they get with the same tokens
    as a parameter of a module's own.
    """
    model = adapted(config, options).double()
    explainer = lrp_fx.convert(model)
    found = _explained(explainer)
    own = _own_prompt(model) if config in ("PromptTuningConfig", "PromptEncoderConfig") else None
    expected = None if own is None else _explained(lrp_fx.convert(own))
    its_own = found.tokens.shape == IDS.shape and bool(found.position)
    return [
        name,
        f"{float(found.ledger.shares()['learned']):.3f}" if "learned" in found.ledger.leaves else "**none**",
        f"{float(found.ledger.error.max()):.1e}",
        "" if expected is None else f"{_off(found.tokens, expected.tokens):.1e}",
        "yes" if its_own else "**no**",
        *(_seen(explainer, model, change, config, options) for change in (_disable, _switch)),
    ]


class _OwnPrompt(nn.Module):
    """The same tokens as a parameter, put in front of the text's embeddings."""

    def __init__(self, model: nn.Module, prompt: Tensor) -> None:
        super().__init__()
        self.model, self.prompt = model, nn.Parameter(prompt)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        words = self.model.get_input_embeddings()(input_ids)  # type: ignore[operator]
        prompt = self.prompt[None].expand(len(words), -1, -1)
        mask = torch.cat([attention_mask.new_ones(len(words), len(self.prompt)), attention_mask], 1)
        return self.model(inputs_embeds=torch.cat([prompt, words], 1), attention_mask=mask)


def _own_prompt(model: Any) -> nn.Module:
    with torch.no_grad():
        prompt = model.get_prompt(batch_size=1)[0].clone()
    return _OwnPrompt(model.base_model, prompt).eval()


# ------------------------------------------------------------------------------------------------ quantised bases
def quantised_row(library: str, weights: str, make: Callable[[], nn.Module]) -> list[str]:
    """LoRA around layers that are quantised, against LoRA around their dequantised copies."""
    model = adapted("LoraConfig", {"r": 4, **_MAPS}, make())
    expected = _explained(lrp_fx.convert(lrp_fx.dequantised(model)))
    try:
        found = f"{_off(_explained(lrp_fx.convert(model)).tokens, expected.tokens):.1e}"
    except lrp_fx.LrpError as error:
        found = f"refused: {reason(str(error))}"
    return [f"{library} {version(library)}", weights, found, f"{float(expected.ledger.error.max()):.1e}"]


# ------------------------------------------------------------------------------------------------ the page
def _explained(explainer: lrp_fx.Explainer) -> lrp_fx.Relevance:
    found = explainer(input_ids=IDS, attention_mask=torch.ones_like(IDS), target=_TARGET)
    assert isinstance(found, lrp_fx.Relevance)
    return found


def _logits(relevance: lrp_fx.Relevance) -> Tensor:
    return relevance.output.logits  # type: ignore[no-any-return]


def _run(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits  # type: ignore[no-any-return]


def _off(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max()) if found.shape == wanted.shape else float("inf")


def _row_or_reason(make: Callable[..., list[str]], given: tuple[Any, ...], columns: int) -> list[str]:
    """A row; of a kind that this version of PEFT does not have or cannot merge, why not."""
    try:
        return make(*given)
    except lrp_fx.LrpError as error:
        said = f"refused: {str(error).splitlines()[0]}"
    except (ImportError, NotImplementedError, ValueError) as error:  # of PEFT
        said = f"does not run here: {type(error).__name__}: {next(iter(str(error).splitlines()), '')[:120]}"
    return [given[0], said, *[""] * (columns - 2)]


def about(options: argparse.Namespace) -> str:
    return f"{__doc__.split(chr(10) * 2)[1]}\n\nWith torch {torch.__version__}, on a CPU."


_MERGED = (
    *("adapter", "output", "relevance", "output, single", "relevance, single"),
    *("disabled", "scaled", "switched", "merged"),
)
_SOFT = ("soft prompt", "learned", "books", "as a parameter", "text's places", "disabled", "switched")
_BASE = ("library", "base", "relevance", "books of the copy")
_ABOUT_SOFT = """\
Soft prompts stand in front of the text and cannot be merged. **learned**: their share of the score, a leaf of its own.
**books**: what is missing of the score. **as a parameter**: how far the relevance of the text's tokens lies from that
with the same tokens held as a parameter, put in front by a module of three lines. **text's places**: position is given
to the text's own tokens, one number for each."""
_ABOUT_BASE = """\
LoRA around quantised layers: how far the relevance lies from that of LoRA around their dequantised copies
(`lrp_fx.dequantised` of the adapted model)."""


def body(options: argparse.Namespace) -> Iterator[str]:
    warnings.simplefilter("ignore")
    parts = (
        ("", _MERGED, row, MERGEABLE),
        (_ABOUT_SOFT, _SOFT, soft_row, SOFT),
        (_ABOUT_BASE, _BASE, quantised_row, BASES),
    )
    written = f"With PEFT {version('peft')}."
    for text, headings, make, kinds in parts:
        rows: list[list[str]] = []
        above = f"{written}\n\n{text}".strip()
        for given in kinds:
            rows.append(_row_or_reason(make, given, len(headings)))
            written = f"{above}\n\n{table(headings, rows)}"
            yield written


BENCHMARK = Page(
    "adapters",
    "Adapters and soft prompts, kind by kind: unmerged against merged, and which changes are noticed",
    "adapters.md",
    "Adapters",
    about,
    body,
    noise={TEXT: ANY, OTHERS: ANY},
)
