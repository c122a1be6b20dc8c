#!/usr/bin/env bash
# inseq 0.7.1 with transformers 5.23.0: attributing what a decoder writes after ONE text is refused for every tokenizer
# that writes a token for the beginning of texts (Llama's and its kind); after TWO texts it works.
#
# What was generated is decoded with its special tokens where there is one sequence, and without where there are
# several (HuggingfaceModel.generate: skip_special_tokens = num_sequences != 1 or is_encoder_decoder); then the text has
# to begin with the input text, which "<s> a b c" does not.
# Seen: AssertionError for ["a b"], attributions of the same lengths for ["a b", "a b"], and for "a b" with a tokenizer
# that writes no such token.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q "torch==2.13.0" "transformers==5.23.0" "inseq==0.7.1"
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import inseq
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

WORDS = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefgh"]


def save(name, begins):
    """A small Llama with random weights and a tokenizer of single letters."""
    torch.manual_seed(0)
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    if begins:
        inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(name)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    ids = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    config = transformers.LlamaConfig(vocab_size=len(WORDS), **sizes, **ids)
    transformers.LlamaForCausalLM(config).save_pretrained(name)


def attributed(name, texts):
    model = inseq.load_model(name, "saliency")
    written = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    try:
        out = model.attribute(texts, generation_args=written, show_progress=False)
    except AssertionError as error:
        return str(error).splitlines()[0]
    return [len(one.target) for one in out]


save("begins", True)
save("plain", False)
one, two = attributed("begins", ["a b"]), attributed("begins", ["a b", "a b"])
plain = attributed("plain", ["a b"])
print(version("inseq"), transformers.__version__, one, two, plain, sep=" | ")
assert one == "Forced generations of decoder-only models must start with the input texts:", one
assert isinstance(two, list) and len(set(two)) == 1 and len(two) == 2, two
assert isinstance(plain, list), plain
PYTHON
