"""Shrink a default configuration: every setting whose name is known gets a small value, sub-configurations likewise."""

from __future__ import annotations

import re

from transformers import PreTrainedConfig

V, H, FF, HEADS, HD, LAYERS, POS, IMG, PATCH = 160, 64, 96, 4, 16, 2, 128, 64, 16
B, S = 2, 12
# ------------------------------------------------------------------------------------------------ shrink tables
_T: dict[str, object] = {}


def _t(value, names):
    for n in names.split():
        _T[n] = value


_t(V, "vocab_size t2u_vocab_size char_vocab_size unit_hifi_gan_vocab_size src_vocab_size tgt_vocab_size decoder_vocab_size "
      "mel_vocab_size audio_vocab_size entity_vocab_size vocab_size_per_layer_input encoder_hash_byte_group_vocab "
      "unpadded_vocab_size ngram_vocab_size_base pronunciation_vocab_size shape_vocab_size ")
_t(128, "codebook_size")
_t(H, "hidden_size d_model n_embd embed_dim dim emb_dim word_embed_proj_dim embedding_size text_hidden_size "
      "out_hidden_size output_hidden_size encoder_hidden_size cross_attention_hidden_size backbone_hidden_size "
      "decoder_hidden_size attention_hidden_size lru_width patch_embed_hidden_size image_token_embed_dim output_dim "
      "hidden_dim projection_dim projection_size classifier_proj_size projector_hidden_size adapter_out_dim "
      "image_text_hidden_size hidden_size_global d_latents input_embedding_size output_embedding_size "
      "output_proj_dim vision_output_dim audio_hidden_size vision_hidden_size projection_hidden_dim "
      "projection_hidden_size share_expert_dim pooler_hidden_size pooler_output_size "
      "dim_model_base entity_emb_size max_bucket_dim unit_embed_dim aligner_dim projector_output_dim "
      "num_pos_feats_x codevector_dim proj_codevector_dim position_embedding_size xvector_output_dim "
      "speech_encoder_hidden_size true_hidden_size d_embed")
_t(FF, "intermediate_size encoder_ffn_dim decoder_ffn_dim d_ff ffn_dim mlp_dim ffn_hidden_size n_inner dff "
       "feed_forward_size dim_ff dense_intermediate_size intermediate_size_mlp speech_encoder_intermediate_size "
       "t2u_encoder_ffn_dim t2u_decoder_ffn_dim alignment_intermediate_size projection_intermediate_size "
       "prediction_head_size d_inner projector_intermediate_size")
_t(32, "moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size expert_ffn_hidden_size "
       "moe_shared_expert_intermediate_size moe_hidden_size hidden_size_per_layer_input index_head_dim "
       "output_channels aspp_out_channels conv_pos_kernel upsample_initial_channel num_codevectors_per_group "
       "auxiliary_channels embedding_dim pronunciation_embed_dim shape_embed_dim laurel_rank_x")
_t(HEADS, "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads "
          "num_encoder_attention_heads num_decoder_attention_heads speech_encoder_attention_heads "
          "t2u_encoder_attention_heads t2u_decoder_attention_heads swa_num_attention_heads conf_num_attention_heads "
          "num_self_attention_heads num_cross_attention_heads linear_num_heads linear_num_value_heads "
          "resampler_n_heads num_sliding_attention_heads resampler_heads num_global_attention_heads")
_t(2, "linear_num_key_heads swa_num_key_value_heads index_n_heads moe_topk moe_top_k num_experts_per_tok num_experts_per_token "
      "moe_k top_k_experts num_global_key_value_heads o_groups heads_per_ngram n_group num_expert_group num_speakers_x")
_t(HD, "head_dim d_kv kv_channels attention_head_size dim_head v_head_dim qk_head_dim kv_lora_rank global_head_dim "
       "linear_key_head_dim linear_value_head_dim linear_head_dim swa_head_dim resampler_head_dim resampler_dim_head "
       "num_mel_bins d_head mamba_d_head mamba_head_dim swa_v_head_dim o_lora_rank hc_lowrank attention_head_dim_x laurel_rank "
       "num_conv_pos_embeddings input_feat_size chunk_size mamba_chunk_size classifier_hidden ple_embed_dim n_mel_bins "
       "conv_pos_kernel_size conv_depthwise_kernel_size_x")
_t(8, "qk_rope_head_dim qk_nope_head_dim mamba_d_state ssm_state_size state_size sliding_window sliding_window_size "
      "attention_window_size_x mamba_num_heads mamba_n_heads resampler_n_latents num_latents resampler_num_latents "
      "num_query_tokens index_topk rotary_dim attention_chunk_size local_attention d_rel window_size_x latent_query_num "
      "mm_tokens_per_image keep_window_size attention_window_size pronunciation_x embedding_rank rel_extent num_centroids num_ctc_classes")
_t(24, "q_lora_rank")
_t(4, "num_experts n_routed_experts num_local_experts moe_num_experts time_step_rank mamba_dt_rank num_conv_pos_embedding_groups "
      "zero_expert_num index_block_size num_landmarks segment_means_seq_len n_window_x")
_t(1, "n_shared_experts num_shared_experts moe_num_shared_experts topk_group first_k_dense_replace num_dense_layers "
      "num_nextn_predict_layers resampler_depth num_kv_shared_layers num_hidden_groups inner_group_num "
      "projector_depth mtp_num_layers insert_layer_id moe_layer_start_index max_window_layers num_sparse_encoder_layers num_sparse_decoder_layers "
      "encoder_sparse_step decoder_sparse_step index_topk_blocks_x interleave_moe_layer_step aligner_num_add_layers")
_t(LAYERS, "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers num_encoder_layers depth "
           "layers speech_encoder_layers t2u_encoder_layers t2u_decoder_layers conf_num_hidden_layers cross_attention_frequency "
           "num_global_layers num_self_attends_per_block num_layers_per_stack attn_layer_period expert_layer_period sliding_window_pattern "
           "layer_group_size global_attn_every_n_layers no_rope_layer_interval num_lstm_layers n_layers_per_attn_res_block moe_layer_end_index")
_t(1, "attn_layer_offset expert_layer_offset")
_t(POS, "max_position_embeddings n_positions n_ctx max_target_positions max_source_positions max_seq_len seq_length "
        "model_max_length max_length context_length seq_len max_sequence_length max_encoder_position_embeddings "
        "max_decoder_position_embeddings t2u_max_position_embeddings max_2d_position_embeddings original_max_position_embeddings "
        "local_transformer_stride")
_t(4, "attention_window")
_t(H, "adapter_in_dim adapter_input_size intra_bottleneck_size")
_t(IMG, "image_size img_size crop_size input_size resolution max_image_size")

_TOKEN = re.compile(r"(_token_id|_token_index|_token_ids|_start_id|_end_id|_newline_id|_patch_id|_pad_id|_bos_id|_eos_id|^image_token_ids?)$|"
                    r"^(eos_index|pad_index|bos_index|unk_index|mask_index|lang_id|img_token_id|im_start_id|im_end_id|im_newline_id)$")
_BASIC = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 3, "cls_token_id": 4,
          "decoder_start_token_id": 2, "forced_eos_token_id": 2, "forced_bos_token_id": 1, "unk_token_id": 3,
          "mask_token_id": 4, "pad_index": 0, "eos_index": 2, "bos_index": 1, "unk_index": 3, "mask_index": 4, "lang_id": 0,
          "eod_token_id": 3, "t2u_pad_token_id": 0, "t2u_eos_token_id": 2, "t2u_bos_token_id": 1, "tag_pad_id": 0, "subs_pad_id": 0}
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "depth")


class TokenIds:
    def __init__(self):
        self.m: dict[str, int] = {}

    def __call__(self, name, value):
        if name in _BASIC:
            new = _BASIC[name]
            return new if isinstance(value, int) else ([new] if isinstance(value, list) else value)
        key = re.sub(r"_(index|id|ids|indices)$", "", name).replace("_token", "")
        key = {"img": "image", "image_patch": "image", "im_start": "im_start"}.get(key, key)
        if key not in self.m:
            self.m[key] = 100 + len(self.m)
        if isinstance(value, int):
            return self.m[key]
        if isinstance(value, (list, tuple)) and value and all(isinstance(v, int) for v in value):
            return type(value)(120 + (len(self.m) * 7 + i) % 39 for i in range(len(value)))
        return value


def _rope(p, half):
    """Shrink the per-frequency lists of a rope_parameters dict (mrope sections, longrope factors)."""
    if not isinstance(p, dict):
        return p
    out = {}
    for k, v in p.items():
        if isinstance(v, dict):
            out[k] = _rope(v, half)
        elif k in ("mrope_section", "xdrope_section") and isinstance(v, (list, tuple)):
            h = max(len(v), int(half * p.get("partial_rotary_factor", 1.0)))
            n = len(v)
            sec = [h // n] * n
            for i in range(h - sum(sec)):
                sec[-1 - i % n] += 1
            out[k] = type(v)(sec)
        elif k in ("short_factor", "long_factor") and isinstance(v, (list, tuple)):
            out[k] = [1.0] * half
        elif k == "original_max_position_embeddings":
            out[k] = POS // 2
        else:
            out[k] = v
    return out


def shrink(c: PreTrainedConfig, ids: TokenIds) -> dict:
    d = {k: v for k, v in c.__dict__.items() if not k.startswith("_")}
    out: dict[str, object] = {}
    # --- pick representative layers for per-layer lists (so that every layer kind stays in the tiny model)
    n_name = next((n for n in _LAYER_COUNTS if isinstance(d.get(n), int)), None)
    n0 = d.get(n_name) if n_name else None
    per_layer = {k: v for k, v in d.items() if isinstance(v, (list, tuple)) and n0 and n0 > 2 and len(v) == n0
                 and k not in ("depths", "hidden_sizes", "conv_dim", "conv_stride", "conv_kernel")}
    pick = None
    if "depths" in d:
        per_layer, n_name = {}, None
    if per_layer:
        seen, pick = set(), []
        for i, key in enumerate(zip(*[[str(x) for x in v] for v in per_layer.values()])):
            if key not in seen and len(pick) < 4:
                seen.add(key)
                pick.append(i)
        for i in range(n0 - 1, -1, -1):
            if len(pick) >= 2:
                break
            if i not in pick:
                pick.append(i)
        pick.sort()
    heads0 = next((d[n] for n in ("num_attention_heads", "n_head", "num_heads", "n_heads") if isinstance(d.get(n), int)), None)
    for k, v in d.items():
        if isinstance(v, PreTrainedConfig):
            sub = shrink(v, ids)
            if "model_type" in type(v).__dict__ and v.model_type:
                sub["model_type"] = v.model_type
            out[k] = sub
        elif isinstance(v, bool) or v is None:
            continue
        elif _TOKEN.search(k):
            out[k] = ids(k, v)
        elif k in ("rope_parameters", "rope_scaling") and isinstance(v, dict):
            half = (8 if isinstance(d.get("qk_rope_head_dim"), int) else HD) // 2
            out[k] = _rope(v, half)
        elif k in per_layer:
            nv = [v[i] for i in pick]
            if k in ("mlp_only_layers", "num_attention_heads_per_layer"):
                nv = [HEADS for _ in nv]
            out[k] = type(v)(nv)
        elif k in _LAYER_COUNTS and isinstance(v, int) and k == n_name:
            out[k] = len(pick) if pick else min(v, LAYERS)
        elif k == "num_key_value_heads" or k == "num_kv_heads" or k == "kv_n_heads":
            out[k] = 1 if v == 1 else (HEADS if heads0 == v else 2) if isinstance(v, int) else v
        elif k == "patch_size":
            if isinstance(v, int):
                out[k] = PATCH if v > 8 else v
            elif isinstance(v, (list, tuple)) and all(isinstance(x, int) for x in v):
                out[k] = type(v)(PATCH if x > 8 else x for x in v)
        elif k in ("image_size",) and isinstance(v, (list, tuple)):
            out[k] = type(v)(IMG for _ in v)
        elif k == "window_size" and isinstance(v, int):
            out[k] = 32 if v >= 64 else 4
        elif k == "depths":
            out[k] = type(v)([1] * len(v))
        elif k in ("hidden_sizes", "embed_dims", "encoder_hidden_sizes") and isinstance(v, (list, tuple)):
            out[k] = type(v)(16 * (i + 1) for i in range(len(v)))
        elif k in ("num_heads", "num_attention_heads", "encoder_num_heads") and isinstance(v, (list, tuple)):
            out[k] = type(v)(2 for _ in v)
        elif (k == "conv_dim" and isinstance(v, (list, tuple))) or k == "tdnn_dim":
            out[k] = type(v)(32 for _ in v)
        elif k in ("vision_feature_layer",):
            out[k] = v if isinstance(v, int) and v >= -2 else (-1 if isinstance(v, int) else [-1])
        elif k in ("deepstack_visual_indexes", "fullatt_block_indexes", "global_attn_indexes", "full_attn_idxs", "out_indices"):
            if k != "out_indices":
                out[k] = type(v)([1])
        elif k in ("mlp_only_layers",):
            out[k] = type(v)([0]) if v else v
        elif k in ("id2label", "label2id"):
            continue
        elif k in _T and isinstance(v, int) and not isinstance(v, bool):
            new = _T[k]
            out[k] = new if k in ("num_hidden_layers",) else min(new, v) if v > 0 else v
            if k == "head_dim" and v > 0:
                out[k] = 8 if d.get("qk_rope_head_dim") == v else HD
            if k == "num_layers" and "depths" in d:
                out.pop(k)
    return out
