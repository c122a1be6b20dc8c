"""Trains the small models of tasks with known answers: ``python -m benchmarks tasks [NAME ...] [--into FOLDER]``.

Each is trained from scratch on drawn sequences until it answers at least 998 of 1,000 others, and is written with 300
held-out sequences and their causal tokens into a folder of its own (examples/models/task_NAME). Minutes each.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from benchmarks.page import ROOT, Command
from testing.tasks import LENGTHS, PAD, TASKS, VOCABULARY, Task, sequences

WIDTH, LAYERS, HEADS = 48, 2, 4
RATE = 3e-3
ENOUGH, HELD_OUT = 0.998, 1000
_README = """\
# {folder}

A small classifier whose right answers and causal tokens are known: `{model}`, width {width}, {layers} layers,
{heads} heads, float32, read out at the last token that the mask keeps. {accuracy:.1f} % correct on 1,000 held-out
sequences.

**Task.** `[BOS] c_1 ... c_n [END]`: {about} {position}

**eval.npz.** 300 held-out sequences, right-padded: `input_ids`, `attention_mask`, `labels`, `gt_full` (the tokens that
cause the label). Leave position 0 (`[BOS]`) out when scoring: a model may use it as an anchor.

**Origin and licence.** Data drawn and model trained from scratch by `python -m benchmarks tasks {name}`: no third
party's data or weights are involved. Licensed like the project.
"""


def fresh(task: Task) -> nn.Module:
    """An untrained model."""
    common: dict[str, Any] = dict(vocab_size=VOCABULARY, num_labels=task.classes, pad_token_id=PAD, bos_token_id=1)
    common["eos_token_id"] = None
    if task.architecture == "gpt2":
        sizes = dict(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=LENGTHS[1] + 2, n_inner=2 * WIDTH)
        quiet = dict(embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
        config: Any = transformers.GPT2Config(**common, **sizes, **quiet)
        return transformers.GPT2ForSequenceClassification(config)
    config = transformers.LlamaConfig(
        **common,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=2 * LENGTHS[1],
    )
    return transformers.LlamaForSequenceClassification(config)


def train(task: Task, seed: int = 0) -> tuple[nn.Module, float]:
    """A model that answers, and its accuracy on held-out sequences."""
    torch.manual_seed(seed)
    model = fresh(task)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=task.steps, pct_start=0.05)
    others, accuracy = sequences(task, HELD_OUT, seed=1), 0.0
    for step in range(task.steps):
        lengths = task.lengths[step * len(task.lengths) // task.steps]
        batch = sequences(task, task.batch, seed=1000 + step, lengths=lengths)
        loss = nn.functional.cross_entropy(_logits(model.train(), batch), batch["labels"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        if step % 250 == 249:
            with torch.no_grad():
                right = _logits(model.eval(), others).argmax(-1) == others["labels"]
            accuracy = float(right.float().mean())
            print(f"{task.name}: step {step + 1}, loss {loss.item():.4f}, {100 * accuracy:.1f} % right", flush=True)
            if accuracy >= ENOUGH and step >= 500:
                break
    return model.eval(), accuracy


def _logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits


def write(task: Task, model: Any, accuracy: float, into: Path) -> None:
    """Model, held-out data and where they come from."""
    folder = into / f"task_{task.name}"
    model.save_pretrained(folder)
    held_out = {n: t.numpy() for n, t in sequences(task, 300, seed=2).items()}
    np.savez_compressed(folder / "eval.npz", **held_out)
    position = "It matters where they stand." if task.positional else "It does not matter where they stand."
    facts = dict(folder=folder.name, model=type(model).__name__, accuracy=100 * accuracy, name=task.name)
    text = _README.format(**facts, width=WIDTH, layers=LAYERS, heads=HEADS, about=task.about, position=position)
    (folder / "README.md").write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Train the tasks that are named, or all; fails if one is not learned."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tasks", description=BENCHMARK.purpose)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--into", type=Path, default=ROOT / "examples" / "models", help="folder of models")
    options = parser.parse_args(arguments)
    learned = []
    for name in options.names or TASKS:
        model, accuracy = train(TASKS[name])
        learned.append(accuracy >= ENOUGH)
        write(TASKS[name], model, accuracy, options.into)
    return 0 if all(learned) else 1


BENCHMARK = Command("tasks", "Trains the models of small tasks whose causal tokens are known", main)
