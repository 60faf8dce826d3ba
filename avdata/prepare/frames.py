"""When a clip's stored frames are taken."""

import hashlib
import math


def draw_frame_times(seed: int, key: str, start_s: float, end_s: float, num_frames: int) -> list[float]:
    """One uniformly random time in each of num_frames equal spans of [start_s, end_s), in seconds, ascending.

    The draws are a function of (seed, key) alone: no generator's state, no library's version, no machine.
    """
    span_s = (end_s - start_s) / num_frames
    last_s = math.nextafter(end_s, start_s)
    return [min(start_s + (i + _uniform(f"{seed}/{key}/{i}")) * span_s, last_s) for i in range(num_frames)]


def _uniform(name: str) -> float:
    """A number in [0, 1) with 53 random bits, drawn by the name."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) * 2.0**-53
