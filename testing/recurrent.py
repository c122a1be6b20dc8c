"""Tiny library models with recurrences, and what is to be found in each."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from testing.architectures import SPECIAL, Architecture, text

SMALL = dict(
    vocab_size=96,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    use_cache=False,
    **SPECIAL,
)
SSD = dict(
    mamba_d_state=8,
    mamba_n_heads=8,
    mamba_d_head=8,
    mamba_expand=2,
    mamba_chunk_size=4,
    mamba_n_groups=1,
    mamba_d_conv=3,
)


def ids(length: int = 8) -> dict[str, Tensor]:
    return {"input_ids": text()["input_ids"][:, :length]}


def model_of(name: str, config: str, settings: dict[str, Any], **build_options: Any) -> Architecture:
    return Architecture(config.removesuffix("Config").lower(), name, config, settings, ids, build_options=build_options)


#: Model, number of scans, gates and other products that remain inside its recurrent blocks ("product.uniform" elsewhere
#: is attention's).
MODELS = {
    "mamba": (model_of("MambaForCausalLM", "MambaConfig", dict(vocab_size=96, hidden_size=16, state_size=4, num_hidden_layers=2, time_step_rank=3, **SPECIAL)), 2, 2, 0),
    "mamba2": (model_of("Mamba2ForCausalLM", "Mamba2Config", dict(vocab_size=96, hidden_size=16, state_size=4, num_heads=4, head_dim=8, n_groups=2, chunk_size=4, num_hidden_layers=2, **SPECIAL)), 2, 2, 0),
    "rwkv": (model_of("RwkvForCausalLM", "RwkvConfig", dict(vocab_size=96, hidden_size=16, attention_hidden_size=16, intermediate_size=24, num_hidden_layers=2, **SPECIAL)), 2, 4, 0),
    "recurrent_gemma": (
        model_of("RecurrentGemmaForCausalLM", "RecurrentGemmaConfig", dict(**{**SMALL, "num_key_value_heads": 1}, lru_width=32, block_types=["recurrent"], conv1d_width=3)), 2, 4, 0),
    "xlstm": (model_of("xLSTMForCausalLM", "xLSTMConfig", dict(vocab_size=96, hidden_size=32, num_hidden_layers=2, num_blocks=2, num_heads=4, qk_dim_factor=0.5, chunk_size=16, mode="inference", use_cache=False, **SPECIAL)), 2, 4, 0),
    "jamba": (
        model_of("JambaForCausalLM", "JambaConfig", dict(**SMALL, mamba_d_state=4, mamba_dt_rank=3, attn_layer_offset=1, attn_layer_period=2, expert_layer_offset=1, expert_layer_period=4, num_experts=1)), 1, 3, 2),
    "bamba": (model_of("BambaForCausalLM", "BambaConfig", dict(**SMALL, **SSD, attn_layer_indices=[])), 2, 4, 0),
    "granitemoehybrid": (
        model_of("GraniteMoeHybridForCausalLM", "GraniteMoeHybridConfig", dict(**SMALL, **SSD, layer_types=["mamba", "mamba"], num_local_experts=0, shared_intermediate_size=48)), 2, 4, 0),
    "qwen3_next": (
        model_of("Qwen3NextForCausalLM", "Qwen3NextConfig", dict(**SMALL, head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8,
                 layer_types=["linear_attention", "linear_attention"], mlp_only_layers=[0, 1])), 2, 4, 0),
    "lfm2": (model_of("Lfm2ForCausalLM", "Lfm2Config", dict(**SMALL, layer_types=["conv", "conv"], block_ff_dim=48)), 0, 2, 4),
}  # fmt: skip
