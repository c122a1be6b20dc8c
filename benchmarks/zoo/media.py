"""Candidate inputs with images and sound beside text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.zoo.draws import draw, draw_ids, find_setting, image_shape
from benchmarks.zoo.shrink import B


def audio_inputs(model: nn.Module, params: Any) -> Iterator[dict[str, Any]]:
    cfg = model.config
    mel = find_setting(cfg, "num_mel_bins", "input_feat_size", "feature_projection_input_dim", "input_dim", "n_mel_bins") or 80
    if "input_values" in params:
        yield {"input_values": draw(B, 2000)}
        yield {"input_values": draw(B, 8000)}
        yield {"input_values": draw(B, find_setting(cfg, "max_length") or 128, mel)}
        yield {"input_values": draw(B, 1, 2000), "padding_mask": torch.ones(B, 2000)}
    if "input_features" in params:
        src = find_setting(cfg, "max_source_positions")
        if isinstance(src, int):
            yield {"input_features": draw(B, mel, 2 * src)}
        for m in dict.fromkeys([mel, 16, 80, 128, 160]):
            yield {"input_features": draw(B, 64, m)}
            yield {"input_features": draw(B, 64, m), "attention_mask": torch.ones(B, 64, dtype=torch.long)}
            yield {"input_features": draw(B, m, 64)}
            yield {"input_features": draw(B, 1, 64, m)}


def audio_text_inputs(model: nn.Module, params: Any) -> Iterator[dict[str, Any]]:
    cfg = model.config
    tok = find_setting(cfg, "audio_token_id", "audio_token_index")
    mel = find_setting(cfg, "num_mel_bins", "input_dim", "feature_size") or 80
    src = find_setting(cfg, "max_source_positions")
    for shape in dict.fromkeys([(1, mel, 2 * src) if isinstance(src, int) else (1, 64, mel), (1, 64, mel), (1, mel, 64), (1, mel, 200)]):
        t = shape[-1] if shape[1] == mel else shape[1]
        for n in (t // 8, t // 4):
            ids = draw_ids(1, 7 + n)
            ids[:, 3:3 + n] = tok
            kw = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "input_features": draw(*shape)}
            for m in ("input_features_mask", "feature_attention_mask"):
                if m in params:
                    kw[m] = torch.ones(1, t, dtype=torch.long)
            yield kw


def image_text_inputs(model: nn.Module, params: Any) -> Iterator[dict[str, Any]]:
    cfg = model.config
    size, ch, p = image_shape(cfg)
    tok = find_setting(cfg, "image_token_id", "image_token_index", "image_patch_id", "media_token_id", "img_token_id")
    P = set(params)

    def text(n, b=1, post=4):
        ids = draw_ids(b, 3 + n + post)
        if tok is not None and n:
            ids[:, 3:3 + n] = tok
        kw = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "decoder_input_ids" in P:
            kw["decoder_input_ids"] = draw_ids(b, 7, seed=3)
        return kw

    if "input_ids" not in P and "decoder_input_ids" in P:
        yield {"pixel_values": draw(1, ch, size, size), "decoder_input_ids": draw_ids(1, 7, seed=3)}
    merge = find_setting(cfg, "spatial_merge_size", "merge_size") or 1
    merge = merge if isinstance(merge, int) else 1
    g = 4 * merge if merge in (1, 2) else 2 * merge
    tp = find_setting(cfg, "temporal_patch_size") or 1
    n_guess = [(size // p) ** 2, (size // p) ** 2 // 4, (size // p) ** 2 + 1, 4, 1, 0]
    extra = {}
    if "image_sizes" in P:
        extra["image_sizes"] = torch.tensor([[size, size]])

    def mmtypes(kw):
        if "mm_token_type_ids" in P and tok is not None:
            kw = {**kw, "mm_token_type_ids": (kw["input_ids"] == tok).long()}
        if "token_type_ids" in P and tok is not None:
            kw = {**kw, "token_type_ids": (kw["input_ids"] == tok).long()}
        return kw

    if "image_grid_thw" in P or "grid_thw" in P:
        gname = "image_grid_thw" if "image_grid_thw" in P else "grid_thw"
        for n in (g * g // (merge * merge), g * g, 4):
            for dim in dict.fromkeys((ch * tp * p * p, ch * p * p)):
                yield mmtypes({**text(n), "pixel_values": draw(g * g, dim), gname: torch.tensor([[1, g, g]])})
            yield mmtypes({**text(n), "pixel_values": draw(g * g, ch, p, p), gname: torch.tensor([[1, g, g]])})
            yield mmtypes({**text(n), "pixel_values": draw(g * g, ch, tp, p, p), gname: torch.tensor([[1, g, g]])})
    if "image_grid_hws" in P:
        yield mmtypes({**text(g * g // 4), "pixel_values": draw(g * g, ch, p, p), "image_grid_hws": torch.tensor([[g, g]])})
    if "spatial_shapes" in P:
        n = (size // p) ** 2
        for k in (n // 4, n, 1):
            yield mmtypes({**text(k), "pixel_values": draw(1, n, ch * p * p), "pixel_attention_mask": torch.ones(1, n, dtype=torch.long),
                   "spatial_shapes": torch.tensor([[size // p, size // p]])})
    if "target_sizes" in P:
        n = (size // p) ** 2
        for k in (n // 4, n, n // 16, 8):
            yield mmtypes({**text(k), "pixel_values": draw(1, ch, p, p * n), "target_sizes": torch.tensor([[size // p, size // p]])})
    if "aspect_ratio_ids" in P:
        t = find_setting(cfg, "max_num_tiles") or 4
        yield {**text(1), "pixel_values": draw(1, 1, t, ch, size, size), "aspect_ratio_ids": torch.ones(1, 1, dtype=torch.long),
               "aspect_ratio_mask": torch.ones(1, 1, t, dtype=torch.long), "cross_attention_mask": torch.ones(1, 8, 1, t, dtype=torch.long)}
    if "image_position_ids" in P or "pixel_position_ids" in P:
        nm = "image_position_ids" if "image_position_ids" in P else "pixel_position_ids"
        k = find_setting(cfg, "pooling_kernel_size") or 1
        side = 6 if k == 3 else 4
        xy = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), -1).reshape(1, -1, 2)
        for n in (side * side // (k * k), side * side):
            yield mmtypes({**text(n), "pixel_values": draw(1, side * side, ch * p * p), nm: xy})
    if "flattened_patches" in P:
        fp = torch.cat([torch.ones(1, 8, 2), draw(1, 8, ch * p * p)], -1)
        yield {"flattened_patches": fp, "attention_mask": torch.ones(1, 8), "decoder_input_ids": draw_ids(1, 7)}
        hid = find_setting(cfg, "patch_embed_hidden_size") or 64
        yield {"flattened_patches": torch.cat([torch.ones(1, 8, 2), draw(1, 8, hid)], -1), "attention_mask": torch.ones(1, 8), "decoder_input_ids": draw_ids(1, 7)}
    if "qformer_input_ids" in P:
        q = find_setting(cfg, "num_query_tokens") or 8
        yield {**text(q), "pixel_values": draw(1, ch, size, size), "qformer_input_ids": draw_ids(1, 5), "qformer_attention_mask": torch.ones(1, 5, dtype=torch.long)}
        yield {**text(q * 2), "pixel_values": draw(1, 2, ch, size, size), "qformer_input_ids": draw_ids(1, 5), "qformer_attention_mask": torch.ones(1, 5, dtype=torch.long)}
    if "image_attention_mask" in P:
        yield {**text(0), "pixel_values": draw(1, 1, ch, size, size), "image_attention_mask": torch.ones(1, 7, 1, dtype=torch.long)}
    if "image_embeds_position_mask" in P:
        q = find_setting(cfg, "latent_query_num") or 8
        yield {**text(q), "pixel_values": draw(1, ch, size, size), "image_embeds_position_mask": torch.cat([torch.zeros(1, 3), torch.ones(1, q), torch.zeros(1, 4)], 1).long()}
    if "image_grid_thw" in P:
        yield mmtypes({**text(16), "pixel_values": draw(1, 64, ch, p, p), "image_grid_thw": torch.tensor([[1, 8, 8]])})
    px = "pixel_values" if "pixel_values" in P else ("pixel_values_images" if "pixel_values_images" in P else "pixel_values")
    for n in n_guess:
        yield mmtypes({**text(n), px: draw(1, ch, size, size), **extra})
        if n == n_guess[0]:
            yield mmtypes({**text(n), px: draw(1, 1, ch, size, size), **extra})
            yield mmtypes({**text(n), px: draw(1, 1, ch, size, size)})
            yield mmtypes({**text(n), px: draw(1, 3, ch, size, size), **extra})
            yield mmtypes({**text(n), px: draw(1, ch, size, size)})
            yield mmtypes({**text(n), px: draw(1, 1, 1, ch, size, size)})
            yield mmtypes({**text(n), px: draw(1, 2, ch, size, size), "image_sizes": torch.tensor([[size, size]]), "batch_num_images": torch.tensor([1])})
            yield {px: draw(1, ch, size, size)}
            yield {**text(0), px: draw(1, ch, size, size), "image_embeds_position_mask": torch.cat([torch.zeros(1, 1), torch.ones(1, 4), torch.zeros(1, 2)], 1)}
    yield {**text(0)}                      # text-only fall-back (recorded by the caller as no pixel input)
