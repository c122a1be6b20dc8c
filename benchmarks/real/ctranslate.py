"""Whisper from a file of CTranslate2: the same weights under other names, queries, keys and values in one matrix each.

A file is a header, and for each variable its name, shape, type and bytes, little-endian.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
#: Names of a block of CTranslate2 -> those of transformers.
BLOCK = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": "self_attn.out_proj",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": "encoder_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
OUTSIDE = {
    "layer_norm": "layer_norm",
    "conv1": "conv1",
    "conv2": "conv2",
    "embeddings": "embed_tokens",
    "position_encodings": "embed_positions",
}
PARTS = {"gamma": "weight", "beta": "bias", "encodings": "weight", "weight": "weight", "bias": "bias"}


def variables(file: Path) -> dict[str, Tensor]:
    """Name -> values, in float32; numbers of the configuration among them."""
    data, place = file.read_bytes(), 0

    def number(kind: str) -> Any:
        nonlocal place
        place += struct.calcsize(kind)
        return struct.unpack_from(f"<{kind}", data, place - struct.calcsize(kind))[0]

    def text() -> str:
        nonlocal place
        length = number("H")  # with the zero at its end
        place += length
        return data[place - length : place - 1].decode()

    version, kind, _ = number("I"), text(), number("I")
    assert (version, kind) == (6, "WhisperSpec"), (version, kind)
    found = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype, size = np.dtype(TYPES[number("B")]), number("I")
        values = np.frombuffer(data, dtype, size // dtype.itemsize, place).astype(np.float32)
        found[name] = torch.from_numpy(values).reshape(shape)
        place += size
    return found


def whisper(file: Path) -> Any:
    """`WhisperForConditionalGeneration` of tiny.en with the weights of a file, in float32."""
    import transformers

    given = variables(file)
    weights = {theirs: part for name, value in given.items() for theirs, part in _parts(name, value)}
    config = transformers.WhisperConfig(vocab_size=given["decoder/embeddings/weight"].shape[0])
    model = transformers.WhisperForConditionalGeneration(config)
    missing, unknown = model.load_state_dict(weights, strict=False)
    # Keys have no bias in Whisper (the file has zeros), and the projection to the vocabulary is the table of tokens.
    assert missing == ["proj_out.weight"] and all(n.endswith("k_proj.bias") for n in unknown), (missing, unknown)
    return model


def _parts(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """What a variable is in transformers: nothing, one parameter, or one for each of what its matrix maps to."""
    side, *middle, last = name.split("/")
    if last not in PARTS:
        return []
    numbered = middle[0].removeprefix("layer_") if middle[0].startswith("layer_") and middle[0][6:].isdigit() else ""
    inside = f"model.{side}.layers.{numbered}" if numbered else f"model.{side}"
    theirs = BLOCK["/".join(middle[1:])] if numbered else OUTSIDE["/".join(middle)]
    names = (theirs,) if isinstance(theirs, str) else theirs
    parts = value.chunk(len(names), 0)
    return [(f"{inside}.{n}.{PARTS[last]}", part) for n, part in zip(names, parts, strict=True)]
