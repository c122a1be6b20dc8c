"""Models of transformers: their classes, settings and inputs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from testing.architectures import (
    BATCH,
    BY_NAME,
    DECODER,
    ENCODER,
    LENGTH,
    SPECIAL,
    TOWER,
    VOCAB,
    Architecture,
    draw_floats,
    image,
    text,
    without,
)


def hf(
    model: str,
    settings: dict[str, Any],
    inputs: Callable[[], dict[str, Tensor]] = text,
    config: str = "",
    **build_options: Any,
) -> Architecture:
    stem = re.sub(r"For[A-Z].*|(MT)?Model$", "", model)
    return Architecture(model, model, config or f"{stem}Config", settings, inputs, build_options=build_options)


def llama(**rope: Any) -> Architecture:
    return hf("LlamaForCausalLM", {**DECODER, "rope_parameters": {"rope_theta": 100.0, **rope}})


def llama4(layers: list[int]) -> Architecture:
    settings = without(
        DECODER,
        intermediate_size_mlp=48,
        moe_layers=[],
        num_local_experts=2,
        no_rope_layers=layers,
        floor_scale=3,
        attn_scale=0.3,
        attention_chunk_size=16,
    )
    return hf("Llama4ForCausalLM", settings, config="Llama4TextConfig")


def masked_image() -> dict[str, Tensor]:
    return {**image(), "bool_masked_pos": torch.arange(BATCH * 16).reshape(BATCH, 16) % 3 == 0}


def boxes() -> dict[str, Tensor]:
    corner = torch.randint(0, 20, (BATCH, LENGTH, 2), generator=torch.Generator().manual_seed(4))
    return {**text(), "bbox": torch.cat([corner, corner + 9], -1)}


def sound() -> dict[str, Tensor]:
    return {"input_features": draw_floats(BATCH, 24, 16)}


BART, T5, SWIN, WAVE = (BY_NAME[n].settings for n in ("bart", "t5", "swin", "wav2vec2"))
PATCHES = dict(image_size=32, patch_size=8, num_labels=3, **TOWER)
WHISPER = without(
    BY_NAME["whisper"].settings,
    "decoder_start_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    classifier_proj_size=16,
    num_labels=3,
)
SPEECH = without(
    BART,
    "max_position_embeddings",
    "forced_eos_token_id",
    max_source_positions=64,
    max_target_positions=32,
    input_feat_per_channel=16,
    conv_channels=16,
    conv_kernel_sizes=(3, 3),
)
CONFORMER = dict(vocab_size=VOCAB, conv_depthwise_kernel_size=3, max_source_positions=64, **TOWER, **SPECIAL)
CONFORMED = {**WAVE, **CONFORMER}
PHI3 = without(DECODER, "head_dim", original_max_position_embeddings=8)
LONG = dict(rope_type="longrope", rope_theta=100.0, short_factor=[1.0] * 4, long_factor=[1.0, 1.5, 2.0, 4.0])
LAYOUT = without(
    ENCODER,
    max_2d_position_embeddings=64,
    coordinate_size=6,
    shape_size=4,
    rel_pos_bins=8,
    max_rel_pos=16,
    rel_2d_pos_bins=8,
    max_rel_2d_pos=16,
    visual_embed=False,
)
DEEPSEEK = without(
    DECODER,
    "head_dim",
    first_k_dense_replace=2,
    kv_lora_rank=16,
    q_lora_rank=None,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=8,
    num_key_value_heads=4,
    n_routed_experts=4,
    num_experts_per_tok=2,
)
QWEN_VL = dict(
    text_config=without(
        DECODER, "head_dim", rope_parameters={"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]}
    ),
    vision_config=dict(depth=1, embed_dim=16, num_heads=2, hidden_size=32, patch_size=4),
)
SAM = dict(
    image_size=32,
    patch_size=8,
    output_channels=8,
    window_size=0,
    global_attn_indexes=[0, 1],
    mlp_dim=48,
    initializer_range=0.2,
    **without(TOWER, "intermediate_size"),
)
