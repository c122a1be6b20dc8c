"""Image: which pixels, and which places, make this digit?

Position counts: a vision transformer knows where a patch stands by its position embedding, which gets relevance of
its own. The heat map is of pixels, `patches` of patches with their places.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

import lrp_fx

MODEL = Path(__file__).parents[1] / "models" / "vit_mnist"

model = transformers.AutoModelForImageClassification.from_pretrained(MODEL, dtype=torch.float32).eval()
data = np.load(MODEL / "eval.npz")
images = torch.from_numpy(data["images"][data["labels"] == 3][:1]).float().unsqueeze(1) / 127.5 - 1

explainer = lrp_fx.convert(model, rules="pa-lrp-gamma")  # images: see "which preset?"
relevance = explainer(pixel_values=images, target=3)
print(relevance.target.title)
print("heatmap", tuple(relevance.heatmap().shape), f"sum {float(relevance.heatmap().sum()):+.4f}")
print("patches", tuple(relevance.patches().shape), f"sum {float(relevance.patches().sum()):+.4f}, with their places")

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
relevance.to_html(folder / "digit.html")
relevance.plot().savefig(folder / "digit.png")
