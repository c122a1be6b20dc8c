"""Tiny transformers models with random weights, one per architecture of the end-to-end tests.

Biases and normalisation weights are randomised too, so that no term is trivially zero or one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor, nn

BATCH, LENGTH, VOCAB = 2, 10, 96


@dataclass(frozen=True)
class Architecture:
    """A model class, its tiny configuration, its inputs; ``fused``: does the class have a fused attention path that its
    eager one must equal? Some classes have one only in later releases of transformers.
    """

    name: str
    model: str
    config: str
    settings: dict[str, Any]
    inputs: Callable[[], dict[str, Tensor]]
    fused: bool = True
    build_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fused", self.fused and getattr(transformers, self.model)._supports_sdpa)

    def build(self, attention: str = "eager", dtype: torch.dtype = torch.float32) -> nn.Module:
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.settings)
        model = getattr(transformers, self.model)._from_config(
            config, attn_implementation=attention, **self.build_options
        )
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if p.dim() <= 1 or "relative" in name:
                    p.add_(0.2 * torch.randn(p.shape, generator=generator))
        return model.to(dtype).eval()


def draw_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(5, VOCAB - 6, shape, generator=torch.Generator().manual_seed(seed))


def draw_floats(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def text() -> dict[str, Tensor]:
    return {"input_ids": draw_ids(BATCH, LENGTH), "attention_mask": torch.ones(BATCH, LENGTH, dtype=torch.int64)}


def two_texts() -> dict[str, Tensor]:
    return {**text(), "decoder_input_ids": draw_ids(BATCH, 6, seed=3)}


def image() -> dict[str, Tensor]:
    return {"pixel_values": draw_floats(BATCH, 3, 32, 32)}


SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ENCODER = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
    num_labels=3,
    **SPECIAL,
)
DECODER = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
    head_dim=8,
    **SPECIAL,
)
GPT = dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, **SPECIAL)


def without(settings: dict[str, Any], *names: str, **changes: Any) -> dict[str, Any]:
    return {**{k: v for k, v in settings.items() if k not in names}, **changes}


TOWER = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)

ARCHITECTURES = [
    Architecture("bert", "BertForSequenceClassification", "BertConfig", ENCODER, text),
    Architecture("roberta", "RobertaForSequenceClassification", "RobertaConfig", ENCODER, text),
    Architecture(
        "distilbert",
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        dict(
            vocab_size=VOCAB,
            dim=32,
            n_layers=2,
            n_heads=4,
            hidden_dim=48,
            max_position_embeddings=64,
            num_labels=3,
            pad_token_id=0,
        ),
        text,
    ),
    Architecture(
        "modernbert",
        "ModernBertForSequenceClassification",
        "ModernBertConfig",
        without(ENCODER, num_hidden_layers=3, local_attention=6, cls_token_id=1, sep_token_id=2),
        text,
    ),
    Architecture(
        "deberta_v2",
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        dict(
            **without(ENCODER),
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            position_buckets=8,
            type_vocab_size=0,
        ),
        text,
        fused=False,
    ),
    Architecture("gpt2", "GPT2LMHeadModel", "GPT2Config", GPT, text),
    Architecture(
        "gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", without(DECODER, "num_key_value_heads", "head_dim"), text
    ),
    Architecture("gptj", "GPTJForCausalLM", "GPTJConfig", without(GPT, rotary_dim=4), text, fused=False),
    Architecture(
        "opt",
        "OPTForCausalLM",
        "OPTConfig",
        dict(
            vocab_size=VOCAB,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=48,
            max_position_embeddings=64,
            word_embed_proj_dim=32,
            **SPECIAL,
        ),
        text,
    ),
    Architecture(
        "bloom",
        "BloomForCausalLM",
        "BloomConfig",
        dict(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4, **SPECIAL),
        text,
        fused=False,
    ),
    Architecture("llama", "LlamaForCausalLM", "LlamaConfig", DECODER, text),
    Architecture("mistral", "MistralForCausalLM", "MistralConfig", without(DECODER, sliding_window=6), text),
    Architecture("qwen3", "Qwen3ForCausalLM", "Qwen3Config", DECODER, text),
    Architecture(
        "gemma2",
        "Gemma2ForCausalLM",
        "Gemma2Config",
        without(DECODER, sliding_window=6, query_pre_attn_scalar=8),
        text,
        fused=False,
    ),
    Architecture(
        "gemma3",
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        without(DECODER, sliding_window=6, query_pre_attn_scalar=8),
        text,
    ),
    Architecture("phi", "PhiForCausalLM", "PhiConfig", without(DECODER, "head_dim", num_key_value_heads=4), text),
    Architecture(
        "mixtral",
        "MixtralForCausalLM",
        "MixtralConfig",
        without(DECODER, num_local_experts=4, num_experts_per_tok=2),
        text,
        build_options={"experts_implementation": "batched_mm"},
    ),
    Architecture(
        "t5",
        "T5ForConditionalGeneration",
        "T5Config",
        dict(
            vocab_size=VOCAB,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
            **SPECIAL,
        ),
        two_texts,
    ),
    Architecture(
        "bart",
        "BartForConditionalGeneration",
        "BartConfig",
        dict(
            vocab_size=VOCAB,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_position_embeddings=64,
            decoder_start_token_id=2,
            forced_eos_token_id=2,
            **SPECIAL,
        ),
        two_texts,
    ),
    Architecture(
        "vit", "ViTForImageClassification", "ViTConfig", dict(image_size=32, patch_size=8, num_labels=3, **TOWER), image
    ),
    Architecture(
        "swin",
        "SwinForImageClassification",
        "SwinConfig",
        dict(image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=3),
        image,
    ),
    Architecture(
        "clip",
        "CLIPModel",
        "CLIPConfig",
        dict(
            text_config=dict(vocab_size=VOCAB, max_position_embeddings=32, **TOWER, **SPECIAL),
            vision_config=dict(image_size=32, patch_size=8, **TOWER),
            projection_dim=16,
        ),
        lambda: {**text(), **image()},
    ),
    Architecture(
        "whisper",
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        dict(
            vocab_size=VOCAB,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            num_mel_bins=16,
            max_source_positions=20,
            max_target_positions=32,
            decoder_start_token_id=2,
            suppress_tokens=None,
            begin_suppress_tokens=None,
            **SPECIAL,
        ),
        lambda: {"input_features": draw_floats(BATCH, 16, 40), "decoder_input_ids": draw_ids(BATCH, 6, seed=3)},
    ),
    Architecture(
        "wav2vec2",
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        dict(
            vocab_size=VOCAB,
            conv_dim=[16, 16],
            conv_stride=[5, 4],
            conv_kernel=[10, 4],
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=4,
            **TOWER,
            **SPECIAL,
        ),
        lambda: {"input_values": draw_floats(BATCH, 400)},
    ),
]
BY_NAME = {a.name: a for a in ARCHITECTURES}

#: Close relatives of others in the list: they run with the slow tests.
RELATIVES = frozenset("roberta distilbert mistral qwen3 gpt_neox gptj opt phi gemma2 bart".split())


def cases(names: Iterable[str], slow: Iterable[str] = ()) -> list[Any]:
    """Parameters for tests of these architectures; with the slow tests: relatives, and what ``slow`` names."""
    import pytest

    return [pytest.param(n, marks=pytest.mark.slow) if n in RELATIVES or n in slow else n for n in names]
