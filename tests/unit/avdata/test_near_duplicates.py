"""Groups of near duplicates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avdata.prepare.near_duplicates import MAX_DISTANCE, first_of_groups, near_pairs, same_sound

RNG = np.random.default_rng(0)


def hashes(*shape: int) -> np.ndarray:
    return RNG.integers(1, 2**64, shape, dtype=np.uint64)


def items(*shape: int) -> np.ndarray:
    return RNG.integers(1, 2**32, shape, dtype=np.uint32)


def flipped(values: np.ndarray, *bits: int) -> np.ndarray:
    return values ^ values.dtype.type(sum(1 << bit for bit in bits))


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30), st.lists(st.sets(st.integers(0, 63), max_size=6), max_size=30))
def test_all_pairs_within_the_distance_are_found_and_no_others(values: list[int], errors: list[set[int]]) -> None:
    near = [value ^ sum(1 << bit for bit in bits) for value, bits in zip(values, errors, strict=False)]
    everything = np.array(values + near, np.uint64)
    expected = {
        (i, j)
        for j in range(len(everything))
        for i in range(j)
        if int(everything[i] ^ everything[j]).bit_count() <= MAX_DISTANCE
    }
    found = {tuple(sorted(pair)) for pairs in near_pairs(everything, MAX_DISTANCE) for pair in pairs.tolist()}
    assert found == expected


def test_copies_are_grouped_with_the_first_of_them() -> None:
    pictures, sounds = list(hashes(6, 10)), list(items(6, 140))
    for copy, original in ((3, 1), (5, 3)):  # 5 is a copy of a copy
        pictures[copy] = np.concatenate([flipped(pictures[original][4:7], 1, 20, 40), pictures[copy][3:]])
        sounds[copy] = flipped(sounds[original], 3, 17)[7:]
        sounds[copy][::9] = sounds[original][7::9]  # items without an error
    assert first_of_groups(pictures, sounds).tolist() == [0, 1, 2, 1, 4, 1]
    assert first_of_groups(pictures, None).tolist() == [0, 1, 2, 1, 4, 1]
    assert first_of_groups(None, sounds).tolist() == [0, 1, 2, 1, 4, 1]


def test_pictures_and_sounds_must_both_agree() -> None:
    pictures, sounds = list(hashes(3, 4)), list(items(3, 60))
    pictures[1], sounds[2] = pictures[0].copy(), sounds[0].copy()
    assert first_of_groups(pictures, sounds).tolist() == [0, 1, 2]
    assert first_of_groups(pictures, None).tolist() == [0, 0, 2]
    assert first_of_groups(None, sounds).tolist() == [0, 1, 0]


def test_one_equal_frame_of_many_is_not_enough() -> None:
    pictures = list(hashes(2, 10))
    pictures[1][3] = pictures[0][8]
    assert first_of_groups(pictures, None).tolist() == [0, 1]
    pictures[1][4] = pictures[0][2]
    assert first_of_groups(pictures, None).tolist() == [0, 0]


def test_one_frame_is_enough_where_there_is_one() -> None:
    one = hashes(1)
    assert first_of_groups([one, flipped(one, 5), hashes(1)], None).tolist() == [0, 0, 2]


def test_plain_frames_and_silence_are_like_no_other() -> None:
    plain, silent = np.zeros(10, np.uint64), np.zeros(60, np.uint32)
    sound, picture = items(60), hashes(10)
    assert first_of_groups([plain, plain], None).tolist() == [0, 1]
    assert first_of_groups(None, [silent, silent]).tolist() == [0, 1]
    assert first_of_groups([plain, plain], [silent, silent]).tolist() == [0, 1]
    assert first_of_groups([plain, plain, picture], [sound, sound, sound]).tolist() == [0, 0, 2]
    assert first_of_groups([picture, picture, picture], [silent, silent, sound]).tolist() == [0, 0, 2]


def test_no_clips_and_clips_without_frames_have_no_groups() -> None:
    assert first_of_groups([], []).tolist() == []
    assert first_of_groups(None, None).tolist() == []
    assert first_of_groups([hashes(0), hashes(0)], [items(0), items(0)]).tolist() == [0, 1]


@pytest.mark.parametrize("length", [15, 16, 40])
def test_sounds_need_a_second_in_common(length: int) -> None:
    sound = items(100)
    assert same_sound(sound, sound[20 : 20 + length]) is (length >= 16)


def test_sounds_need_half_of_the_shorter_one_in_common() -> None:
    sound = items(150)
    assert same_sound(sound[:100], sound[50:])
    assert not same_sound(sound[:100], sound[60:])


def test_many_copies_are_one_group() -> None:
    picture, sound = hashes(1), items(20)
    many = 150  # more than are compared with each other
    assert not first_of_groups([picture] * many, None).any()
    assert not first_of_groups(None, [sound] * many).any()
