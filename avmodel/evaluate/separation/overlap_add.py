"""Overlap-add: a long signal from a model's output windows, in bounded memory."""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float32


def overlap_add(
    pieces: Iterable[tuple[int, Float32[np.ndarray, "c n"]]], size: int
) -> Iterator[Float32[np.ndarray, "c m"]]:
    """Yield the whole signal in parts.

    A piece is weighted by the distance from its ends, as if it were `size` long: overlapping pieces fade into each
    other, and a piece that overlaps none is unchanged. Pieces of one signal give that signal. Only the part that later
    pieces overlap is held in memory.

    Args:
        pieces: First sample and samples of each piece, ordered by first sample.
        size: Samples of a full piece.
    """
    fade = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)).astype(np.float32)
    begin, total, weight = 0, np.zeros((0, 0), np.float32), np.zeros(0, np.float32)
    for start, piece in pieces:
        length = piece.shape[1]
        if not len(total):
            total = np.zeros((len(piece), 0), np.float32)
        done = min(start - begin, total.shape[1])
        if done > 0:
            yield total[:, :done] / weight[:done].clip(min=1)
            total, weight, begin = total[:, done:], weight[done:], begin + done
        more = max(start - begin + length - total.shape[1], 0)
        total, weight = np.pad(total, ((0, 0), (0, more))), np.pad(weight, (0, more))
        place = slice(start - begin, start - begin + length)
        total[:, place] += piece * fade[:length]
        weight[place] += fade[:length]
    if total.size:
        yield total / weight.clip(min=1)
