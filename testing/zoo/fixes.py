"""What the shrinker cannot know: settings of single architectures that belong together (dotted path -> value)."""

from __future__ import annotations

from testing.zoo.shrink import HD, H, V

FIX: dict[str, dict] = {}


def _fix(names, **kw):
    for n in names.split():
        FIX.setdefault(n, {}).update({k.replace("__", "."): v for k, v in kw.items()})


def set_path(d, path, value):
    *parents, last = path.split(".")
    for p in parents:
        d = d.setdefault(p, {})
    if value is _DEL:
        d.pop(last, None)
    else:
        d[last] = value


_DEL = object()
_ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
_fix("deepseek_v2", num_experts_per_tok=2)
_fix("dots1", n_shared_experts=1, n_routed_experts=4, num_experts_per_tok=2)
_fix("falcon_h1", mamba_d_ssm=64)
_fix("granitemoehybrid", layer_types=["linear_attention", "full_attention"])
_fix("hunyuan_v1_dense hunyuan_v1_moe ministral", head_dim=HD)
_fix("hunyuan_vl", text_config__head_dim=HD)
_fix("lfm2_moe", layer_types=["conv", "full_attention"], num_dense_layers=1)
_fix("mamba2", num_heads=8, head_dim=16, n_groups=2)
_fix("nemotron", num_key_value_heads=2)
_fix(
    "reformer",
    axial_pos_embds=False,
    local_attn_chunk_length=4,
    lsh_attn_chunk_length=4,
    num_buckets=2,
    attn_layers=["local", "lsh"],
    hash_seed=0,
)
_fix("xlstm", embedding_dim=H, num_blocks=2)
_fix("xmod", default_language="en_XX")
_fix(
    "zamba",
    num_hidden_layers=4,
    layers_block_type=["linear_attention", "hybrid"] * 2,
    attention_hidden_size=2 * H,
    attention_head_dim=32,
    use_mamba_kernels=False,
)
_fix(
    "zamba2",
    num_hidden_layers=4,
    layers_block_type=["linear_attention", "hybrid"] * 2,
    attention_hidden_size=2 * H,
    attention_head_dim=32,
    n_mamba_heads=8,
    mamba_headdim=16,
    kv_channels=16,
    num_mem_blocks=1,
    use_mamba_kernels=False,
)
_fix("esm", vocab_size=V, pad_token_id=0, mask_token_id=4)
_fix("esmc", vocab_size=V)
_fix("bit", num_groups=4)
_fix("efficientnet", hidden_dim=_DEL)
_fix("hgnet_v2 textnet", hidden_sizes=_DEL)
_fix("blip-2 instructblip instructblipvideo", image_token_index=100, video_token_index=100)
_fix("dbrx", attn_config__rope_theta=10000.0, attn_config__clip_qkv=8.0, ffn_config__moe_top_k=2)
_fix("swin donut-swin swinv2", image_size=128)
_fix("dots3_note", adapter_input_size=H)
_fix("ernie4_5_vl_moe", text_config__rope_parameters={**_ROPE, "mrope_section": [3, 3, 2]})
_fix("nemotron_h_omni", vision_config__video_temporal_patch_size=2)
_fix(
    "qwen4_exp_text",
    indexer_n_heads=2,
    indexer_kv_heads=1,
    indexer_head_dim=16,
    indexer_budget=8,
    indexer_compress_ratio=4,
)
_fix(
    "qwen4_exp",
    **{
        "text_config__" + k: v
        for k, v in dict(
            indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=16, indexer_budget=8, indexer_compress_ratio=4
        ).items()
    },
)
_fix("deepseek_ocr2", text_config__mlp_layer_types=["dense", "sparse"])
_fix("chameleon", vocabulary_map={"<image>": 101})
_fix(
    "cohere_compass_text",
    rope_parameters={"full_attention": _ROPE, "sliding_attention": _ROPE},
    layer_types=["sliding_attention", "full_attention"],
)
_fix(
    "cohere_compass",
    text_config__rope_parameters={"full_attention": _ROPE, "sliding_attention": _ROPE},
    text_config__layer_types=["sliding_attention", "full_attention"],
)
_fix("glm5_next", text_config__index_kpool=4, text_config__index_topk=8)
