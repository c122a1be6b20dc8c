"""Sparse matrices that a model holds or makes: as the same matrix written out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

F, V = 6, 20
IDS = torch.randint(0, V, (3, 8), generator=torch.Generator().manual_seed(1))
MATRIX = (torch.eye(F) + torch.diag(torch.arange(1.0, F), 1)).double()
HELD: dict[str, Callable[[], Tensor]] = {
    "coo": MATRIX.to_sparse,
    "csr": MATRIX.to_sparse_csr,
    "coo parameter": lambda: nn.Parameter(MATRIX.to_sparse()),
    "csr parameter": lambda: nn.Parameter(MATRIX.to_sparse_csr()),
    "made in forward": MATRIX.clone,
    "written out": MATRIX.clone,
}


class Model(nn.Module):
    def __init__(self, held: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head, self.held = nn.Embedding(V, F), nn.Linear(F, 3), held
        matrix = HELD[held]()
        if isinstance(matrix, nn.Parameter):
            self.matrix = matrix
        else:
            self.register_buffer("matrix", matrix)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids).mean(1).mT
        matrix = self.matrix.to_sparse() if self.held == "made in forward" else self.matrix
        y = matrix @ x if self.held == "written out" else torch.sparse.mm(matrix, x)
        return self.head(y.mT.tanh())  # type: ignore[no-any-return]


@pytest.mark.parametrize("preset", ["gradient", "pa-lrp"])
@pytest.mark.parametrize("held", HELD)
def test_a_sparse_matrix_is_a_matrix(held: str, preset: str) -> None:
    explainer = lrp_fx.convert(Model(held).double().eval(), rules=preset)
    expected = lrp_fx.convert(Model("written out").double().eval(), rules=preset)(IDS, target=1)
    found = explainer(IDS, target=1)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(explainer(IDS[:2], target=1).tokens, found.tokens[:2], rtol=1e-9, atol=1e-12)


def test_other_numbers_in_a_sparse_matrix_are_noticed() -> None:
    model = Model("coo").double().eval()
    explainer = lrp_fx.convert(model, rules="gradient")
    before = explainer(IDS, target=1)
    model.matrix = model.matrix * 2
    after = explainer(IDS, target=1)
    assert not torch.allclose(before.tokens, after.tokens)


def test_a_file_holds_no_sparse_matrix(tmp_path: Path) -> None:
    explainer = lrp_fx.convert(Model("csr").double().eval())
    explainer(IDS, target=1)
    with pytest.raises(lrp_fx.InputError, match=r"matrix is sparse, which a file does not hold\n.*to_dense"):
        explainer.save(tmp_path / "file.lrp")
