"""Random times of a clip's stored frames."""

import hashlib
import math


def draw_frame_times(seed: int, key: str, start_s: float, end_s: float, num_frames: int) -> list[float]:
    """One uniformly random time in each of num_frames equal parts of [start_s, end_s), in seconds, ascending.

    The times depend only on the arguments: not on a generator's state, a library's version or the machine.
    """
    span_s = (end_s - start_s) / num_frames
    last_s = math.nextafter(end_s, start_s)
    return [min(start_s + (i + _uniform(f"{seed}/{key}/{i}")) * span_s, last_s) for i in range(num_frames)]


def _uniform(name: str) -> float:
    """A number in [0, 1) with 53 bits of a hash of the name."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) * 2.0**-53
