"""What others do with the same models: ``python -m benchmarks peers [--write]``.

Small models with random weights, in float64: the sum of the relevance of all inputs as a share of the score, and what
the first explanation and a later one take on a decoder. Each peer by its own words for it; what is not installed, or
refuses a model, is said. What others offer is from their documentation, of the version that is named.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import date

import torch
from torch import Tensor, nn

from benchmarks.compare import ANY, OTHERS, TEXT, Noise
from benchmarks.page import Page, table
from benchmarks.speed.peers import lxt_patches

Inputs = dict[str, Tensor]
#: (model, inputs) -> the sum of the relevance of all inputs, and the score.
Sum = Callable[[nn.Module, Inputs], tuple[float, float]]
TOKENS = 12


# ------------------------------------------------------------------------------------------------ models
def build(name: str, layers: int = 2, width: int = 32) -> tuple[nn.Module, Inputs]:
    """A model with random weights, and its inputs."""
    import transformers as t

    torch.manual_seed(1)
    ids = torch.randint(3, 90, (1, TOKENS))
    common = {
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "hidden_size": width,
        "intermediate_size": 3 * width,
    }
    if name == "gpt2":
        config = t.GPT2Config(vocab_size=99, n_embd=width, n_layer=layers, n_head=4, bos_token_id=0, eos_token_id=0)
        model: nn.Module = t.GPT2LMHeadModel(config)
    elif name == "bert":
        model = t.BertForSequenceClassification(t.BertConfig(vocab_size=99, **common))
    elif name == "llama":
        model = t.LlamaForCausalLM(t.LlamaConfig(vocab_size=99, num_key_value_heads=2, **common))
    elif name == "qwen3":
        model = t.Qwen3ForCausalLM(t.Qwen3Config(vocab_size=99, num_key_value_heads=2, head_dim=8, **common))
    else:
        model = t.ViTForImageClassification(t.ViTConfig(image_size=32, patch_size=8, **common))
        return model.double().eval(), {"pixel_values": torch.randn(1, 3, 32, 32, dtype=torch.float64)}
    return model.double().eval(), {"input_ids": ids}


MODELS = ("gpt2", "bert", "llama", "qwen3", "vit")


def values_of(model: nn.Module, inputs: Inputs) -> tuple[str, Tensor]:
    """What is explained, as (argument, value): embeddings of the tokens, or pixels."""
    if "pixel_values" in inputs:
        return "pixel_values", inputs["pixel_values"].clone()
    return "inputs_embeds", model.get_input_embeddings()(inputs["input_ids"]).detach()  # type: ignore[operator]


def score(model: nn.Module, name: str, value: Tensor) -> Tensor:
    """The logit of the predicted class, or of the next token."""
    logits = model(**{name: value}).logits
    row = logits[0, -1] if logits.dim() == 3 else logits[0]
    return row[int(row.argmax())]


# ------------------------------------------------------------------------------------------------ peers
def by_gradient(model: nn.Module, inputs: Inputs) -> tuple[float, float]:
    name, value = values_of(model, inputs)
    value.requires_grad_()
    out = score(model, name, value)
    (found,) = torch.autograd.grad(out, value)
    return float((found * value).sum()), float(out)


def by_integrated(model: nn.Module, inputs: Inputs) -> tuple[float, float]:
    """Captum's integrated gradients; what they add up to is the difference to the score of the baseline."""
    from captum.attr import IntegratedGradients

    name, value = values_of(model, inputs)
    with torch.no_grad():
        best = int((logits := model(**{name: value}).logits).reshape(-1, logits.shape[-1])[-1].argmax())

    def forward(x: Tensor) -> Tensor:
        logits = model(**{name: x}).logits
        return (logits[:, -1] if logits.dim() == 3 else logits)[:, best]

    found = IntegratedGradients(forward).attribute(value, n_steps=50)
    return float(found.sum()), float(forward(value))


def by_lxt(model: nn.Module, inputs: Inputs) -> tuple[float, float]:
    with lxt_patches(model):
        return by_gradient(model, inputs)


def by_autolrp(preset: str) -> Sum:
    """A preset of its configuration; its relevance starts from 1 whatever the score is."""

    def run(model: nn.Module, inputs: Inputs) -> tuple[float, float]:
        autolrp = importlib.import_module("autolrp")
        name, value = values_of(model, inputs)
        wrapped = autolrp.tensor(value)
        config = getattr(autolrp.LRPConfig, preset)() if preset else autolrp.LRPConfig()
        score(model, name, wrapped).lrp(config=config)  # type: ignore[attr-defined]
        return float(wrapped.relevance.sum()), 1.0

    return run


def by_lrp_fx(named: bool, rules: str = "pa-lrp") -> Sum:
    """Inputs alone, or with the sinks that it names."""

    def run(model: nn.Module, inputs: Inputs) -> tuple[float, float]:
        import lrp_fx

        ledger = lrp_fx.convert(model, rules=rules, dynamic=False)(**inputs).ledger
        total = ledger.total if named else torch.stack(list(ledger.leaves.values())).sum(0)
        return float(total), float(ledger.score)

    return run


#: Name on the page -> (distribution, how it sums).
PEERS: dict[str, tuple[str, Sum]] = {
    "gradient x input": ("torch", by_gradient),
    "Captum, integrated gradients": ("captum", by_integrated),
    "LXT, AttnLRP": ("lxt", by_lxt),
    "autoLRP, BASE": ("autolrp", by_autolrp("")),
    "autoLRP, CP-LRP": ("autolrp", by_autolrp("cplrp")),
    "autoLRP, AttnLRP": ("autolrp", by_autolrp("attnlrp")),
    "lrp_fx, cp-lrp, inputs": ("lrp-fx", by_lrp_fx(named=False, rules="cp-lrp")),
    "lrp_fx, inputs": ("lrp-fx", by_lrp_fx(named=False)),
    "lrp_fx, inputs and named sinks": ("lrp-fx", by_lrp_fx(named=True)),
}


def share(run: Sum, name: str) -> str:
    """The sum as a share of the score, or why there is none."""
    model, inputs = build(name)
    try:
        found, whole = run(model, inputs)
    except ImportError as error:
        return f"not installed: {str(error)[:40]}"
    except Exception as error:  # whatever a peer raises is a cell of the table
        return f"refused ({type(error).__name__})"
    ratio = found / whole
    return f"{ratio:.4f}" if abs(ratio) < 100 else f"{ratio:.1e}"


def seconds(run: Sum) -> list[str]:
    """CPU seconds of the first explanation of a decoder (4 layers of 256), and of a third."""
    model, inputs = build("llama", 4, 256)
    times = []
    for _ in range(3):
        start = time.process_time()
        try:
            run(model, inputs)
        except Exception as error:  # whatever a peer raises is a cell of the table
            return [f"refused ({type(error).__name__})", "-"]
        times.append(time.process_time() - start)
    return [f"{times[0]:.2f}", f"{times[-1]:.3f}"]


def ours() -> list[str]:
    """The same of lrp_fx, whose explainer is kept."""
    import lrp_fx

    model, inputs = build("llama", 4, 256)
    start = time.process_time()
    explainer = lrp_fx.convert(model)
    explainer(**inputs)
    first = time.process_time() - start
    explainer(**inputs)
    start = time.process_time()
    explainer(**inputs)
    return [f"{first:.2f}", f"{time.process_time() - start:.3f}"]


# ------------------------------------------------------------------------------------------------ the page
#: What each offers, from its documentation and code.
OFFERS = (
    ("", "lrp_fx", "autoLRP 0.2.0 (2026-09)", "LXT 2.1", "zennit 0.5.1", "Captum 0.9 (2026-04)", "Inseq 0.7.1"),
    ("models", "any module, by tracing", "any module, by autograd", "8 families", "modules of convolutions and "
     "linear layers", "any, gradients and perturbations", "generation of transformers"),
    ("LRP for attention", "yes", "yes", "yes", "no", "no", "no"),
    ("an operation without a rule", "named sink; `strict` refuses", "refused", "passed on", "gradient", "gradient",
     "gradient"),
    ("position as a carrier", "yes", "no", "no", "no", "no", "no"),
    ("what no input got", "named, and checked at every call", "not named", "not named", "not named", "`delta` of "
     "integrated gradients", "`delta` of integrated gradients"),
    ("first explanation", "seconds: the model is compiled", "**one pass**", "**one pass**", "**one pass**",
     "**one pass**", "**one pass**"),
    ("similarity of two inputs (BiLRP)", "no", "**yes**", "no", "no", "no", "no"),
    ("other attribution methods", "gradient x input", "CLRP", "CP-LRP", "many rules", "**some thirty**",
     "**a dozen, for generation**"),
    ("rules for convolutions (z+, alpha-beta)", "gamma", "**yes**", "gamma, by zennit", "**yes**", "epsilon, z+",
     "no"),
    ("saved without the model's code", "yes", "no", "no", "no", "no", "results"),
)  # fmt: skip


def versions() -> str:
    """The installed versions of all that is measured."""
    found = []
    for name in dict.fromkeys(["torch", "transformers", *(d for d, _ in PEERS.values())]):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


def about(options: argparse.Namespace) -> str:
    del options
    return """**Does relevance add up?** The sum of the relevance of all inputs as a share of the logit, for models of
    two layers with random weights, in float64. 1 says that all of the logit is on the inputs. That is not better by
    itself: biases, and what attention does whatever is read, belong to no input. What counts is whether the rest has a
    name. In lrp_fx it has; position is part of the inputs' sum. Integrated gradients add up to the difference to a
    baseline. zennit has no rules for attention and layer norms, so it is not in this table.
    """


def body(options: argparse.Namespace) -> Iterator[str]:
    del options
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = [[label, *(share(run, name) for name in MODELS)] for label, (_, run) in PEERS.items()]
    parts = [f"Measured {date.today():%Y-%m-%d} with {versions()}.", f"## Sums\n\n{table(['', *MODELS], rows)}"]
    yield "\n\n".join(parts)
    head = ["CPU seconds, decoder of 4 layers of 256, one thread", "first explanation", "a later one"]
    timed = ("gradient x input", "LXT, AttnLRP", "autoLRP, CP-LRP", "Captum, integrated gradients")
    times = [[label, *seconds(PEERS[label][1])] for label in timed]
    more = "More in [first call](first_call.md) and [performance](performance.md)."
    parts += ["## Time", more, table(head, [*times, ["lrp_fx", *ours()]])]
    yield "\n\n".join(parts)
    words = "From documentation and code, of the versions named. **Bold**: where another is better than lrp_fx."
    parts += ["## What each offers", words, table(OFFERS[0], OFFERS[1:])]
    yield "\n\n".join(parts)


BENCHMARK = Page(
    "peers",
    "Do the relevances of others add up, what do they take, and what do they offer?",
    "peers.md",
    "Peers",
    about,
    body,
    noise={TEXT: ANY, OTHERS: Noise(relative=1.0)},
)
