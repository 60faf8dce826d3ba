"""Finds clips of known test sets in a dataset, so that models are not trained on their test data."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from avmanifest.errors import AvkitError, ConfigError
from avmanifest.lists import ListFile, read_list
from avmanifest.recipe import LIST_FORMATS, ListSpec, Recipe, load_recipe, recipe_names

_MOST_FILES: Final = 100_000
_TEST_WORDS: Final = ("test", "eval", "mixtures", "duet_boxes")


def overlaps(tables: Mapping[str, pa.Table], lists: Sequence[str], recipe: str = "") -> list[dict[str, Any]]:
    """Count the videos and clips of known test sets in each split of a dataset.

    Args:
        tables: Rows of the manifest by split.
        lists: Folders that are searched for files with the official names of avkit's recipes, or `RECIPE=FILE`.
        recipe: Name of the dataset's own recipe. A split does not overlap with itself.

    Returns:
        One entry per test set and split, with source videos (by id) and clips (by id and start), requested and sampled.
        An entry of a list that cannot be read has `problem` instead.

    Raises:
        ConfigError: A folder or file does not exist.
    """
    entries: list[dict[str, Any]] = []
    for test_recipe, spec, path in _known_lists(lists):
        if not any(_is_test(split) for split in spec.splits):
            continue
        try:
            listed = read_list(ListFile(path=path, recipe=test_recipe, spec=spec))
        except AvkitError as error:
            entries.append({"test_set": test_recipe.name, "list": path.name, "problem": str(error)})
            continue
        for split in pc.unique(listed.column("split")).to_pylist():
            if not _is_test(split):
                continue
            test = listed.filter(pc.equal(listed.column("split"), split))
            for own, table in tables.items():
                if (test_recipe.name, split) != (recipe, own):
                    entries.append(
                        {"test_set": test_recipe.name, "test_split": split, "split": own, **_shared(test, table)}
                    )
    return entries


def _is_test(split: str) -> bool:
    return any(word in split for word in _TEST_WORDS)


def _shared(test: pa.Table, table: pa.Table) -> dict[str, int]:
    videos = pc.unique(test.column("video_id"))
    mine = table.filter(pc.is_in(table.column("video_id"), value_set=videos))
    sampled = mine.filter(pc.equal(mine.column("status"), "ok"))
    clips = pc.unique(_clip_ids(test))
    return {
        "test_videos": len(videos),
        "videos": pc.count_distinct(mine.column("video_id")).as_py(),
        "sampled_videos": pc.count_distinct(sampled.column("video_id")).as_py(),
        "clips": len(mine),
        "sampled_clips": len(sampled),
        "same_clips": pc.sum(pc.is_in(_clip_ids(mine), value_set=clips)).as_py() or 0,
    }


def _clip_ids(table: pa.Table) -> pa.Array:
    whole_ms = pc.round(pc.multiply(pc.fill_null(table.column("start_s"), 0.0), 1000.0)).cast(pa.int64())
    return pc.binary_join_element_wise(table.column("video_id"), whole_ms.cast(pa.string()), " ").combine_chunks()


def _known_lists(lists: Sequence[str]) -> Iterator[tuple[Recipe, ListSpec, Path]]:
    """The official lists among `lists`, each once."""
    seen: set[tuple[str, str]] = set()
    for source in lists:
        name, equals, file = source.partition("=")
        if equals and name in recipe_names():
            candidates = [(load_recipe(name), Path(file))]
            if not candidates[0][1].is_file():
                raise ConfigError(f"{file}: no such list. Use --lists {name}=FILE with an existing file.")
        else:
            candidates = [(load_recipe(recipe), path) for recipe in recipe_names() for path in _files(source)]
        for recipe, path in candidates:
            specs = [
                spec for spec in recipe.lists if LIST_FORMATS[spec.format].reader and spec.file and not spec.unusable
            ]
            if equals and name in recipe_names():
                specs = [spec for spec in specs if spec.file == path.name] or specs[:1]
            else:
                specs = [spec for spec in specs if spec.file == path.name]
            for spec in specs:
                if (recipe.name, spec.file) not in seen:
                    seen.add((recipe.name, spec.file))
                    yield recipe, spec, path


def _files(folder: str) -> list[Path]:
    root = Path(folder)
    if not root.is_dir() or not os.access(root, os.R_OK | os.X_OK):
        raise ConfigError(f"{folder}: no such folder of lists. Use --lists with a folder, or with RECIPE=FILE.")
    names = {spec.file for name in recipe_names() for spec in load_recipe(name).lists if spec.file}
    paths = []
    for number, path in enumerate(sorted(root.rglob("*"))):
        if number > _MOST_FILES:
            raise ConfigError(f"{folder}: more than {_MOST_FILES:,} files. Use a folder that has only the lists.")
        if path.name in names and path.is_file():
            paths.append(path)
    return paths
