import pytest
import torch

from avmodel.configs.model import num_kept
from avmodel.masking import (
    FORCED,
    balanced_groups,
    ids_from_noise,
    masking_from_ids,
    structured_noise,
)


def test_counts_of_the_method() -> None:
    assert num_kept(196, 0.75) == 49
    assert num_kept(96, 0.8) == 19


def test_masking_from_ids_by_hand() -> None:
    masking = masking_from_ids(torch.tensor([[3, 1]]), 5)
    assert masking.mask.tolist() == [[1, 0, 1, 0, 1]]
    assert masking.ids_restore.tolist() == [[2, 1, 3, 0, 4]]


def test_samples_are_masked_independently_and_every_token_has_its_chance() -> None:
    ids_keep = ids_from_noise(noise_of(2000, 20), 0.75)
    assert len({tuple(sorted(row)) for row in ids_keep.tolist()}) > 1000
    share = torch.bincount(ids_keep.flatten(), minlength=20) / 2000
    assert (share - 0.25).abs().max() < 0.05


def noise_of(*shape: int) -> torch.Tensor:
    return torch.randint(0, FORCED, shape, generator=torch.Generator().manual_seed(0))


def test_kept_tokens_of_avsiams_ratios() -> None:
    """Audio of 512 and image of 196 patches: the paper's range in five steps, the released code's."""
    fifth = [(num_kept(512, r), num_kept(196, r)) for r in (0.0, 0.125, 0.25, 0.375, 0.5)]
    assert fifth == [(512, 196), (448, 171), (384, 147), (320, 122), (256, 98)]
    released = [(num_kept(512, r), num_kept(196, r)) for r in (0.0, 0.2, 0.4, 0.6, 0.8)]
    assert released == [(512, 196), (409, 156), (307, 117), (204, 78), (102, 39)]
    assert (num_kept(512, 0.75), num_kept(196, 0.75)) == (128, 49)


@pytest.mark.parametrize(
    ("scheme", "ratio", "columns", "rows"),
    [
        ("time", 0.75, 48, 0),
        ("frequency", 0.75, 0, 6),
        ("tf", 0.75, 33, 4),
        ("uniform", 0.75, 0, 0),
        ("tf", 0.4, 17, 2),
    ],
)
def test_whole_lines_go_first(scheme: str, ratio: float, columns: int, rows: int) -> None:
    noise = structured_noise(noise_of(50, 512), noise_of(50, 72), (8, 64), ratio, scheme)
    ids = ids_from_noise(noise, ratio)
    assert ids.shape == (50, num_kept(512, ratio))
    hidden = masking_from_ids(ids, 512).mask.view(50, 8, 64).bool()
    forced = 8 * columns + 64 * rows - columns * rows
    if forced <= 512 - ids.shape[1]:
        assert (hidden.all(dim=1).sum(dim=1) >= columns).all()
        assert (hidden.all(dim=2).sum(dim=1) >= rows).all()
    assert ((noise >= FORCED).sum(dim=1) == forced).all()
    assert len({tuple(row) for row in hidden.flatten(1).tolist()}) > 20  # of whole rows alone there are 28 choices


def test_forced_tokens_beyond_the_ratio_survive_at_random() -> None:
    """At 0.2 "tf" forces 8 columns and one row, 120 tokens, and hides 103."""
    noise = structured_noise(noise_of(200, 512), noise_of(200, 72), (8, 64), 0.2, "tf")
    assert ((noise >= FORCED).sum(dim=1) == 120).all()
    survivors = [set((row >= FORCED).nonzero()[:, 0].tolist()) & set(ids.tolist())
                 for row, ids in zip(noise, ids_from_noise(noise, 0.2), strict=True)]  # fmt: skip
    assert {len(kept) for kept in survivors} == {17}


def test_an_unknown_scheme_lists_the_known() -> None:
    with pytest.raises(ValueError, match="unknown mask scheme 'lines'; known: uniform, time, frequency, tf"):
        structured_noise(noise_of(1, 4), noise_of(1, 4), (2, 2), 0.5, "lines")


@pytest.mark.parametrize("groups", [1, 5, 8])
def test_groups_are_balanced_for_every_batch(groups: int) -> None:
    for total in range(1, 65):
        places = torch.randperm(total, generator=torch.Generator().manual_seed(total))
        if total < groups:
            with pytest.raises(ValueError, match=f"{total} samples don't fill {groups} groups"):
                balanced_groups(places, total, groups)
            continue
        sizes = balanced_groups(places, total, groups).bincount(minlength=groups)
        assert (len(sizes), int(sizes.sum())) == (groups, total)
        assert sizes.max() - sizes.min() <= 1
