"""Random times of a clip's stored frames."""

import hashlib
import math
from collections.abc import Sequence

Span = tuple[float, float]
"""Start and end in seconds."""


def draw_frame_times(
    seed: int, key: str, start_s: float, end_s: float, num_frames: int, damaged: Sequence[Span] = ()
) -> list[float]:
    """One uniformly random time in each of num_frames equal parts of [start_s, end_s), in seconds, ascending.

    The times depend only on the arguments: not on a generator's state, a library's version or the machine. A time
    inside a damaged span (sorted, without overlaps) is replaced by one in the intact rest of its part, or of the whole
    if nothing of its part is intact.
    """
    part_s = (end_s - start_s) / num_frames
    last_s = math.nextafter(end_s, start_s)
    times_s = []
    for i in range(num_frames):
        chance = _uniform(f"{seed}/{key}/{i}")
        time_s = min(start_s + (i + chance) * part_s, last_s)
        if any(begin_s <= time_s < stop_s for begin_s, stop_s in damaged):
            part = start_s + i * part_s, start_s + (i + 1) * part_s
            intact = _rest(part, damaged) or _rest((start_s, end_s), damaged)
            time_s = _time_at(chance, intact) if intact else time_s
        times_s.append(time_s)
    return sorted(times_s)


def _rest(whole: Span, damaged: Sequence[Span]) -> list[Span]:
    """The spans of the whole that are not damaged."""
    bounds = [whole[0], *(min(max(bound, whole[0]), whole[1]) for span in damaged for bound in span), whole[1]]
    return [span for span in zip(bounds[::2], bounds[1::2], strict=True) if span[0] < span[1]]


def _time_at(share: float, spans: Sequence[Span]) -> float:
    """The time before which that share of the spans lies."""
    left_s = share * sum(end_s - start_s for start_s, end_s in spans)
    for start_s, end_s in spans:
        if left_s < end_s - start_s:
            return start_s + left_s
        left_s -= end_s - start_s
    return math.nextafter(spans[-1][1], spans[-1][0])


def _uniform(name: str) -> float:
    """A number in [0, 1) with 53 bits of a hash of the name."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) * 2.0**-53
