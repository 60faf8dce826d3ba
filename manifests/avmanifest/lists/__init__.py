"""Reading of lists in all formats into one table with one row per requested clip."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from avmanifest.errors import ConfigError
from avmanifest.lists import documents, lines
from avmanifest.lists.folder import FOLDER_SPLITS, read_folder
from avmanifest.lists.own_columns import united
from avmanifest.lists.requests import ListFile
from avmanifest.recipe import LIST_FORMATS, ListSpec, Recipe, TableOptions, load_recipe
from avmanifest.schema import REQUEST_SCHEMA
from avmanifest.splits import recipe_splits
from avmanifest.wording import counted

__all__ = [
    "FOLDER_SPLITS",
    "ListFile",
    "folder_requests",
    "read_clip_names",
    "read_list",
    "read_requests",
]


def read_list(list_file: ListFile) -> pa.Table:
    """The rows of one list as a REQUEST_SCHEMA table. Raises ManifestError if the list does not follow its format."""
    module, _, name = LIST_FORMATS[list_file.spec.format].reader.partition(":")
    read: Callable[[ListFile], pa.Table] = getattr(import_module(f"avmanifest.lists.{module}"), name)
    table = read(list_file)
    counts = list_file.spec.official_counts
    if counts and len(table) not in counts:
        official = " or ".join(f"{count:,}" for count in counts)
        list_file.note(f"{counted(len(table), 'clip')}, where the official list has {official}")
    return table


def read_requests(
    recipe: Recipe,
    lists: Mapping[str, Path] | Path | None = None,
    splits: Sequence[str] | None = None,
    options: TableOptions | None = None,
    notes: list[str] | None = None,
) -> pa.Table:
    """Read the clips that a recipe requests.

    Args:
        recipe: The recipe.
        lists: One file, a folder with the files under their official names, or a mapping from official names to
            files. For the recipe `folder`, the folder of media.
        splits: The splits to read, or the recipe's aliases for some. None: the recipe's default splits.
        options: Column names of tables, in place of the recipe's own.
        notes: Receives one line for each thing about a list that is not as in the official one, and how it was read.

    Returns:
        A REQUEST_SCHEMA table with the rows of the lists, in their order, and the lists' own columns after those of
        the schema. A clip that is listed twice is two rows.

    Raises:
        ConfigError: A list or a split does not exist.
        ManifestError: A list does not follow its format.
    """
    selected = _selected_splits(recipe, splits)
    specs = [spec for spec in recipe.lists if not spec.splits or not selected or set(selected) & set(spec.splits)]
    for spec in specs:
        if not LIST_FORMATS[spec.format].reader:
            raise ConfigError(f"recipe {recipe.name}: has no list, because its videos are generated")
        if spec.unusable:
            raise ConfigError(f"recipe {recipe.name}: {spec.file} cannot be used: {spec.unusable}")
    notes = [] if notes is None else notes
    tables = []
    for spec, path in zip(specs, _paths(recipe, specs, lists), strict=True):
        used = spec if options is None else replace(spec, options=options)
        tables.append(read_list(ListFile(path=path, recipe=recipe, spec=used, notes=notes)))
    table = united(tables, REQUEST_SCHEMA)
    present = pc.unique(table.column("split")).to_pylist()
    if missing := [split for split in selected if split not in present and split not in recipe.splits]:
        raise ConfigError(f"recipe {recipe.name}: the list has no rows of {missing}; it has {sorted(present)}")
    if selected and set(present) - set(selected):
        table = table.filter(pc.is_in(table.column("split"), pa.array(selected, pa.string())))
    return table.combine_chunks()


def folder_requests(root: Path) -> pa.Table:
    """The media files in a folder as a REQUEST_SCHEMA table, sorted by path; see `read_folder`."""
    recipe = load_recipe("folder")
    return read_folder(ListFile(path=root, recipe=recipe, spec=recipe.lists[0]))


def read_clip_names(path: Path) -> pa.Table:
    """Read a list of names of YouTube clips: columns video_id, start_s and end_s; null if a name has no time.

    For lists that select clips: retrieval galleries (JSON with `data`), and text files with one name per line, such as
    lists of broken or silent clips. Text after a comma is ignored.
    """
    return documents.read_gallery(path) if path.suffix.lower() == ".json" else lines.read_clip_spans(path)


def _selected_splits(recipe: Recipe, splits: Sequence[str] | None) -> list[str]:
    """The selected splits without duplicates; empty: all."""
    if splits is None:
        return list(recipe.default_splits)
    if not splits:
        raise ConfigError(f"recipe {recipe.name}: no split is selected; known: {', '.join(recipe.splits)}")
    return list(dict.fromkeys(recipe_splits(recipe, splits)))


def _paths(recipe: Recipe, specs: Sequence[ListSpec], lists: Mapping[str, Path] | Path | None) -> list[Path]:
    """The file of each list."""
    if lists is None:
        raise ConfigError(_missing(recipe, specs))
    if isinstance(lists, Mapping):
        names = {spec.file for spec in recipe.lists}
        if unknown := sorted(lists.keys() - names):
            raise ConfigError(f"recipe {recipe.name}: no list is called {unknown}; known: {', '.join(sorted(names))}")
        paths = dict(lists)
    elif not lists.exists():
        raise ConfigError(f"{lists}: no such list. Give --list the file, or the folder that holds it.")
    elif len(specs) == 1 and (specs[0].format == "folder" or not lists.is_dir()):
        paths = {specs[0].file: lists}
    elif lists.is_dir():
        paths = {spec.file: lists / spec.file for spec in specs if spec.file and (lists / spec.file).is_file()}
    else:
        paths = {lists.name: lists}
    if missing := [spec for spec in specs if spec.file not in paths]:
        raise ConfigError(_missing(recipe, missing))
    for path in (paths[spec.file] for spec in specs):
        if not path.exists():
            raise ConfigError(f"{path}: no such list. Give --list the file, or the folder that holds it.")
    return [paths[spec.file] for spec in specs]


def _missing(recipe: Recipe, specs: Sequence[ListSpec]) -> str:
    if any(not spec.file for spec in specs):
        what = "the folder of media" if specs[0].format == "folder" else "a table"
        return f"recipe {recipe.name}: needs {what}. Give it with --list PATH."
    names = "; ".join(f"{spec.file} (splits {', '.join(spec.splits)}) from {spec.url}" for spec in specs)
    return (
        f"recipe {recipe.name}: missing {names}. Download what is missing and give it with --list FILE, or put "
        "the files in one folder under these names and give --list FOLDER. Fewer lists: --split."
    )
