"""What the first explanation costs: ``python -m benchmarks first_call [--models NAME ...] [--against COMMIT]``.

Every figure is that of a fresh process with one thread: seconds of its CPU, and its peak memory beyond what it held,
from the constructed model to the first relevance. Beside this tree: a commit of its history, autoLRP where it is
installed and runs, gradient x input, and `torch.export` of the logits alone, which traces every layer (of blocks that
are alike, lrp_fx traces one). What a second kind of call costs on the same explainer is measured behind the first.
Columns with a ratio divide by that commit. Memory of converting alone is what a decoder takes beyond its weights and
its own run, for a short and a long text.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.compare import ANY, OTHERS, TEXT, Noise
from benchmarks.history import TreeError, measured_in, unpacked
from benchmarks.page import ROOT, Page, table

DECODERS = {f"decoder {n} x {w}": (n, w) for n, w in ((4, 256), (12, 768), (24, 1024), (32, 256), (48, 64))}
GROWTH = {f"decoder {n} x 256": (n, 256) for n in (8, 48)}
OTHER_MODELS = ("bert-base", "vit-b", "t5-small", "demo")
MODELS = (*DECODERS, *GROWTH, *OTHER_MODELS)
TOKENS = 16
#: A decoder with the sizes of SmolLM2-135M and a vocabulary that makes long outputs large.
TEXTS = {f"30 x 576, {n} tokens": n for n in (16, 512)}
SHIPPED = ROOT / "examples" / "models" / "stories260k"


# ------------------------------------------------------------------------------------------------ models
def build(name: str) -> tuple[nn.Module, dict[str, Tensor], str]:
    """A model with random weights, its inputs, and the argument that holds what is explained."""
    import transformers as t

    torch.manual_seed(0)
    ids = torch.randint(5, 500, (1, TOKENS))
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name in DECODERS | GROWTH:
        layers, width = (DECODERS | GROWTH)[name]
        heads = max(width // 64, 2)
        sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": width * 8 // 3 // 16 * 16}
        config = t.LlamaConfig(vocab_size=1000, num_attention_heads=heads, num_key_value_heads=heads, **sizes)
        return t.LlamaForCausalLM(config).eval(), text, "input_ids"
    if name == "bert-base":
        return t.BertForSequenceClassification(t.BertConfig(vocab_size=1000)).eval(), text, "input_ids"
    if name == "vit-b":
        return t.ViTForImageClassification(t.ViTConfig()).eval(), {"pixel_values": torch.randn(1, 3, 224, 224)}, ""
    if name == "t5-small":
        config = t.T5Config(vocab_size=1000, decoder_start_token_id=0)
        model = t.T5ForConditionalGeneration(config).eval()
        return model, {**text, "decoder_input_ids": ids[:, :4]}, "input_ids"
    return t.AutoModelForCausalLM.from_pretrained(SHIPPED).eval(), text, "input_ids"  # the README's demo


def build_decoder(tokens: int) -> tuple[nn.Module, dict[str, Tensor]]:
    import transformers as t

    torch.manual_seed(0)
    sizes = {"hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536, "vocab_size": 49152}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3}
    model = t.LlamaForCausalLM(t.LlamaConfig(**sizes, **heads, tie_word_embeddings=True)).eval()
    ids = torch.randint(5, 500, (1, tokens))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def longer(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same text with four tokens more."""
    return {n: torch.cat([v, v[:, :4]], 1) if v.dim() == 2 else torch.cat([v, v]) for n, v in inputs.items()}


def padded(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Two texts, of which one is shorter."""
    both = {n: torch.cat([v, v]) for n, v in inputs.items()}
    if "attention_mask" in both:
        both["attention_mask"][1, -3:] = 0
    return both


# ------------------------------------------------------------------------------------------------ contenders
def explain_by_lrp_fx(name: str) -> Iterator[str]:
    """The first call, and others on the same model, each named as it is done."""
    import lrp_fx

    model, inputs, _ = build(name)
    options = {"output": "logits"} if name == "t5-small" else {}
    convert = lrp_fx.convert  # public names are imported when the first is asked for
    yield "start"
    explain = convert(model, **options)
    explain(**inputs)
    yield "first"
    explain(**longer(inputs))
    yield "second shape"
    if "attention_mask" in inputs:
        explain(**padded(inputs))
        yield "padded batch"
    explain(**inputs, target=lrp_fx.targets.Contrast(0, 1))
    yield "another target"
    lrp_fx.convert(model, rules="attnlrp", **options)(**inputs)
    yield "another preset"


def convert_by_lrp_fx(name: str) -> Iterator[str]:
    """Conversion alone, then the first explanation, another mask, another target and a file."""
    import lrp_fx

    model, inputs = build_decoder(TEXTS[name])
    with torch.no_grad():
        model(**inputs)  # the memory of its own run is no part of the conversion
    convert = lrp_fx.convert
    yield "start"
    explain = convert(model, inputs)
    yield "conversion"
    if TEXTS[name] == TOKENS:
        explain(**inputs)
        yield "explanation"
        explain(**padded(inputs))
        yield "padded batch"
        explain(**inputs, target=lrp_fx.targets.Contrast(0, 1))
        yield "another target"
        with tempfile.TemporaryDirectory() as folder:
            explain.save(Path(folder) / "model.lrp", weights=False)
        yield "file"


def explain_by_gradient(name: str) -> Iterator[str]:
    model, inputs, explained = build(name)
    yield "start"
    with_gradient(model, inputs, explained, lambda x: x.requires_grad_(), lambda s, x: s.backward())
    yield "first"


def export_alone(name: str) -> Iterator[str]:
    """`torch.export` of the model's logits, as every capture of it begins."""
    model, inputs, _ = build(name)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, **given: Tensor) -> Any:
            return self.model(**given).logits

    yield "start"
    with torch.no_grad():
        torch.export.export(Logits().eval(), (), inputs, strict=False)
    yield "first"


def explain_by_autolrp(name: str) -> Iterator[str]:
    import autolrp  # type: ignore[import-not-found]

    model, inputs, explained = build(name)
    yield "start"
    with_gradient(model, inputs, explained, autolrp.tensor, lambda s, x: s.lrp())
    yield "first"


def with_gradient(
    model: nn.Module, inputs: dict[str, Tensor], explained: str, wrap: Callable[[Tensor], Any], go: Callable[..., Any]
) -> None:
    """The predicted class or next token, by way of the embeddings of the tokens or the pixels."""
    if explained:
        values = wrap(model.get_input_embeddings()(inputs[explained]).detach())  # type: ignore[operator]
        given = {"inputs_embeds": values, **{n: v for n, v in inputs.items() if n != explained}}
    else:
        values = wrap(inputs["pixel_values"])
        given = {"pixel_values": values}
    logits = model(**given).logits
    scores = logits[0, -1] if logits.dim() == 3 else logits[0]
    go(scores[int(scores.argmax())], values)


CONTENDERS = {
    "lrp_fx": explain_by_lrp_fx,
    "conversion": convert_by_lrp_fx,
    "gradient x input": explain_by_gradient,
    "autoLRP": explain_by_autolrp,
    "export": export_alone,
}


# ------------------------------------------------------------------------------------------------ a process
def measure(contender: str, name: str) -> dict[str, tuple[float, float]]:
    """CPU seconds of each step, and MiB of peak memory up to it beyond what was held at the start."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, tuple[float, float]] = {}
    before, held = time.process_time(), 0.0
    for step in CONTENDERS[contender](name):
        seconds, peak = time.process_time() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        held = held or peak
        if step != "start":
            found[step] = (seconds, peak - held)
        before = time.process_time()
    return found


def in_a_process(tree: Path, contender: str, name: str) -> dict[str, tuple[float, float]]:
    """What `measure` gives with the lrp_fx of a tree; nothing where the contender fails."""
    try:
        found: dict[str, tuple[float, float]] = measured_in(tree, __name__, contender, name)
    except TreeError as error:
        print(f"    {contender} on {name}: {str(error)[:160]}", flush=True)
        return {}
    return found


# ------------------------------------------------------------------------------------------------ the page
def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="*", default=[*MODELS, *TEXTS], choices=[*MODELS, *TEXTS])
    parser.add_argument("--against", default="90f4218", help="a commit of this repository")


def about(options: argparse.Namespace) -> str:
    return f"{__doc__.split(chr(10) * 2)[1]}\n\nAgainst {options.against}, with torch {torch.__version__}, one thread."


FIRST = (
    "model",
    "lrp_fx, s",
    "before, s",
    "ratio",
    "autoLRP, s",
    "gradient x input, s",
    "export alone, s",
    "MiB",
    "MiB before",
)
CONVERSION = ("text", "step", "lrp_fx, s", "before, s", "ratio", "MiB", "of the weights", "MiB before")
LATER = ("second shape", "padded batch", "another target", "another preset")


def body(options: argparse.Namespace) -> Iterator[str]:
    first: list[list[str]] = []
    later: list[list[str]] = []
    alone: list[list[str]] = []
    with unpacked(options.against) as before:
        for name in options.models:
            if name in TEXTS:
                alone += conversion_rows(name, *(in_a_process(tree, "conversion", name) for tree in (ROOT, before)))
                print(*alone[-1], sep=" | ", flush=True)
            else:
                now, then = (in_a_process(tree, "lrp_fx", name) for tree in (ROOT, before))
                others = [in_a_process(ROOT, other, name) for other in ("autoLRP", "gradient x input", "export")]
                first.append(first_row(name, now, then, others))
                later.append([name, *(later_cell(step, now, then) for step in LATER)])
                print("|", " | ".join(first[-1]), "|", " | ".join(later[-1][1:]), "|", flush=True)
            yield "\n\n".join(
                [
                    table(FIRST, first),
                    *how_it_grows(first),
                    "Later calls on the same model: CPU seconds, as shares of this tree's first call, of the same call "
                    "before, and of the first call before.",
                    table(("model", *LATER), later),
                    "Conversion alone (`convert(model, inputs)`), and what follows it.",
                    table(CONVERSION, alone),
                ]
            )


def conversion_rows(name: str, now: Any, then: Any) -> list[list[str]]:
    weights = sum(p.numel() * p.element_size() for p in build_decoder(1)[0].parameters()) / 2**20
    rows = []
    for step, (seconds, mib) in now.items():
        before, mib_before = then.get(step, (float("nan"), float("nan")))
        memory = [f"{mib:.0f}", f"{mib / weights:.0%}", f"{mib_before:.0f}"] if step == "conversion" else ["", "", ""]
        rows.append([name, step, f"{seconds:.2f}", f"{before:.2f}", f"{seconds / before:.2f}", *memory])
    return rows


def first_row(name: str, now: Any, then: Any, others: list[Any]) -> list[str]:
    seconds = [f"{run['first'][0]:.2f}" if run else "-" for run in (now, then, *others)]
    memory = [f"{run['first'][1]:.0f}" if run else "-" for run in (now, then)]
    ratio = f"{now['first'][0] / then['first'][0]:.2f}" if now and then else "-"
    return [name, *seconds[:2], ratio, *seconds[2:], *memory]


def how_it_grows(rows: list[list[str]]) -> list[str]:
    """How many times longer the deepest of the decoders takes that differ in depth alone, for each contender; nothing
    until both ends are there.
    """
    ends = [next((row for row in rows if row[0] == name), None) for name in GROWTH]
    shallow, deep = ends[0], ends[-1]
    if shallow is None or deep is None:
        return []
    told = [
        f"{what.removesuffix(', s')} {float(high) / float(low):.1f}"
        for what, low, high in zip(FIRST, shallow, deep, strict=True)
        if what.endswith(", s") and "-" not in (low, high)
    ]
    return [f"From {shallow[0]} to {deep[0]} a first call grows so many times: {', '.join(told)}."]


def later_cell(step: str, now: Any, then: Any) -> str:
    """Seconds, as shares of the first call, of the same step before, and of the first call before."""
    if step not in now:
        return "-"
    seconds = now[step][0]
    shares = [
        seconds / run[of][0] if of in run else None for run, of in ((now, "first"), (then, step), (then, "first"))
    ]
    return f"{seconds:.2f} ({', '.join('-' if share is None else f'{share:.2f}' for share in shares)})"


BENCHMARK = Page(
    "first_call",
    "What the first explanation costs, beside an earlier commit, autoLRP and gradient x input",
    "first_call.md",
    "The first call",
    about,
    body,
    add_options,
    selects=("models", "against"),
    noise={TEXT: ANY, OTHERS: Noise(relative=0.5, absolute=1.0)},
)
