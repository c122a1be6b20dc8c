"""Candidate inputs with images and sound beside text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from testing.zoo.draws import draw, draw_ids, find_setting, image_shape
from testing.zoo.shrink import B

Candidate = dict[str, Any]


def audio_inputs(model: nn.Module, params: Any) -> Iterator[dict[str, Any]]:
    cfg = model.config
    mel = (
        find_setting(cfg, "num_mel_bins", "input_feat_size", "feature_projection_input_dim", "input_dim", "n_mel_bins")
        or 80
    )
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
    for shape in dict.fromkeys(
        [(1, mel, 2 * src) if isinstance(src, int) else (1, 64, mel), (1, 64, mel), (1, mel, 64), (1, mel, 200)]
    ):
        t = shape[-1] if shape[1] == mel else shape[1]
        for n in (t // 8, t // 4):
            ids = draw_ids(1, 7 + n)
            ids[:, 3 : 3 + n] = tok
            kw = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "input_features": draw(*shape)}
            for m in ("input_features_mask", "feature_attention_mask"):
                if m in params:
                    kw[m] = torch.ones(1, t, dtype=torch.long)
            yield kw


def image_text_inputs(model: nn.Module, params: Any) -> Iterator[Candidate]:
    """Text with an image in each of the layouts that models take images in; text alone comes last."""
    layouts = _Layouts(model.config, set(params))
    if {"decoder_input_ids"} <= layouts.names and "input_ids" not in layouts.names:
        yield {"pixel_values": layouts.image(), "decoder_input_ids": draw_ids(1, 7, seed=3)}
    for argument, layout in (
        ("image_grid_thw", layouts.grids),
        ("grid_thw", layouts.grids),
        ("image_grid_hws", layouts.plane_grid),
        ("spatial_shapes", layouts.sequences),
        ("target_sizes", layouts.strips),
        ("aspect_ratio_ids", layouts.tiles),
        ("image_position_ids", layouts.placed),
        ("pixel_position_ids", layouts.placed),
        ("flattened_patches", layouts.flattened),
        ("qformer_input_ids", layouts.queries),
        ("image_attention_mask", layouts.attended),
        ("image_embeds_position_mask", layouts.marked),
        ("image_grid_thw", layouts.large_grid),
    ):
        if argument in layouts.names:
            yield from layout(argument)
    yield from layouts.plain()
    yield layouts.text(0)


class _Layouts:
    """Ways to give an image beside text; ``names``: what the model's forward takes."""

    def __init__(self, config: PreTrainedConfig, names: set[str]) -> None:
        self.config, self.names = config, names
        self.size, self.channels, self.patch = image_shape(config)
        self.token = find_setting(
            config, "image_token_id", "image_token_index", "image_patch_id", "media_token_id", "img_token_id"
        )
        self.patches = (self.size // self.patch) ** 2
        merge = find_setting(config, "spatial_merge_size", "merge_size") or 1
        self.merge = merge if isinstance(merge, int) else 1
        self.side = 4 * self.merge if self.merge in (1, 2) else 2 * self.merge  # of a grid of patches

    def image(self, *leading: int) -> Tensor:
        return draw(*(leading or (1,)), self.channels, self.size, self.size)

    def text(self, placeholders: int) -> Candidate:
        """Words around placeholders for an image."""
        ids = draw_ids(1, 7 + placeholders)
        if self.token is not None and placeholders:
            ids[:, 3 : 3 + placeholders] = self.token
        decoder = {"decoder_input_ids": draw_ids(1, 7, seed=3)} if "decoder_input_ids" in self.names else {}
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **decoder}

    def with_text(self, placeholders: int, **images: Any) -> Candidate:
        """The same with images, and the kind of each token where the model asks for it."""
        candidate = {**self.text(placeholders), **images}
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in self.names and self.token is not None:
                candidate[name] = (candidate["input_ids"] == self.token).long()
        return candidate

    # ------------------------------------------------------------------------------------------------ patches in one
    # list
    def grids(self, argument: str) -> Iterator[Candidate]:
        if argument == "grid_thw" and "image_grid_thw" in self.names:
            return
        frames, g, p, ch = find_setting(self.config, "temporal_patch_size") or 1, self.side, self.patch, self.channels
        grid = {argument: torch.tensor([[1, g, g]])}
        for n in (g * g // (self.merge * self.merge), g * g, 4):
            for width in dict.fromkeys((ch * frames * p * p, ch * p * p)):
                yield self.with_text(n, pixel_values=draw(g * g, width), **grid)
            yield self.with_text(n, pixel_values=draw(g * g, ch, p, p), **grid)
            yield self.with_text(n, pixel_values=draw(g * g, ch, frames, p, p), **grid)

    def large_grid(self, argument: str) -> Iterator[Candidate]:
        yield self.with_text(
            16, pixel_values=draw(1, 64, self.channels, self.patch, self.patch), **{argument: torch.tensor([[1, 8, 8]])}
        )

    def plane_grid(self, argument: str) -> Iterator[Candidate]:
        g, p = self.side, self.patch
        yield self.with_text(
            g * g // 4, pixel_values=draw(g * g, self.channels, p, p), **{argument: torch.tensor([[g, g]])}
        )

    def sequences(self, argument: str) -> Iterator[Candidate]:
        n, rows = self.patches, self.size // self.patch
        values = {
            "pixel_values": draw(1, n, self.channels * self.patch**2),
            "pixel_attention_mask": torch.ones(1, n, dtype=torch.long),
        }
        for k in (n // 4, n, 1):
            yield self.with_text(k, **values, **{argument: torch.tensor([[rows, rows]])})

    def strips(self, argument: str) -> Iterator[Candidate]:
        n, rows = self.patches, self.size // self.patch
        for k in (n // 4, n, n // 16, 8):
            yield self.with_text(
                k,
                pixel_values=draw(1, self.channels, self.patch, self.patch * n),
                **{argument: torch.tensor([[rows, rows]])},
            )

    def placed(self, argument: str) -> Iterator[Candidate]:
        pooled = find_setting(self.config, "pooling_kernel_size") or 1
        side = 6 if pooled == 3 else 4
        places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), -1).reshape(
            1, -1, 2
        )
        for n in (side * side // (pooled * pooled), side * side):
            yield self.with_text(
                n, pixel_values=draw(1, side * side, self.channels * self.patch**2), **{argument: places}
            )

    def flattened(self, argument: str) -> Iterator[Candidate]:
        for width in (self.channels * self.patch**2, find_setting(self.config, "patch_embed_hidden_size") or 64):
            patches = torch.cat([torch.ones(1, 8, 2), draw(1, 8, width)], -1)
            yield {argument: patches, "attention_mask": torch.ones(1, 8), "decoder_input_ids": draw_ids(1, 7)}

    # ------------------------------------------------------------------------------------------------ whole images
    def tiles(self, argument: str) -> Iterator[Candidate]:
        n = find_setting(self.config, "max_num_tiles") or 4
        masks = {
            "aspect_ratio_mask": torch.ones(1, 1, n, dtype=torch.long),
            "cross_attention_mask": torch.ones(1, 8, 1, n, dtype=torch.long),
        }
        yield {
            **self.text(1),
            "pixel_values": self.image(1, 1, n),
            argument: torch.ones(1, 1, dtype=torch.long),
            **masks,
        }

    def queries(self, argument: str) -> Iterator[Candidate]:
        n = find_setting(self.config, "num_query_tokens") or 8
        asked = {argument: draw_ids(1, 5), "qformer_attention_mask": torch.ones(1, 5, dtype=torch.long)}
        yield {**self.text(n), "pixel_values": self.image(), **asked}
        yield {**self.text(2 * n), "pixel_values": self.image(1, 2), **asked}

    def attended(self, argument: str) -> Iterator[Candidate]:
        yield {**self.text(0), "pixel_values": self.image(1, 1), argument: torch.ones(1, 7, 1, dtype=torch.long)}

    def marked(self, argument: str) -> Iterator[Candidate]:
        n = find_setting(self.config, "latent_query_num") or 8
        marks = torch.cat([torch.zeros(1, 3), torch.ones(1, n), torch.zeros(1, 4)], 1).long()
        yield {**self.text(n), "pixel_values": self.image(), argument: marks}

    def plain(self) -> Iterator[Candidate]:
        """Images as they are, with each plausible number of placeholders."""
        n, name = (
            self.patches,
            "pixel_values_images"
            if "pixel_values" not in self.names and "pixel_values_images" in self.names
            else "pixel_values",
        )
        size = torch.tensor([[self.size, self.size]])
        sized = {"image_sizes": size} if "image_sizes" in self.names else {}
        for k, count in enumerate((n, n // 4, n + 1, 4, 1, 0)):
            yield self.with_text(count, **{name: self.image()}, **sized)
            if k:
                continue
            yield self.with_text(count, **{name: self.image(1, 1)}, **sized)
            yield self.with_text(count, **{name: self.image(1, 1)})
            yield self.with_text(count, **{name: self.image(1, 3)}, **sized)
            yield self.with_text(count, **{name: self.image()})
            yield self.with_text(count, **{name: self.image(1, 1, 1)})
            yield self.with_text(
                count, **{name: self.image(1, 2)}, image_sizes=size, batch_num_images=torch.tensor([1])
            )
            yield {name: self.image()}
            marks = torch.cat([torch.zeros(1, 1), torch.ones(1, 4), torch.zeros(1, 2)], 1)
            yield {**self.text(0), name: self.image(), "image_embeds_position_mask": marks}
