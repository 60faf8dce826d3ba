"""Where a learned table of positions starts."""

import pytest
import torch

from avmodel.configs.model import POSITION_INITS
from avmodel.positions import resize_positions


def line(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.float32).view(1, count, 1).repeat(1, 1, 2)


@pytest.mark.parametrize("how", POSITION_INITS)
def test_the_same_grid_stays(how: str) -> None:
    table = torch.randn(1, 12, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resize_positions(table, (3, 4), (3, 4), how), table)


def test_linear_goes_along_the_flattened_table_and_nearest_repeats() -> None:
    stretched = resize_positions(line(196), (14, 14), (8, 64), "linear1d")[0, :, 0]
    assert stretched.shape == (512,)
    assert (stretched.diff() >= 0).all()
    # Half-pixel centers: place i of 512 is at (i + 0.5) * 196 / 512 - 0.5.
    torch.testing.assert_close(stretched[100], torch.tensor((100 + 0.5) * 196 / 512 - 0.5))
    nearest = resize_positions(line(196), (14, 14), (8, 64), "nearest1d")[0, :, 0]
    assert nearest.tolist() == [i * 196 // 512 for i in range(512)]


def test_bicubic_keeps_rows_and_columns_apart() -> None:
    rows = torch.arange(4.0).repeat_interleave(5).view(1, 20, 1)
    resized = resize_positions(rows, (4, 5), (8, 10), "bicubic2d").view(8, 10)
    torch.testing.assert_close(resized, resized[:, :1].expand(8, 10))
    assert (resized[:, 0].diff() > 0).all()


def test_what_fits_no_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="196 positions are not a grid of 8 x 64"):
        resize_positions(line(196), (8, 64), (8, 64), "copy")
    with pytest.raises(ValueError, match=r"cannot be copied to \(8, 64\)"):
        resize_positions(line(196), (14, 14), (8, 64), "copy")
    with pytest.raises(ValueError, match="unknown position start 'cubic'; known: copy, linear1d"):
        resize_positions(line(196), (14, 14), (8, 64), "cubic")
