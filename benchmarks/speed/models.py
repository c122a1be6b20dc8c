"""The models that are timed: random weights, shapes as people use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

WORDS = 32_000


@dataclass(frozen=True)
class Timed:
    """``embed(model, inputs)``: what to hand over in place of the words, for gradients, as (argument's name, value)."""

    name: str
    build: Callable[[], nn.Module]
    lengths: tuple[int, ...]
    words: bool = True
    decoder: bool = False

    def inputs(self, length: int, batch: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        if not self.words:
            return {"pixel_values": torch.randn(batch, 3, 224, 224, generator=generator)}
        ids = torch.randint(5, 900, (batch, length), generator=generator)
        found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return {**found, "decoder_input_ids": ids[:, :8].clone()} if self.decoder else found

    def embed(self, model: Any, inputs: dict[str, Tensor]) -> tuple[str, Tensor]:
        if not self.words:
            return "pixel_values", inputs["pixel_values"].clone()
        return "inputs_embeds", model.get_input_embeddings()(inputs["input_ids"]).detach()


def _build(name: str, config: Any, attention: str = "sdpa", **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(0)
        model = getattr(transformers, name)._from_config(config(**settings), attn_implementation=attention)
        return model.eval().requires_grad_(False)  # type: ignore[no-any-return]

    return build


def _llama(width: int, layers: int, heads: int) -> Callable[[], nn.Module]:
    sizes = dict(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=int(width * 8 / 3) // 16 * 16,
    )
    return _build(
        "LlamaForCausalLM", transformers.LlamaConfig, vocab_size=WORDS, max_position_embeddings=16_384, **sizes
    )


LENGTHS = (128, 512, 2048)
MODELS = {
    m.name: m
    for m in (
        Timed("Llama-like, 256 wide, 4 layers", _llama(256, 4, 4), LENGTHS),
        Timed("Llama-like, 768 wide, 12 layers", _llama(768, 12, 12), LENGTHS),
        Timed(
            "BERT-base-like",
            _build("BertForSequenceClassification", transformers.BertConfig, max_position_embeddings=2048),
            LENGTHS,
        ),
        Timed(
            "ViT-B/16-like",
            _build("ViTForImageClassification", transformers.ViTConfig, num_labels=1000),
            (197,),
            words=False,
        ),
        Timed(
            "T5-small-like",
            _build("T5ForConditionalGeneration", transformers.T5Config, "eager", decoder_start_token_id=0),
            LENGTHS,
            decoder=True,
        ),
    )
}
