import torch

from avmodel.objectives import normalize_patches, patchify


def test_a_patch_lists_row_then_column_then_channel() -> None:
    x = torch.arange(2 * 4 * 6).float().view(1, 2, 4, 6)
    patches = patchify(x, 2)
    # Second patch of the first row: columns 2 and 3, channels next to each other.
    assert patches[0, 1].tolist() == [2, 26, 3, 27, 8, 32, 9, 33]


def test_normalization_uses_unbiased_variance_and_eps_inside_the_root() -> None:
    patches = torch.tensor([[[0.0, 2.0], [5.0, 5.0]]])
    first = 1 / (2 + 1e-6) ** 0.5
    torch.testing.assert_close(normalize_patches(patches), torch.tensor([[[-first, first], [0.0, 0.0]]]))
