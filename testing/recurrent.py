"""Tiny library models with recurrences, and what is to be found in each."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from testing.architectures import SPECIAL, Architecture, text

TINY = dict(vocab_size=96, hidden_size=16, num_hidden_layers=2, **SPECIAL)
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
LINEAR_ATTENTION = dict(
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8
)


def ids(length: int = 8) -> dict[str, Tensor]:
    return {"input_ids": text()["input_ids"][:, :length]}


class Recurrent(NamedTuple):
    """A model, and how many scans, gates and other products remain inside its recurrent blocks ("product.uniform"
    elsewhere is attention's).
    """

    architecture: Architecture
    scans: int
    gates: int
    products: int


def model_of(model: str, settings: dict[str, Any], found: tuple[int, int, int]) -> Recurrent:
    config = model.removesuffix("ForCausalLM") + "Config"
    return Recurrent(Architecture(config.removesuffix("Config").lower(), model, config, settings, ids), *found)


MODELS = {
    "mamba": model_of("MambaForCausalLM", dict(TINY, state_size=4, time_step_rank=3), (2, 2, 0)),
    "mamba2": model_of(
        "Mamba2ForCausalLM", dict(TINY, state_size=4, num_heads=4, head_dim=8, n_groups=2, chunk_size=4), (2, 2, 0)
    ),
    "rwkv": model_of("RwkvForCausalLM", dict(TINY, attention_hidden_size=16, intermediate_size=24), (2, 4, 0)),
    "recurrent_gemma": model_of(
        "RecurrentGemmaForCausalLM",
        {**SMALL, "num_key_value_heads": 1, "lru_width": 32, "block_types": ["recurrent"], "conv1d_width": 3},
        (2, 4, 0),
    ),
    "xlstm": model_of(
        "xLSTMForCausalLM",
        {
            **TINY,
            **dict(hidden_size=32, num_blocks=2, num_heads=4, qk_dim_factor=0.5),
            **dict(chunk_size=16, mode="inference", use_cache=False),
        },
        (2, 4, 0),
    ),
    "jamba": model_of(
        "JambaForCausalLM",
        {
            **SMALL,
            **dict(mamba_d_state=4, mamba_dt_rank=3, attn_layer_offset=1, attn_layer_period=2),
            **dict(expert_layer_offset=1, expert_layer_period=4, num_experts=1),
        },
        (1, 3, 2),
    ),
    "bamba": model_of("BambaForCausalLM", {**SMALL, **SSD, "attn_layer_indices": []}, (2, 4, 0)),
    "granitemoehybrid": model_of(
        "GraniteMoeHybridForCausalLM",
        {
            **SMALL,
            **SSD,
            **dict(layer_types=["mamba", "mamba"], num_local_experts=0, shared_intermediate_size=48),
        },
        (2, 4, 0),
    ),
    "qwen3_next": model_of(
        "Qwen3NextForCausalLM",
        {
            **SMALL,
            **LINEAR_ATTENTION,
            **dict(head_dim=8, layer_types=["linear_attention", "linear_attention"], mlp_only_layers=[0, 1]),
        },
        (2, 4, 0),
    ),
    "lfm2": model_of("Lfm2ForCausalLM", dict(SMALL, layer_types=["conv", "conv"], block_ff_dim=48), (0, 2, 4)),
}
