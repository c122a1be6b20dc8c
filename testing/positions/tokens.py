"""Learned tokens beside those of the text or the picture."""

from __future__ import annotations

from testing.architectures import image, without
from testing.positions.kind import ABSOLUTE, Kind, some
from testing.positions.library import PATCHES, hf, masked_image
from testing.positions.small import Small, behind_prefix, table

KINDS = [
    Kind(
        "registers",
        "DINOv2",
        hf(
            "Dinov2WithRegistersForImageClassification",
            {**without(PATCHES, "intermediate_size"), "num_register_tokens": 2},
            image,
        ),
        *ABSOLUTE,
        learned=2,
    ),
    Kind(
        "mask token",
        "BEiT",
        hf(
            "BeitForMaskedImageModeling",
            {**PATCHES, "use_mask_token": True, "use_absolute_position_embeddings": True},
            masked_image,
        ),
        *ABSOLUTE,
        learned=2,
    ),
    Kind(
        "mask token",
        "ViT",
        hf("ViTForMaskedImageModeling", {**PATCHES, "encoder_stride": 8}, masked_image),
        *ABSOLUTE,
        learned=2,
        options={"output": "reconstruction"},
        target=some,
        slow=True,
    ),
    Kind("prefix", "hand-written", lambda: Small(behind_prefix, table=table(), prefix=table(4)), *ABSOLUTE, learned=1),
]
