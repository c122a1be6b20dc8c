"""A notebook that is really run: results and figures are drawn where they are the last line of a cell."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks are not installed (nbformat)")
nbclient = pytest.importorskip("nbclient", reason="notebooks are not installed (nbclient)")
pytest.importorskip("ipykernel", reason="notebooks are not installed (ipykernel)")

ROOT = Path(__file__).parents[1]
MAKE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from torch import nn
import lrp_fx
torch.manual_seed(0)
model = nn.Sequential(nn.Embedding(9, 4), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)).eval()
relevance = lrp_fx.convert(model)(torch.tensor([[1, 2, 3, 4, 5]]))
"""


def test_results_and_figures_are_drawn(tmp_path: Path) -> None:
    cells = [
        MAKE,
        "relevance",
        "relevance.plot()",
        "import matplotlib.pyplot\nrelevance.plot()",
        "figure = relevance.plot()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    drawn = [[o.data for o in cell.outputs if "data" in o] for cell in notebook.cells[1:]]
    assert 'class="lrp"' in drawn[0][0]["text/html"]
    for (shown,) in drawn[1:3]:  # once, with pyplot and without
        assert base64.b64decode(shown["image/png"]).startswith(b"\x89PNG")
    assert drawn[3] == []
