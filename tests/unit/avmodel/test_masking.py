import torch

from avmodel.masking import masking_from_ids, num_kept, random_masking


def test_counts_of_the_method() -> None:
    assert num_kept(196, 0.75) == 49
    assert num_kept(96, 0.8) == 19


def test_masking_from_ids_by_hand() -> None:
    masking = masking_from_ids(torch.tensor([[3, 1]]), 5)
    assert masking.mask.tolist() == [[1, 0, 1, 0, 1]]
    assert masking.ids_restore.tolist() == [[2, 1, 3, 0, 4]]


def test_samples_are_masked_independently_and_every_token_has_its_chance() -> None:
    ids_keep = random_masking(2000, 20, 0.75, torch.Generator().manual_seed(0))
    assert len({tuple(sorted(row)) for row in ids_keep.tolist()}) > 1000
    share = torch.bincount(ids_keep.flatten(), minlength=20) / 2000
    assert (share - 0.25).abs().max() < 0.05
