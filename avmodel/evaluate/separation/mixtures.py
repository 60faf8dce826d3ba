"""Mixtures of clips: of each batch in training, and a list for the test that can be used again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Int

from avdata.load import Batch
from avmanifest.errors import ConfigError, ManifestError, ShardError
from avmanifest.files import read_text, replace_text, write_errors
from avmanifest.keys import clip_keys
from avmanifest.lists import read_requests
from avmanifest.parsing import metadata_of, parse_object
from avmanifest.recipe import load_recipe
from avmanifest.wording import counted
from avmodel.evaluate.config import EvalDataConfig
from avmodel.evaluate.data import Split, keys_of_clips, manifests_of
from avmodel.evaluate.separation.config import AUTO, DRAWN

MIXTURES_FILE = "mixtures.json"
_ATTEMPTS: Final = 50
_SHOWN: Final = 3
_PARTNERS: Final = 4  # number of its random stream
# Lists in other formats, recognized by their first line: the recipe and split that read them.
_PAIRS, _PATHS = ("vggsound-music", "test"), ("music", "mixtures")


class Mixture(NamedTuple):
    """Keys of the clips that are mixed, and the list's name for such a mixture: Easy, Hard, or empty."""

    keys: tuple[str, ...]
    kind: str = ""


class MixtureList(NamedTuple):
    """The mixtures of a test, and a note on them for the result."""

    mixtures: list[Mixture]
    note: str


def partners(batch: Batch, sources: int, seed: int) -> Int[np.ndarray, "s b"]:
    """Rows of the batch that are mixed: column k has sample k, then the samples that are added to it.

    Depends only on the seed, the epoch and the samples' positions in its order. Every sample is added equally often.
    Raises ShardError for fewer samples than sources, which damaged samples may leave.
    """
    size = len(batch)
    if size < sources:
        raise ShardError(
            f"a batch of {counted(size, 'sample')} ({', '.join(batch.keys)}) for mixtures of {sources} is too small. "
            "Repair the damaged samples."
        )
    chance = np.random.default_rng([seed, _PARTNERS, batch.epoch, *batch.positions.tolist()])
    circle = chance.permutation(size)
    rows = np.empty((sources, size), np.int64)
    for place in range(sources):
        rows[place, circle] = np.roll(circle, -place)
    return rows


def choose_mixtures(
    mixtures: str, data: EvalDataConfig, test: Split, *, sources: int, count: int, seed: int
) -> MixtureList:
    """The test's mixtures. `mixtures`: a list's path, drawn, or auto: those of the dataset's recipe, else drawn.

    Raises ConfigError for a list that doesn't fit, ManifestError for one that can't be read.
    """
    if mixtures == DRAWN:
        return draw_mixtures(test, sources=sources, count=count, seed=seed)
    if mixtures == AUTO:
        listed = annotated(data, test)
        return (
            fitting(listed, test, "the dataset's own list")
            if listed
            else choose_mixtures(DRAWN, data, test, sources=sources, count=count, seed=seed)
        )
    return fitting(read_mixtures(Path(mixtures), data, test), test, Path(mixtures).name)


def fitting(listed: Sequence[Mixture], test: Split, name: str) -> MixtureList:
    """The listed mixtures whose clips are all in the split.

    Raises ConfigError if there is none, or if they have different numbers of clips.
    """
    here = set(test.dataset.keys.to_pylist())
    found = [mixture for mixture in listed if here.issuperset(mixture.keys)]
    missing = sorted({key for mixture in listed for key in mixture.keys} - here)
    if not found:
        raise ConfigError(
            f"{name}: none of its {len(listed)} mixtures has all its clips in {test.name}; missing: "
            f"{', '.join(missing[:_SHOWN])}, ... Prepare them, or set mixtures={DRAWN}."
        )
    sizes = sorted({len(mixture.keys) for mixture in found})
    if len(sizes) > 1 or sizes[0] < 2 or any(len(set(mixture.keys)) < len(mixture.keys) for mixture in found):
        raise ConfigError(f"{name}: mixtures of {sizes} clips. All must have the same number of different clips.")
    note = f"mixtures of {name}: {len(found)} of its {len(listed)}"
    return MixtureList(found, note + (f"; {len(missing)} of their clips are missing" if missing else ""))


def draw_mixtures(test: Split, *, sources: int, count: int, seed: int) -> MixtureList:
    """Mixtures of clips of different classes, which depend only on the keys and the seed.

    Every clip is the first of about as many mixtures. A clip without a class mixes with any other. Raises ConfigError
    for too few classes.
    """
    dataset = test.dataset
    keys = dataset.keys.to_pylist()
    start = dataset.label_start
    classes = [frozenset(dataset.label_ids[start[row] : start[row + 1]].tolist()) for row in range(len(keys))]
    chance = np.random.default_rng([seed, len(keys)])
    found: dict[frozenset[int], tuple[int, ...]] = {}
    firsts = np.concatenate([chance.permutation(len(keys)) for _ in range(-(-count // len(keys)))])[:count]
    for first in firsts.tolist():
        for _ in range(_ATTEMPTS):
            rows = _different(first, classes, sources, chance)
            if rows is None:
                break
            if frozenset(rows) not in found:
                found[frozenset(rows)] = rows
                break
    if not found:
        raise ConfigError(
            f"{test.name}: {counted(len(keys), 'clip')} of {counted(len(set(classes)), 'class', 'classes')} give no "
            f"mixture of {sources} clips of "
            "different classes. Set sources lower, or prepare more clips."
        )
    note = f"{counted(len(found), 'mixture')} of different classes drawn by seed {seed}, kept in {MIXTURES_FILE}"
    return MixtureList([Mixture(tuple(keys[row] for row in rows)) for rows in found.values()], note)


def _different(
    first: int, classes: Sequence[frozenset[int]], sources: int, chance: np.random.Generator
) -> tuple[int, ...] | None:
    """Random rows that begin with `first` and share no class; None if none fits the rows drawn so far."""
    rows = [first]
    for row in chance.permutation(len(classes)).tolist():
        if len(rows) == sources:
            break
        if row not in rows and not any(classes[row] & classes[other] for other in rows):
            rows.append(row)
    return tuple(rows) if len(rows) == sources else None


def read_mixtures(path: Path, data: EvalDataConfig, test: Split) -> list[Mixture]:
    """The mixtures of a list: an earlier result's, VGGSound-Music's pairs, or CCoL's audio paths.

    Clips are found by key, or by video and start. Raises ConfigError for a missing file, ManifestError for a file
    that isn't such a list.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"mixtures={path}: cannot be read ({error}). Give a list of mixtures, or {DRAWN}.") from error
    if text.lstrip().startswith("{"):
        return _own_list(text, path)
    recipe, split = _PAIRS if text.startswith("source_1") else _PATHS
    rows = read_requests(load_recipe(recipe), path, [split])
    keys = clip_keys(load_recipe(recipe), rows).to_pylist()
    listed = mixtures_in(keys, rows.column("annotations").to_pylist())
    names = {key: here for key, here in zip(keys, keys_of_clips(data, test, rows), strict=True) if here is not None}
    return [mixture._replace(keys=tuple(names.get(key, key) for key in mixture.keys)) for mixture in listed]


def _own_list(text: str, path: Path) -> list[Mixture]:
    content = parse_object(text, f"{path}: not a list of mixtures")
    try:
        found = [Mixture(tuple(row["keys"]), str(row.get("kind", ""))) for row in content["mixtures"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f'{path}: not a list of mixtures ({error!r}); expected {{"mixtures": [{{"keys": []}}]}}'
        ) from error
    if not all(isinstance(key, str) for mixture in found for key in mixture.keys):
        raise ManifestError(f"{path}: keys of mixtures must be strings")
    return found


def mixtures_in(keys: Sequence[str], annotations: Sequence[str | None]) -> list[Mixture]:
    """The mixtures named by the clips' annotations, in the order of their list."""
    found: dict[int, Mixture] = {}
    for key, text in zip(keys, annotations, strict=True):
        try:
            for row in metadata_of(text).get("mixtures", []):
                found[int(row["index"])] = Mixture((key, *map(str, row["with"])), str(row["kind"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestError(f"{key}: its annotations have mixtures that cannot be read ({error!r})") from error
    return [found[index] for index in sorted(found)]


def annotated(data: EvalDataConfig, test: Split) -> list[Mixture]:
    """The mixtures named by the dataset's manifests, such as those of recipe vggsound-music; empty for shards."""
    found = []
    for table in manifests_of(data, test, ("key", "annotations")):
        rows = table.filter(pc.match_substring(table.column("annotations"), '"mixtures"'))
        found += mixtures_in(rows.column("key").to_pylist(), rows.column("annotations").to_pylist())
    return found


def write_mixtures(mixtures: Sequence[Mixture], folder: Path) -> Path:
    """Write the list, which `mixtures=PATH` reads. Raises StorageError if it can't be written."""
    path = folder / MIXTURES_FILE
    rows = [{"keys": list(mixture.keys), "kind": mixture.kind} for mixture in mixtures]
    with write_errors(path):
        replace_text(path, json.dumps({"mixtures": rows}, indent=0) + "\n")
    return path
