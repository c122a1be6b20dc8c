"""Parts of inputs: random ids and floats, and what a configuration says of sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from testing.zoo.shrink import IMG, PATCH, B, S


def draw_ids(b: int = B, s: int = S, lo: int = 6, hi: int = 90, seed: int = 0) -> Tensor:
    return torch.randint(lo, hi, (b, s), generator=torch.Generator().manual_seed(seed))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def find_setting(cfg: PreTrainedConfig, *names: str) -> Any:
    """First non-None attribute among `names` in the config or its sub-configs."""
    stack = [cfg]
    while stack:
        c = stack.pop(0)
        for n in names:
            v = getattr(c, n, None)
            if v is not None and not callable(v):
                return v
        stack += [v for k, v in c.__dict__.items() if isinstance(v, PreTrainedConfig)]
    return None


def text_inputs(params: Any, b: int = B, s: int = S) -> dict[str, Tensor]:
    """Token ids, and a mask of ones where the model takes one."""
    kw = {"input_ids": draw_ids(b, s)}
    if "attention_mask" in params:
        kw["attention_mask"] = torch.ones(b, s, dtype=torch.long)
    return kw


def image_shape(cfg: PreTrainedConfig) -> tuple[int, int, int]:
    """(side, channels, patch) of the images a model takes."""
    vc = getattr(cfg, "vision_config", None) or cfg
    size = (
        find_setting(vc, "image_size", "img_size", "crop_size", "input_size")
        if isinstance(vc, PreTrainedConfig)
        else IMG
    )
    if isinstance(size, (list, tuple)):
        size = size[0]
    ch = find_setting(vc, "num_channels", "in_channels", "in_chans", "num_input_channels")
    p = find_setting(vc, "patch_size")
    if isinstance(p, (list, tuple)):
        p = p[0]
    return (
        (size if isinstance(size, int) and 8 <= size <= 512 else IMG),
        (ch if isinstance(ch, int) else 3),
        (p if isinstance(p, int) else PATCH),
    )
