"""Laws of patches and their statistics."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avmodel.objectives import masked_mse, normalize_patches, patchify, reconstruct, unpatchify

shapes = st.tuples(
    st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 4), st.integers(1, 4), st.sampled_from([2, 4, 16])
)


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_unpatchify_undoes_patchify(shape: tuple[int, int, int, int, int]) -> None:
    batch, channels, rows, columns, patch = shape
    x = torch.randn(batch, channels, rows * patch, columns * patch)
    patches = patchify(x, patch)
    assert patches.shape == (batch, rows * columns, patch * patch * channels)
    assert torch.equal(unpatchify(patches, patch, (rows, columns)), x)


@settings(max_examples=40, deadline=None)
@given(shapes, st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
def test_targets_ignore_level_and_contrast(shape: tuple[int, int, int, int, int], scale: float, shift: float) -> None:
    batch, channels, rows, columns, _ = shape
    patches = torch.randn(batch, rows * columns, 64 * channels)
    torch.testing.assert_close(
        normalize_patches(patches * scale + shift), normalize_patches(patches), atol=2e-3, rtol=0
    )


@settings(max_examples=30, deadline=None)
@given(shapes, st.booleans(), st.integers(0, 2**31))
def test_a_perfect_prediction_reconstructs_the_input(
    shape: tuple[int, int, int, int, int], normalized: bool, seed: int
) -> None:
    batch, channels, rows, columns, patch = shape
    x = torch.randn(batch, channels, rows * patch, columns * patch, generator=torch.Generator().manual_seed(seed))
    target = normalize_patches(patchify(x, patch)) if normalized else patchify(x, patch)
    mask = torch.bernoulli(torch.full(target.shape[:2], 0.5), generator=torch.Generator().manual_seed(seed))
    picture = reconstruct(x, target, mask, patch_size=patch, normalized=normalized)
    torch.testing.assert_close(picture, x, atol=1e-4, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_visible_patches_cost_nothing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    prediction, target = torch.randn(2, 2, 6, 8, generator=generator)
    mask = torch.tensor([[1.0, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]])
    loss = masked_mse(prediction, target, mask)
    wrong = torch.where(mask.bool().unsqueeze(-1), prediction, prediction + 100)
    assert torch.equal(masked_mse(wrong, target, mask), loss)
    assert torch.isclose(loss, (prediction - target)[mask.bool()].square().mean())
