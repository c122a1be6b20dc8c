"""Which pixels, and which places, make an image a three?

A vision transformer's relevance has three parts: the pixels (content), the position embeddings of the patches, and the
learned class token. Prints the heatmap and writes it as a figure and as a web page. Runs offline:

    python examples/image.py [folder to write to]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

import lrp_fx

MODEL = Path(__file__).parent / "models" / "vit_mnist"
DIGIT = 3


def main(folder: Path) -> None:
    model = transformers.AutoModelForImageClassification.from_pretrained(MODEL, dtype=torch.float32).eval()
    data = np.load(MODEL / "eval.npz")
    image = torch.from_numpy(data["images"][data["labels"] == DIGIT][:1]).float().unsqueeze(1) / 127.5 - 1

    explainer = lrp_fx.convert(model)
    relevance = explainer(pixel_values=image, target=DIGIT)

    print(f"predicted {int(relevance.output.logits.argmax())}, explained: {DIGIT}\n")
    relevance.show()
    print(f"heatmap {tuple(relevance.heatmap().shape)}, sum {relevance.heatmap().sum():+.4f}")
    relevance.to_html(folder / "digit.html")
    relevance.plot().savefig(folder / "digit.png", dpi=120)
    print(f"wrote {folder / 'digit.html'} and {folder / 'digit.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
