"""Laws of masking."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avmodel.configs.model import num_kept
from avmodel.masking import gather_visible, ids_from_noise, masking_from_ids, restore_order


@st.composite
def maskings(draw: st.DrawFn) -> tuple[int, int, float, int]:
    num_tokens = draw(st.integers(2, 60))
    ratio = draw(st.floats(0.0, 0.95))
    return draw(st.integers(1, 4)), num_tokens, ratio, draw(st.integers(0, 2**31))


def random_ids(case: tuple[int, int, float, int]) -> torch.Tensor:
    batch, num_tokens, ratio, seed = case
    return ids_from_noise(torch.rand(batch, num_tokens, generator=torch.Generator().manual_seed(seed)), ratio)


@settings(max_examples=60, deadline=None)
@given(maskings())
def test_ids_restore_undoes_the_shuffle(case: tuple[int, int, float, int]) -> None:
    batch, num_tokens, *_ = case
    ids_keep = random_ids(case)
    masking = masking_from_ids(ids_keep, num_tokens)
    x = torch.randn(batch, num_tokens, 3)
    shuffle = masking.ids_restore.argsort(dim=1)
    assert torch.equal(shuffle[:, : ids_keep.shape[1]], ids_keep)
    assert torch.equal(restore_order(gather_visible(x, shuffle), masking.ids_restore), x)


@settings(max_examples=60, deadline=None)
@given(maskings())
def test_visible_tokens_return_to_their_places_and_the_rest_is_masked(
    case: tuple[int, int, float, int],
) -> None:
    batch, num_tokens, *_ = case
    ids_keep = random_ids(case)
    masking = masking_from_ids(ids_keep, num_tokens)
    x = torch.randn(batch, num_tokens, 3)
    hidden = torch.full((batch, num_tokens - ids_keep.shape[1], 3), 9.0)
    restored = restore_order(torch.cat([gather_visible(x, ids_keep), hidden], dim=1), masking.ids_restore)
    removed = masking.mask.bool().unsqueeze(-1)
    assert torch.equal(restored, torch.where(removed, torch.tensor(9.0), x))


@settings(max_examples=60, deadline=None)
@given(maskings())
def test_kept_ids_are_distinct_in_range_and_as_many_as_the_ratio_leaves(
    case: tuple[int, int, float, int],
) -> None:
    batch, num_tokens, ratio, _ = case
    ids_keep = random_ids(case)
    assert ids_keep.shape == (batch, num_kept(num_tokens, ratio))
    assert all(len(set(row)) == len(row) and set(row) <= set(range(num_tokens)) for row in ids_keep.tolist())
    mask = masking_from_ids(ids_keep, num_tokens).mask
    assert mask.sum(dim=1).tolist() == [num_tokens - ids_keep.shape[1]] * batch
