"""Positions added to a grid of tokens are those of its patches, however they are added."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lrp_fx

WIDTH, ROWS, COLUMNS = 8, 3, 5
Add = Callable[["Patches", Tensor], Tensor]


class Patches(nn.Module):
    """An image cut into patches of 4 by 2 pixels, positions added, an attention."""

    def __init__(self, add: Add) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cut, self.inner, self.head = nn.Conv2d(3, WIDTH, (4, 2), (4, 2)), nn.Linear(WIDTH, WIDTH), nn.Linear(8, 3)
        self.row, self.column = nn.Parameter(torch.randn(ROWS, WIDTH)), nn.Parameter(torch.randn(COLUMNS, WIDTH))
        self.add = add

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.add(self, self.cut(pixels))
        y = self.inner(x)
        return self.head((x + (y @ y.mT / 3).softmax(-1) @ y).mean(1).tanh())  # type: ignore[no-any-return]

    @property
    def places(self) -> Tensor:
        return self.row[:, None] + self.column


def reference(model: Patches, z: Tensor) -> Tensor:
    return z.flatten(2).mT + model.places.flatten(0, 1)


SPELLINGS: dict[str, Add] = {
    "channels last": lambda m, z: (z.permute(0, 2, 3, 1) + m.places).flatten(1, 2),
    "channels first": lambda m, z: (z + m.places.permute(2, 0, 1)).flatten(2).mT,
    "rows, then columns": lambda m, z: (z.permute(0, 2, 3, 1) + m.row[:, None] + m.column).flatten(1, 2),
    "columns, then rows": lambda m, z: (z + m.column.mT[:, None] + m.row.mT[..., None]).flatten(2).mT,
}


def explained(add: Add) -> lrp_fx.Relevance:
    pixels = torch.randn(2, 3, 4 * ROWS, 2 * COLUMNS, generator=torch.Generator().manual_seed(0)).double()
    return lrp_fx.convert(Patches(add).double().eval(), conserve="site")(pixels, target=1)


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_grid_has_the_patches_of_the_rows_that_it_is(name: str, tmp_path: Path) -> None:
    flat, found = explained(reference), explained(SPELLINGS[name])
    (rows,) = (site.per_token() for site in flat.position)
    assert rows is not None
    cells = flat.content["pixels"].sum(1).reshape(2, ROWS, 4, COLUMNS, 2).sum((2, 4)) + rows.view(2, ROWS, COLUMNS)
    found.save(tmp_path / "kept")
    for relevance in (found, lrp_fx.Relevance.load(tmp_path / "kept")):
        torch.testing.assert_close(relevance.patches(), cells, rtol=1e-9, atol=1e-12)
        laid = relevance.heatmap(position="signed").reshape(2, ROWS, 4, COLUMNS, 2).sum((2, 4))
        torch.testing.assert_close(laid, cells, rtol=1e-9, atol=1e-12)
        assert not any(site.is_pairwise for site in relevance.position)
        token = relevance.ledger.largest_tokens[0]
        assert token is not None
        torch.testing.assert_close(token.relevance, float(cells[0][token.place]), rtol=1e-9, atol=1e-12)
        assert abs(token.relevance) == pytest.approx(float(cells[0].abs().max()))
