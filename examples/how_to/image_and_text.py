"""Image and text: how much did the words say, and how much the picture?

Models that put an image in the place of tokens are drawn in one page: the image folded to one cell among the words,
so that both are on one scale, and below it the image itself, patch by patch, where it stands. Patches that come in
one list (as Qwen2-VL takes them) are laid back to pictures by the rows and columns that the model computes for them.
The weights are random: the numbers mean nothing.
"""

import sys
import tempfile
from pathlib import Path

import torch
import transformers

import lrp_fx

IMAGE = 9  # the token that an image stands in the place of
torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
config = transformers.Qwen2VLConfig(
    text_config={
        **sizes,
        "vocab_size": 40,
        "num_key_value_heads": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_scaling": {"mrope_section": [2, 3, 3]},
    },
    vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2},
    image_token_id=IMAGE,
    vision_start_token_id=10,
    vision_end_token_id=11,
)
model = transformers.Qwen2VLForConditionalGeneration(config).eval()
ids = torch.tensor([[3, 10, *[IMAGE] * 6, 11, 5, 6]])  # 24 patches, of which each 2 x 2 make a token
inputs = {
    "input_ids": ids,
    "attention_mask": torch.ones_like(ids),
    "mm_token_type_ids": (ids == IMAGE).long(),
    "pixel_values": torch.rand(24, 3 * 2 * 4 * 4),
    "image_grid_thw": torch.tensor([[1, 4, 6]]),  # frames, rows, columns of patches
}

explainer = lrp_fx.convert(model, dynamic=False)
relevance = explainer(**inputs)
print(f"words   {relevance.content['input_ids'].sum():+.4f}")
print(f"picture {relevance.content['pixel_values'].sum():+.4f}, patches {tuple(relevance.patches().shape)}")
relevance.show()

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
relevance.to_html(folder / "both.html")
