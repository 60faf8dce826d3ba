"""Features in two dimensions, by t-SNE or principal components. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float, Float64

from avdata.audit.maps import Maps
from avmanifest.errors import ConfigError
from avmanifest.wording import counted
from avmodel.evaluate.vectors import find_parts, read_keys, read_vectors

LEAST_NEIGHBORS: Final = 4
MOST_POINTS: Final = 3000
"""Points of a map, at most: t-SNE of so many takes half a minute."""

_PERPLEXITY: Final = 30.0
_LEAST_POINTS: Final = 3
_ADVICE: Final = "Give the --out of `avkit evaluate embed`."


def project(vectors: Float[np.ndarray, "n d"], method: str, perplexity: float) -> Float64[np.ndarray, "n 2"]:
    """Two coordinates a sample, of its vector at length 1; the same for the same vectors.

    Args:
        vectors: The vectors.
        method: tsne or pca.
        perplexity: Of t-SNE; less where there are few samples.
    """
    from sklearn.decomposition import PCA  # noqa: PLC0415  # a second, which commands without a map do not need
    from sklearn.manifold import TSNE  # noqa: PLC0415

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, 1e-12)
    if method == "pca":
        return np.asarray(PCA(2, random_state=0).fit_transform(unit), np.float64)
    perplexity = min(perplexity, max((len(unit) - 1) / LEAST_NEIGHBORS, 1.0))
    reduced = PCA(min(50, *unit.shape), random_state=0).fit_transform(unit)
    found = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced)
    return np.asarray(found, np.float64)


def make_maps(path: Path, keys: Sequence[str]) -> Maps:
    """A map of each stream of an embedding, for the samples of these keys.

    Of more than MOST_POINTS samples, evenly spaced ones are drawn. Vectors of two numbers are taken as they are.

    Args:
        path: See `find_parts`.
        keys: The key of each row; empty for a row that can't be on a map.

    Raises:
        ConfigError: There is no embedding, or it has less than three of the samples.
        ManifestError: A file of it is damaged, or a vector is not finite.
    """
    parts = find_parts(path)
    row_of = {key: row for row, key in reversed(list(enumerate(keys))) if key}
    embedded = [key for key in dict.fromkeys(read_keys(parts, _ADVICE)) if key in row_of]
    if len(embedded) < _LEAST_POINTS:
        raise ConfigError(
            f"{path}: has vectors of {len(embedded)} of the {counted(len(row_of), 'sample')} that are shown; a map "
            f"takes {_LEAST_POINTS}. Embed this dataset, and the split to draw (--set data.test_split=...)."
        )
    step = max(len(embedded) / MOST_POINTS, 1.0)
    wanted = [embedded[int(place * step)] for place in range(min(len(embedded), MOST_POINTS))]
    found, values = read_vectors(parts, _ADVICE, wanted)
    first = {key: place for place, key in reversed(list(enumerate(found)))}
    order = np.array([first[key] for key in wanted])
    streams = {name: _fitted(vectors[order], path, name) for name, vectors in values.items()}
    if not streams:
        raise ConfigError(f"{path}: has no vectors. {_ADVICE}")
    how = "as given" if all(vectors.shape[1] == 2 for vectors in values.values()) else "t-SNE"
    return Maps(
        rows=np.array([row_of[key] for key in wanted]),
        streams=streams,
        said=f"{len(wanted):,} of the {counted(len(row_of), 'sample')} that are shown, from {path.name}; {how}.",
    )


def _fitted(vectors: Float[np.ndarray, "n d"], path: Path, stream: str) -> Float64[np.ndarray, "n 2"]:
    """Coordinates from 0 to 1."""
    if not np.isfinite(vectors).all():
        raise ConfigError(f"{path}: a vector of {stream!r} is not finite. Embed again with another checkpoint.")
    places = vectors.astype(np.float64) if vectors.shape[1] == 2 else project(vectors, "tsne", _PERPLEXITY)
    low, high = places.min(axis=0), places.max(axis=0)
    return np.asarray((places - low) / np.maximum(high - low, 1e-12))
