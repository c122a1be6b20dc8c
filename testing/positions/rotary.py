"""Queries and keys turned by an angle."""

from __future__ import annotations

import torch

from testing.architectures import BATCH, BY_NAME, DECODER, ENCODER, LENGTH, draw_floats, image, text, without
from testing.positions.kind import COMPLEX, HALVES, NEIGHBOURS, Kind, some
from testing.positions.library import CONFORMED, DEEPSEEK, LONG, PATCHES, PHI3, QWEN_VL, hf, llama, llama4
from testing.positions.small import (
    Small,
    complex_numbers,
    half_split,
    interleaved,
    longer,
    rotary,
    rows_and_columns,
    xpos,
)

KINDS = [
    Kind("rotary, half-split", "Llama", BY_NAME["llama"], *HALVES, slow=True),
    Kind(
        "rotary, positions given",
        "Llama",
        BY_NAME["llama"],
        *HALVES,
        tokens=lambda: {**text(), "position_ids": torch.arange(LENGTH).expand(BATCH, -1).contiguous()},
        slow=True,
    ),
    Kind("rotary, half-split, by hand", "hand-written", rotary(half_split), *HALVES),
    Kind("rotary, interleaved, from a table", "GPT-J", BY_NAME["gptj"], *NEIGHBOURS, slow=True),
    Kind(
        "rotary, interleaved",
        "Cohere",
        hf("CohereForCausalLM", without(DECODER, "head_dim", logit_scale=1.0)),
        *NEIGHBOURS,
        slow=True,
    ),
    Kind("rotary, interleaved and partial", "GLM", hf("GlmForCausalLM", DECODER), *NEIGHBOURS, slow=True),
    Kind("rotary, sinusoidal table", "RoFormer", hf("RoFormerForSequenceClassification", ENCODER), *NEIGHBOURS),
    Kind("rotary, complex numbers", "Llama-4", llama4([1, 1]), *COMPLEX, slow=True),
    Kind(
        "rotary, complex numbers, a part of the head",
        "DeepSeek-V2",
        hf("DeepseekV2ForCausalLM", DEEPSEEK),
        *COMPLEX,
        slow=True,
    ),
    Kind("rotary, complex numbers, by hand", "hand-written", rotary(complex_numbers), *COMPLEX),
    Kind(
        "rotary, four products, joined by cat",
        "GPT-OSS",
        hf(
            "GptOssForCausalLM",
            without(DECODER, num_local_experts=4, num_experts_per_tok=2, sliding_window=6),
            experts_implementation="batched_mm",
        ),
        *HALVES,
        learned=2,
        slow=True,
    ),
    Kind("rotary, four products, joined by stack", "hand-written", rotary(interleaved), *NEIGHBOURS),
    Kind("rotary, partial", "GPT-NeoX", BY_NAME["gpt_neox"], *HALVES, slow=True),
    Kind("rotary, partial", "Phi", BY_NAME["phi"], *HALVES, slow=True),
    Kind(
        "rotary, of hidden states",
        "Wav2Vec2-Conformer",
        hf("Wav2Vec2ConformerForCTC", {**CONFORMED, "position_embeddings_type": "rotary"}, BY_NAME["wav2vec2"].inputs),
        *HALVES,
        slow=True,
    ),
    Kind("rotary, linear scaling", "Llama", llama(rope_type="linear", factor=4.0), *HALVES, slow=True),
    Kind(
        "rotary, dynamic NTK",
        "Llama",
        hf(
            "LlamaForCausalLM",
            {
                **DECODER,
                "max_position_embeddings": 8,
                "rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0},
            },
        ),
        *HALVES,
    ),
    Kind("rotary, dynamic NTK, by hand", "hand-written", rotary(half_split, longer), *HALVES),
    Kind(
        "rotary, YaRN",
        "Llama",
        llama(rope_type="yarn", factor=8.0, original_max_position_embeddings=8),
        *HALVES,
        slow=True,
    ),
    Kind(
        "rotary, Llama 3",
        "Llama",
        llama(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=8,
        ),
        *HALVES,
        slow=True,
    ),
    Kind("rotary, LongRoPE", "Phi-3", hf("Phi3ForCausalLM", {**PHI3, "rope_parameters": LONG}), *HALVES, slow=True),
    Kind("rotary, xPos", "hand-written", lambda: Small(turn=xpos), *HALVES),
    Kind("rotary, several sections", "Qwen2-VL", hf("Qwen2VLForConditionalGeneration", QWEN_VL), *HALVES, slow=True),
    Kind(
        "rotary, two-dimensional",
        "DINOv3",
        hf("DINOv3ViTModel", {**without(PATCHES, "num_labels"), "num_register_tokens": 2}, image),
        *HALVES,
        learned=2,
        options={"output": "pooler_output"},
    ),
    Kind(
        "rotary, two-dimensional, images packed",
        "Pixtral",
        hf("PixtralVisionModel", without(PATCHES, "num_labels"), image, "PixtralVisionConfig"),
        *HALVES,
        tokens=lambda: {"pixel_values": draw_floats(1, 3, 32, 32)},
        options={"dynamic": False},
        target=some,
    ),
    Kind("rotary, two-dimensional, by hand", "hand-written", rotary(rows_and_columns), *NEIGHBOURS),
    Kind("rotary, other frequencies per layer", "Gemma-3", BY_NAME["gemma3"], *HALVES, slow=True),
    Kind("rotary, other frequencies per layer", "ModernBERT", BY_NAME["modernbert"], *HALVES, slow=True),
]
