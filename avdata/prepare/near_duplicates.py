"""Groups of clips whose pictures and sounds are nearly equal, from their fingerprints, over a whole dataset."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Final

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt32, UInt64

PLAIN: Final = 0
"""The hash of a picture without detail, and the item of a moment without sound: both are like no other."""

MAX_DISTANCE: Final = 4
"""Bits, of 64, in which the hashes of two frames may differ that show the same."""

MIN_FRAMES: Final = 2
"""Frames of a clip, or all that it has, that another clip must show as well."""

MAX_ERRORS: Final = 0.3
"""Share of the bits in which the fingerprints of two copies of a sound may differ. Unrelated sounds differ in 0.42 or
more of them, copies after lossy coding at 24 to 96 kbit/s and a shift of half an item in 0.19 at most."""

MIN_ITEMS: Final = 16
"""Items of a sound's fingerprint that are compared at least, about 1 s, and at least half of the shorter one's."""

_CLEAN_BLOCKS: Final = 2
_LONGEST_RUN: Final = 2_000  # hashes with an equal part: each is compared with as many after it
_MOST_SHOWING: Final = 30  # clips with an equal hash: each is compared with as many after it
_MOST_SOUNDING: Final = 100  # the same for equal items of sounds
_AROUND: Final = 8  # items on both sides of an equal one that are compared first
_MAX_ERRORS_AROUND: Final = 0.35  # share of their bits; of unrelated sounds, 3 in 10,000 have as few
_PASSES: Final = 16  # over the items of sounds, so that a part of them is sorted at a time

Pictures = Sequence[UInt64[np.ndarray, " _"]]
Sounds = Sequence[UInt32[np.ndarray, " _"]]


def first_of_groups(pictures: Pictures | None, sounds: Sounds | None) -> Int64[np.ndarray, " n"]:
    """For each of n clips the number of the first clip in its group of near duplicates: its own, if there is no other.

    Two clips are near duplicates if their pictures and their sounds are; if only one of the two was measured, that
    decides. Pictures are: MIN_FRAMES of each clip's frames, or all if there are fewer, have a frame of the other within
    MAX_DISTANCE. Sounds are: at some lag, the bits differ in MAX_ERRORS at most. Two clips with plain frames alone have
    equal pictures, two silent ones have equal sounds, but something must be there that is equal. Near duplicates of
    near duplicates are in the same group.

    Compared are all clips with a nearly equal frame; of those without frames that are more than plain, all with an
    equal item of their sounds. Where very many clips have it, each is compared with the next ones alone.

    Args:
        pictures: The hashes of each clip's frames (`picture_hash`). None: not measured.
        sounds: The fingerprint of each clip's sound (`sound_fingerprint`). None: not measured.
    """
    known = [part for part in (pictures, sounds) if part is not None]
    firsts = list(range(len(known[0]) if known else 0))
    shown = [hashes[hashes != PLAIN] for hashes in pictures] if pictures is not None else None
    is_plain = np.array([not len(hashes) for hashes in shown] if shown is not None else [True] * len(firsts), bool)

    def root(clip: int) -> int:
        while firsts[clip] != clip:
            firsts[clip] = firsts[firsts[clip]]
            clip = firsts[clip]
        return clip

    candidates = [] if shown is None else [_clips_with_near_frames(shown)]
    if sounds is not None:
        candidates.append(_clips_with_equal_items(sounds, is_plain))
    for one, other in (pair for pairs in candidates for pair in pairs.tolist()):
        first, last = sorted((root(one), root(other)))
        if first == last or (shown is not None and not _same_pictures(shown[one], shown[other])):
            continue
        if sounds is None or same_sound(sounds[one], sounds[other]):
            firsts[last] = first
    return np.array([root(clip) for clip in range(len(firsts))], np.int64)


def near_pairs(hashes: UInt64[np.ndarray, " n"], max_distance: int) -> Iterator[Int64[np.ndarray, "p 2"]]:
    """Pairs of places of hashes that differ in at most `max_distance` bits; a pair may come several times.

    The bits are split into max_distance + 2 blocks. However the errors lie, two blocks have none, so sorting by each
    two blocks brings every pair together once.

    Source: Manku et al., Detecting Near-Duplicates for Web Crawling, 2007, section 3.
    """
    bounds = np.linspace(0, 64, max_distance + _CLEAN_BLOCKS + 1).astype(int).tolist()
    masks = [((1 << stop) - 1) ^ ((1 << start) - 1) for start, stop in pairwise(bounds)]
    for chosen in combinations(masks, _CLEAN_BLOCKS):
        part = hashes & np.uint64(sum(chosen))
        order = np.argsort(part, kind="stable")
        ordered = hashes[order]
        for one, other in _pairs_in_runs(part[order], _LONGEST_RUN):
            near = np.bitwise_count(ordered[one] ^ ordered[other]) <= max_distance
            if near.any():
                yield np.stack([order[one[near]], order[other[near]]], axis=1)


def same_sound(one: UInt32[np.ndarray, " n"], other: UInt32[np.ndarray, " m"]) -> bool:
    """Whether two fingerprints are of copies of one sound, at whatever lag; two silent ones are."""
    if not one.any() or not other.any():
        return not one.any() and not other.any()
    one, other = sorted((one, other), key=len)
    least = max(MIN_ITEMS, len(one) // 2)
    if len(one) < least:
        return False
    padded = np.pad(other, len(one) - least)
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(one))
    counted = (windows != PLAIN) & (one != PLAIN)
    errors = np.where(counted, np.bitwise_count(windows ^ one), 0).sum(axis=1)
    numbers = counted.sum(axis=1)
    return bool(((numbers >= MIN_ITEMS) & (errors <= MAX_ERRORS * 32 * numbers)).any())


def _same_pictures(one: UInt64[np.ndarray, " n"], other: UInt64[np.ndarray, " m"]) -> bool:
    """Whether two clips show the same, from the hashes of their frames that are not plain."""
    if not len(one) or not len(other):
        return not len(one) and not len(other)
    near = np.bitwise_count(one[:, None] ^ other) <= MAX_DISTANCE
    return all(near.any(axis=axis).sum() >= min(MIN_FRAMES, near.shape[1 - axis]) for axis in (0, 1))


def _clips_with_near_frames(shown: Pictures) -> Int64[np.ndarray, "p 2"]:
    """Pairs of clips that have a nearly equal frame, ascending."""
    clips, hashes = _rows(shown, np.uint64)
    order = np.argsort(hashes, kind="stable")
    clips, hashes = clips[order], hashes[order]
    different, starts, counts = np.unique(hashes, return_index=True, return_counts=True)
    counts = np.minimum(counts, _MOST_SHOWING)

    def near() -> Iterator[Int32[np.ndarray, "p 2"]]:
        for equal in _pairs_in_runs(hashes, _MOST_SHOWING):
            yield np.stack([clips[places] for places in equal], axis=1)
        for pairs in near_pairs(different, MAX_DISTANCE):
            one, other = pairs.T
            numbers = counts[one] * counts[other]  # each clip that has the one with each that has the other
            pair = np.repeat(np.arange(len(pairs)), numbers)
            within = np.arange(numbers.sum()) - np.repeat(np.cumsum(numbers) - numbers, numbers)
            across, down = np.divmod(within, counts[other][pair])
            yield np.stack([clips[starts[one][pair] + across], clips[starts[other][pair] + down]], axis=1)

    return _unique_pairs(near(), len(shown))


def _clips_with_equal_items(sounds: Sounds, chosen: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, "p 2"]:
    """Pairs of the chosen clips that have an equal item of sound with few errors in the items around, ascending."""
    around, start = _Around(sounds), 0
    is_first = np.zeros(len(around.items), bool)  # the first of equal items of a chosen clip
    for sound, use in zip(sounds, chosen.tolist(), strict=True):
        if use:
            is_first[start + np.unique(sound, return_index=True)[1]] = True
        start += len(sound)
    is_first &= around.items != PLAIN

    def equal() -> Iterator[Int32[np.ndarray, "p 2"]]:
        for number in range(_PASSES):
            (here,) = np.nonzero(is_first & (around.items % _PASSES == number))
            ordered = here[np.argsort(around.items[here], kind="stable")]
            for one, other in _pairs_in_runs(around.items[ordered], _MOST_SOUNDING):
                pairs = ordered[np.stack([one, other], axis=1)]
                yield around.clips[pairs[around.agree(pairs)]]

    return _unique_pairs(equal(), len(sounds))


class _Around:
    """The items of all sounds, one after the other.

    Of a million clips of 10 s, 2.6 million pairs have an equal item by chance. The items around it tell them from
    copies: so few pairs are compared as a whole.
    """

    def __init__(self, sounds: Sounds) -> None:
        self.items = np.concatenate([np.zeros(0, np.uint32), *sounds])
        self.clips = np.repeat(np.arange(len(sounds), dtype=np.int32), [len(sound) for sound in sounds])

    def agree(self, pairs: Int64[np.ndarray, "p 2"]) -> Bool[np.ndarray, " p"]:
        """Whether the items around two places of different clips have few errors."""
        clips = self.clips[pairs]
        errors, numbers = np.zeros(len(pairs)), np.zeros(len(pairs))
        for apart in (*range(-_AROUND, 0), *range(1, _AROUND + 1)):
            near = np.clip(pairs + apart, 0, len(self.items) - 1)
            one, other = self.items[near].T
            counted = (self.clips[near] == clips).all(axis=1) & (one != PLAIN) & (other != PLAIN)
            errors += np.where(counted, np.bitwise_count(one ^ other), 0)
            numbers += counted
        return np.asarray((clips[:, 0] != clips[:, 1]) & (errors <= _MAX_ERRORS_AROUND * 32 * numbers))


def _rows(parts: Sequence[np.ndarray], dtype: type) -> tuple[Int32[np.ndarray, " r"], np.ndarray]:
    """The different values of each clip, one after the other, and for each of them the number of its clip."""
    values = [np.unique(part) for part in parts]
    clips = np.repeat(np.arange(len(values), dtype=np.int32), [len(part) for part in values])
    return clips, np.concatenate([np.zeros(0, dtype), *values])


def _pairs_in_runs(
    ordered: np.ndarray, longest: int
) -> Iterator[tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"]]]:
    """Pairs of places of equal values in a sorted array, all of them at the same distance; in long runs, not all."""
    places = np.arange(len(ordered))
    for apart in range(1, longest + 1):
        places = places[places + apart < len(ordered)]
        places = places[ordered[places] == ordered[places + apart]]
        if not len(places):
            return
        yield places, places + apart


def _unique_pairs(parts: Iterator[Int32[np.ndarray, "p 2"]], num_clips: int) -> Int64[np.ndarray, "p 2"]:
    """The pairs of different clips, each once, the smaller number first, ascending."""
    codes = [np.zeros(0, np.int64)]
    for pairs in parts:
        ordered = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
        codes.append(ordered[:, 0].astype(np.int64) * num_clips + ordered[:, 1])
    return np.stack(np.divmod(np.unique(np.concatenate(codes)), max(num_clips, 1)), axis=1)
