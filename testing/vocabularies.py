"""Small tokenizers, made here, of the kinds that differ in how they write a space; and what reads images and sounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a good bad film the not".split()


def by_word(**options: Any) -> Any:
    """Whole words between [CLS] and [SEP], as BERT's; with the types of a pair."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "mask_token": "[MASK]", "pad_token": "[PAD]"} | options
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, model_input_names=["input_ids", "token_type_ids", "attention_mask"], **names
    )


def by_piece(mark: str = "▁", prefix: str = "always") -> Any:
    """Pieces of words, a space written as a mark before the word; none is added to the first word with ``never``. There
    is no padding token.
    """
    words = [f"{mark}Lily", f"{mark}Li", "am", f"{mark}Tom", f"{mark}went", "Lily", ".", mark]
    letters = sorted({c for word in words for c in word} | set("xyz"))
    vocabulary = {piece: i for i, piece in enumerate(["<unk>", "<s>", *dict.fromkeys([*words, *letters])])}
    scored = [(piece, -float(len(words) - i) if piece in words else -20.0) for piece, i in vocabulary.items()]
    scored = [(piece, -1.0 if len(piece) > 1 else -20.0) for piece, _ in scored]
    core = Tokenizer(models.Unigram(scored, unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement=mark, prepend_scheme=prefix)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>")


class Pixels:
    """An image processor: bytes to numbers between 0 and 1, the channels in front."""

    image_mean = 0.0

    def __call__(self, images: list[Any], return_tensors: str) -> dict[str, Any]:
        assert return_tensors == "pt"
        return {"pixel_values": torch.stack([torch.as_tensor(np.array(i)).permute(2, 0, 1) / 255 for i in images])}


class Samples:
    """A feature extractor: rows of samples, padded, with a mask where they differ."""

    sampling_rate = 8000

    def __call__(self, sounds: list[Any], sampling_rate: int, return_tensors: str, **options: bool) -> dict[str, Any]:
        assert sampling_rate == self.sampling_rate and return_tensors == "pt"
        rows = [torch.as_tensor(s) for s in sounds]
        found = {"input_values": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)}
        if options.get("return_attention_mask"):
            lengths = torch.tensor([len(r) for r in rows])
            found["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        return found
