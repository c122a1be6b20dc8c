"""Shrink a default configuration: every setting whose name is known gets a small value, sub-configurations likewise."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

V, H, FF, HEADS, HD, LAYERS, POS, IMG, PATCH = 160, 64, 96, 4, 16, 2, 128, 64, 16
B, S = 2, 12
#: Name of a setting -> its small value.
_SMALL: dict[str, int] = {}


def _small(value: int, names: str) -> None:
    _SMALL.update(dict.fromkeys(names.split(), value))


_small(
    V,
    "vocab_size t2u_vocab_size char_vocab_size unit_hifi_gan_vocab_size src_vocab_size tgt_vocab_size "
    "decoder_vocab_size "
    "mel_vocab_size audio_vocab_size entity_vocab_size vocab_size_per_layer_input encoder_hash_byte_group_vocab "
    "unpadded_vocab_size ngram_vocab_size_base pronunciation_vocab_size shape_vocab_size ",
)
_small(128, "codebook_size")
_small(
    H,
    "hidden_size d_model n_embd embed_dim dim emb_dim word_embed_proj_dim embedding_size text_hidden_size "
    "out_hidden_size output_hidden_size encoder_hidden_size cross_attention_hidden_size backbone_hidden_size "
    "decoder_hidden_size attention_hidden_size lru_width patch_embed_hidden_size image_token_embed_dim output_dim "
    "hidden_dim projection_dim projection_size classifier_proj_size projector_hidden_size adapter_out_dim "
    "image_text_hidden_size hidden_size_global d_latents input_embedding_size output_embedding_size "
    "output_proj_dim vision_output_dim audio_hidden_size vision_hidden_size projection_hidden_dim "
    "projection_hidden_size share_expert_dim pooler_hidden_size pooler_output_size "
    "dim_model_base entity_emb_size max_bucket_dim unit_embed_dim aligner_dim projector_output_dim "
    "num_pos_feats_x codevector_dim proj_codevector_dim position_embedding_size xvector_output_dim "
    "speech_encoder_hidden_size true_hidden_size d_embed",
)
_small(
    FF,
    "intermediate_size encoder_ffn_dim decoder_ffn_dim d_ff ffn_dim mlp_dim ffn_hidden_size n_inner dff "
    "feed_forward_size dim_ff dense_intermediate_size intermediate_size_mlp speech_encoder_intermediate_size "
    "t2u_encoder_ffn_dim t2u_decoder_ffn_dim alignment_intermediate_size projection_intermediate_size "
    "prediction_head_size d_inner projector_intermediate_size",
)
_small(
    32,
    "moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size expert_ffn_hidden_size "
    "moe_shared_expert_intermediate_size moe_hidden_size hidden_size_per_layer_input index_head_dim "
    "output_channels aspp_out_channels conv_pos_kernel upsample_initial_channel num_codevectors_per_group "
    "auxiliary_channels embedding_dim pronunciation_embed_dim shape_embed_dim laurel_rank_x",
)
_small(
    HEADS,
    "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads "
    "num_encoder_attention_heads num_decoder_attention_heads speech_encoder_attention_heads "
    "t2u_encoder_attention_heads t2u_decoder_attention_heads swa_num_attention_heads conf_num_attention_heads "
    "num_self_attention_heads num_cross_attention_heads linear_num_heads linear_num_value_heads "
    "resampler_n_heads num_sliding_attention_heads resampler_heads num_global_attention_heads",
)
_small(
    2,
    "linear_num_key_heads swa_num_key_value_heads index_n_heads moe_topk moe_top_k num_experts_per_tok "
    "num_experts_per_token "
    "moe_k top_k_experts num_global_key_value_heads o_groups heads_per_ngram n_group num_expert_group num_speakers_x",
)
_small(
    HD,
    "head_dim d_kv kv_channels attention_head_size dim_head v_head_dim qk_head_dim kv_lora_rank global_head_dim "
    "linear_key_head_dim linear_value_head_dim linear_head_dim swa_head_dim resampler_head_dim resampler_dim_head "
    "num_mel_bins d_head mamba_d_head mamba_head_dim swa_v_head_dim o_lora_rank hc_lowrank attention_head_dim_x "
    "laurel_rank "
    "num_conv_pos_embeddings input_feat_size chunk_size mamba_chunk_size classifier_hidden ple_embed_dim n_mel_bins "
    "conv_pos_kernel_size conv_depthwise_kernel_size_x",
)
_small(
    8,
    "qk_rope_head_dim qk_nope_head_dim mamba_d_state ssm_state_size state_size sliding_window sliding_window_size "
    "attention_window_size_x mamba_num_heads mamba_n_heads resampler_n_latents num_latents resampler_num_latents "
    "num_query_tokens index_topk rotary_dim attention_chunk_size local_attention d_rel window_size_x latent_query_num "
    "mm_tokens_per_image keep_window_size attention_window_size pronunciation_x embedding_rank rel_extent "
    "num_centroids num_ctc_classes",
)
_small(24, "q_lora_rank")
_small(
    4,
    "num_experts n_routed_experts num_local_experts moe_num_experts time_step_rank mamba_dt_rank "
    "num_conv_pos_embedding_groups "
    "zero_expert_num index_block_size num_landmarks segment_means_seq_len n_window_x",
)
_small(
    1,
    "n_shared_experts num_shared_experts moe_num_shared_experts topk_group first_k_dense_replace num_dense_layers "
    "num_nextn_predict_layers resampler_depth num_kv_shared_layers num_hidden_groups inner_group_num "
    "projector_depth mtp_num_layers insert_layer_id moe_layer_start_index max_window_layers num_sparse_encoder_layers "
    "num_sparse_decoder_layers "
    "encoder_sparse_step decoder_sparse_step index_topk_blocks_x interleave_moe_layer_step aligner_num_add_layers",
)
_small(
    LAYERS,
    "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers "
    "num_encoder_layers depth "
    "layers speech_encoder_layers t2u_encoder_layers t2u_decoder_layers conf_num_hidden_layers "
    "cross_attention_frequency "
    "num_global_layers num_self_attends_per_block num_layers_per_stack attn_layer_period expert_layer_period "
    "sliding_window_pattern "
    "layer_group_size global_attn_every_n_layers no_rope_layer_interval num_lstm_layers n_layers_per_attn_res_block "
    "moe_layer_end_index",
)
_small(1, "attn_layer_offset expert_layer_offset")
_small(
    POS,
    "max_position_embeddings n_positions n_ctx max_target_positions max_source_positions max_seq_len seq_length "
    "model_max_length max_length context_length seq_len max_sequence_length max_encoder_position_embeddings "
    "max_decoder_position_embeddings t2u_max_position_embeddings max_2d_position_embeddings "
    "original_max_position_embeddings "
    "local_transformer_stride",
)
_small(4, "attention_window")
_small(3, "default_num_lookahead_tokens")
_small(H, "adapter_in_dim adapter_input_size intra_bottleneck_size")
_small(IMG, "image_size img_size crop_size input_size resolution max_image_size")

_TOKEN = re.compile(
    r"(_token_id|_token_index|_token_ids|_start_id|_end_id|_newline_id|_patch_id|_pad_id|_bos_id|_eos_id|^image_token_ids?)$|"
    r"^(eos_index|pad_index|bos_index|unk_index|mask_index|lang_id|img_token_id|im_start_id|im_end_id|im_newline_id)$"
)
_BASIC = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 3,
    "cls_token_id": 4,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
    "forced_bos_token_id": 1,
    "unk_token_id": 3,
    "mask_token_id": 4,
    "pad_index": 0,
    "eos_index": 2,
    "bos_index": 1,
    "unk_index": 3,
    "mask_index": 4,
    "lang_id": 0,
    "eod_token_id": 3,
    "t2u_pad_token_id": 0,
    "t2u_eos_token_id": 2,
    "t2u_bos_token_id": 1,
    "tag_pad_id": 0,
    "subs_pad_id": 0,
}
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "depth")
#: Lists that are as long as there are stages, not layers.
_NOT_PER_LAYER = ("depths", "hidden_sizes", "conv_dim", "conv_stride", "conv_kernel")
#: A setting that keeps its default.
KEEP: Any = object()


class TokenIds:
    """Special tokens with small numbers; the same token has the same number in all sub-configurations."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, name: str, value: Any) -> Any:
        if name in _BASIC:
            return _BASIC[name] if isinstance(value, int) else ([_BASIC[name]] if isinstance(value, list) else value)
        key = re.sub(r"_(index|id|ids|indices)$", "", name).replace("_token", "")
        key = {"img": "image", "image_patch": "image"}.get(key, key)
        self.numbers.setdefault(key, 100 + len(self.numbers))
        if isinstance(value, int):
            return self.numbers[key]
        if isinstance(value, (list, tuple)) and value and all(isinstance(v, int) for v in value):
            return type(value)(120 + (len(self.numbers) * 7 + i) % 39 for i in range(len(value)))
        return value


@dataclass(frozen=True)
class _Layers:
    """``counted_by``: the setting that counts the layers; ``kept``: layers of the tiny model, every kind at least
    once.
    """

    counted_by: str | None
    lists: frozenset[str]
    kept: tuple[int, ...]


def _layers(settings: dict[str, Any]) -> _Layers:
    counted_by = next((n for n in _LAYER_COUNTS if isinstance(settings.get(n), int)), None)
    count = settings[counted_by] if counted_by else 0
    if "depths" in settings:
        return _Layers(None, frozenset(), ())
    lists = {
        k: v
        for k, v in settings.items()
        if isinstance(v, (list, tuple)) and count > 2 and len(v) == count and k not in _NOT_PER_LAYER
    }
    kept: list[int] = []
    seen: set[Any] = set()
    for i, kind in enumerate(zip(*[[str(x) for x in v] for v in lists.values()], strict=True)):
        if kind not in seen and len(kept) < 4:
            seen.add(kind)
            kept.append(i)
    for i in range(count - 1, -1, -1) if lists else ():
        if len(kept) < 2 and i not in kept:
            kept.append(i)
    return _Layers(counted_by, frozenset(lists), tuple(sorted(kept)))


def shrink(config: PreTrainedConfig, ids: TokenIds) -> dict[str, Any]:
    """Settings of a tiny model of the same kind."""
    settings = {k: v for k, v in config.__dict__.items() if not k.startswith("_")}
    layers = _layers(settings)
    return {
        name: new
        for name, value in settings.items()
        if (new := _shrunk(name, value, settings, layers, ids)) is not KEEP
    }


def _shrunk(name: str, value: Any, settings: dict[str, Any], layers: _Layers, ids: TokenIds) -> Any:
    """The small value of one setting, `KEEP` for its default."""
    if isinstance(value, PreTrainedConfig):
        named = "model_type" in type(value).__dict__ and value.model_type
        return {**shrink(value, ids), **({"model_type": value.model_type} if named else {})}
    if isinstance(value, bool) or value is None:
        return KEEP
    if _TOKEN.search(name):
        return ids(name, value)
    if name in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
        return _rope(value, (8 if isinstance(settings.get("qk_rope_head_dim"), int) else HD) // 2)
    if name in layers.lists:
        kept = [value[i] for i in layers.kept]
        return type(value)(
            [HEADS] * len(kept) if name in ("mlp_only_layers", "num_attention_heads_per_layer") else kept
        )
    if name == layers.counted_by:
        return len(layers.kept) if layers.kept else min(value, LAYERS)
    if name in ("num_key_value_heads", "num_kv_heads", "kv_n_heads"):
        return _key_value_heads(value, settings)
    if name in _BY_NAME and (new := _BY_NAME[name](value)) is not None:
        return new
    if name in _STOP:
        return KEEP
    return _number(name, value, settings)


def _key_value_heads(value: Any, settings: dict[str, Any]) -> Any:
    heads = next(
        (
            settings[n]
            for n in ("num_attention_heads", "n_head", "num_heads", "n_heads")
            if isinstance(settings.get(n), int)
        ),
        None,
    )
    if not isinstance(value, int):
        return value
    return 1 if value == 1 else HEADS if heads == value else 2


def _number(name: str, value: Any, settings: dict[str, Any]) -> Any:
    if name not in _SMALL or not isinstance(value, int) or (name == "num_layers" and "depths" in settings):
        return KEEP
    if name == "head_dim" and value > 0:
        return 8 if settings.get("qk_rope_head_dim") == value else HD
    small = _SMALL[name]
    return small if name == "num_hidden_layers" else min(small, value) if value > 0 else value


def _each(change: Callable[[int, Any], Any]) -> Callable[[Any], Any]:
    """Change every element of a list; anything else is not for this rule."""
    return lambda value: (
        type(value)(change(i, v) for i, v in enumerate(value)) if isinstance(value, (list, tuple)) else None
    )


def _patch(value: Any) -> Any:
    if isinstance(value, int):
        return PATCH if value > 8 else value
    return (
        type(value)(PATCH if x > 8 else x for x in value)
        if isinstance(value, (list, tuple)) and all(isinstance(x, int) for x in value)
        else None
    )


def _feature_layer(value: Any) -> Any:
    return value if isinstance(value, int) and value >= -2 else -1 if isinstance(value, int) else [-1]


#: Name of a setting -> its small value as a function of its default; None: by the table of numbers after all.
_BY_NAME: dict[str, Callable[[Any], Any]] = {
    "patch_size": _patch,
    "image_size": _each(lambda i, v: IMG),
    "window_size": lambda value: (32 if value >= 64 else 4) if isinstance(value, int) else None,
    "depths": lambda value: type(value)([1] * len(value)),
    **dict.fromkeys(("hidden_sizes", "embed_dims", "encoder_hidden_sizes"), _each(lambda i, v: 16 * (i + 1))),
    **dict.fromkeys(("num_heads", "num_attention_heads", "encoder_num_heads"), _each(lambda i, v: 2)),
    **dict.fromkeys(("conv_dim", "tdnn_dim"), _each(lambda i, v: 32)),
    "vision_feature_layer": _feature_layer,
    **dict.fromkeys(
        ("deepstack_visual_indexes", "fullatt_block_indexes", "global_attn_indexes", "full_attn_idxs"),
        lambda value: type(value)([1]),
    ),
    "mlp_only_layers": lambda value: type(value)([0]) if value else value,
}
_STOP = ("out_indices", "id2label", "label2id")


def _rope(parameters: dict[str, Any], half: int) -> dict[str, Any]:
    """Rotary settings with lists of one number for each frequency cut to ``half`` of them."""
    return {
        k: _rope(v, half) if isinstance(v, dict) else _rope_value(k, v, parameters, half) for k, v in parameters.items()
    }


def _rope_value(name: str, value: Any, parameters: dict[str, Any], half: int) -> Any:
    if name in ("mrope_section", "xdrope_section") and isinstance(value, (list, tuple)):
        count = len(value)
        total = max(count, int(half * parameters.get("partial_rotary_factor", 1.0)))
        return type(value)(total // count + (i >= count - total % count) for i in range(count))
    if name in ("short_factor", "long_factor") and isinstance(value, (list, tuple)):
        return [1.0] * half
    return POS // 2 if name == "original_max_position_embeddings" else value
