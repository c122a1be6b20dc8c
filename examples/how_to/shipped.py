"""The shipped classifier of the how-tos, with a tokenizer made of its vocabulary."""

from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers

MODEL = Path(__file__).parents[1] / "models" / "synth_rope"


def marks(count: int = 4) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerFast, list[str]]:
    """Model, tokenizer, and ``count`` texts that ask which value stands after MARK."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(MODEL, dtype=torch.float32).eval()
    data = np.load(MODEL / "eval.npz")
    names = [str(name) for name in data["vocab"]]
    model.config.id2label = {i: f"v{i}" for i in range(10)} | {10: "yes", 11: "no"}
    model.config.label2id = {label: i for i, label in model.config.id2label.items()}
    words = tokenizers.models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[PAD]")
    split = tokenizers.Tokenizer(words)
    split.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=split, pad_token="[PAD]", bos_token="[BOS]")
    rows = [[names[i] for i in row if i] for row in data["input_ids"]]
    return model, tokenizer, [" ".join(row) for row in rows if row[-1] == "QMARK"][:count]
