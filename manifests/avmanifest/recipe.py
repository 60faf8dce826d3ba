"""Recipes: descriptions of datasets in TOML, with their lists, splits, labels, key template and licence.

A recipe is a file in `avmanifest/recipes/`, or a user's file of the same format.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, get_args, get_type_hints

from avmanifest.clipnames import TimeUnit
from avmanifest.errors import ConfigError
from avmanifest.files import read_text
from avmanifest.labels import fold_label, spelling_table, unknown_label
from avmanifest.layout import SPLIT_PATTERN
from avmanifest.names import unknown_name
from avmanifest.parsing import are_names, parse_toml
from avmanifest.settings import Option

RECIPES: Final = Path(__file__).parent / "recipes"
TABLE_PANEL: Final = "Recipe table"
"""Heading of the options of a table in prepare's help."""
_LARGEST: Final = 1e9  # of numbers in a recipe, which are counts and seconds


@dataclass(frozen=True, slots=True)
class ListFormat:
    """A format of lists."""

    reader: str  # MODULE:FUNCTION below avmanifest.lists, imported when a list is read; empty: there is no list
    looks: str  # description of its files


LIST_FORMATS: Final[Mapping[str, ListFormat]] = MappingProxyType(
    {
        "pattern": ListFormat("lines:read_pattern", "one clip per line, matched by the recipe's pattern"),
        "columns": ListFormat(
            "lines:read_columns", "values separated by the recipe's delimiter, in the order of its columns"
        ),
        "table": ListFormat(
            "tables:read_table_list", "csv, tsv, parquet or jsonl with a header; options name the columns"
        ),
        "folder": ListFormat("folder:read_folder", "a folder of media files"),
        "pairs": ListFormat(
            "documents:read_pairs", "header source_1,source_2,class_1,class_2,sep_type; two clips mixed"
        ),
        "vggsounder": ListFormat(
            "documents:read_vggsounder", "header video_id,label,modality,background_music,...; a row per label"
        ),
        "vggss": ListFormat("documents:read_vggss", "JSON list of {file, class, bbox}"),
        "music": ListFormat("documents:read_music", 'JSON object {"videos": {"flute violin": [id, ...]}}'),
        "music-boxes": ListFormat(
            "documents:read_music_boxes", "JSON list of {file, class_src1, bbox_src1, class_src2, bbox_src2}"
        ),
        "music-mixtures": ListFormat(
            "documents:read_music_mixtures", "audio paths of the mixed sources, four per line"
        ),
        "avsbench-frames": ListFormat("documents:read_avsbench_frames", "name_N,label(s): a row per frame"),
        "avsbench": ListFormat("documents:read_avsbench", "header vid,uid,s_min,s_sec,a_obj,split,label"),
        "synth": ListFormat("", "no list: the videos are generated"),
    }
)
"""The list formats by name."""

ROLES: Final = ("video_id", "clip", "path", "start", "end", "label", "same_label", "split")
"""Names that a group of a pattern or a column may have; see `docs/adding-a-dataset.md`."""

ANNOTATION_KINDS: Final = ("text", "texts", "int", "float")
"""Types of annotations. `texts` is a list of texts; the lists of merged rows are concatenated."""

_TEMPLATE_FIELD: Final = re.compile(r"\{([^{}]*)\}")
_TEMPLATE: Final = re.compile(r"(?:[A-Za-z0-9_-]|\{(?:video_id|start|start_ms|slug)\})+")
_MASK_FIELDS: Final = ("split", "label", "subset", "video_id", "uid", "frame")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """The names of a table's columns. None: the usual name, if the table has such a column."""

    id_column: Annotated[
        str | None, "Column of the video's id. none: id.", Option("--id-column", TABLE_PANEL, "COLUMN")
    ] = None
    path_column: Annotated[
        str | None,
        "Column of the path below a source; the id is then the path without its suffix. none: path.",
        Option("--path-column", TABLE_PANEL, "COLUMN"),
    ] = None
    start_column: Annotated[
        str | None,
        "Column of the start of the clip, in seconds. none: start, if there is one, else 0.",
        Option("--start-column", TABLE_PANEL, "COLUMN"),
    ] = None
    end_column: Annotated[
        str | None,
        "Column of the end of the clip, in seconds. none: end, if there is one.",
        Option("--end-column", TABLE_PANEL, "COLUMN"),
    ] = None
    label_column: Annotated[
        str | None,
        "Column of the label or labels. none: label, if there is one.",
        Option("--label-column", TABLE_PANEL, "COLUMN"),
    ] = None
    split_column: Annotated[
        str | None,
        "Column of the split. none: split, if there is one, else train.",
        Option("--split-column", TABLE_PANEL, "COLUMN"),
    ] = None
    label_separator: Annotated[
        str | None,
        "Text between the labels of one cell. none: one label per cell.",
        Option("--label-separator", TABLE_PANEL, "TEXT"),
    ] = None
    columns: Annotated[
        tuple[str, ...] | None,
        "Other columns to keep in the dataset, by name. *: all; none: no other column.",
        Option("--columns", TABLE_PANEL, "COLUMN"),
    ] = ("*",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSpec:
    """One file that lists clips."""

    format: str  # one of LIST_FORMATS
    file: str = ""  # the official file's name; empty: any file
    url: str = ""  # where to download the official file
    sha256: str = ""  # of the official file, if known
    splits: tuple[str, ...] = ()  # one: the split of all rows; several or none: a column has the split
    counts: Mapping[str, int] = field(default_factory=dict)  # split -> number of clips in the official list
    rows: int = 0  # number of clips in the official list, if it is not the sum of counts
    clip_seconds: float | None = None  # duration of a clip, if not the recipe's
    pattern: str = ""  # RE2 expression of a line; its groups are named as in ROLES and annotations (format pattern)
    comment: str = ""  # prefix of lines that are ignored (format pattern)
    delimiter: str = ","  # one character between the values of a line (format columns)
    columns: tuple[str, ...] = ()  # name of each column in ROLES or annotations; _: ignored (format columns)
    header: str = ""  # required text of the first line (formats pattern and columns)
    skip_header: bool = False  # the first line is a header with any text (formats pattern and columns)
    expects: str = ""  # description of a line, for error messages
    unit: TimeUnit = "auto"  # unit of the numbers in clip names; with ms also of start and end
    annotations: Mapping[str, str] = field(default_factory=dict)  # group or column -> text, texts, int or float
    subset: str = ""  # value that selects the rows of this recipe in a shared list
    masks: str = ""  # template of a mask's path, with {split} {label} {subset} {video_id} {uid} {frame}
    masked_frames: int = 0  # number of frames, from the first on, that have a mask; 0: all
    merge: bool = False  # merge the rows of a clip into one with all labels (formats pattern, columns, table)
    options: TableOptions = field(default_factory=TableOptions)
    unusable: str = ""  # reason why the published list cannot be used; empty: it can

    @property
    def official_counts(self) -> tuple[int, ...]:
        """Numbers of clips that the official list may have; empty: not known."""
        known = (self.rows, sum(self.counts.values()))
        return tuple(dict.fromkeys(count for count in known if count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The description of a dataset."""

    name: str
    title: str
    homepage: str
    licence: str
    key: str  # template: letters, digits, - and _ around {video_id} {start} {start_ms} {slug}
    citation: str = ""
    published: str = ""  # date of publication: a year, or YYYY-MM-DD; empty: the date of preparation
    task_categories: tuple[str, ...] = ("audio-classification", "video-classification")  # names of the Hugging Face hub
    note: str = ""  # a warning to users of the dataset
    clip_seconds: float | None = None  # duration of a clip; None: the whole file
    frame_times_s: tuple[float, ...] = ()  # exact times of the frames, in seconds from the clip's start
    labels: tuple[str, ...] = ()  # in the order of the class indices; empty: the labels of the list
    aliases: Mapping[str, str] = field(default_factory=dict)  # other name -> label
    optional_prefixes: tuple[str, ...] = ()  # prefixes that a spelling may omit
    default_splits: tuple[str, ...] = ()  # empty: all
    split_aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # further name -> splits, as in `splits`
    lists: tuple[ListSpec, ...] = ()
    spellings: Mapping[str, str] = field(default_factory=dict, repr=False)  # folded spelling -> label; derived

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the lists, in their order."""
        return tuple(dict.fromkeys(split for spec in self.lists for split in spec.splits))

    @property
    def counts(self) -> dict[str, int]:
        """Split -> number of clips in the official list, where it is known."""
        return {split: count for spec in self.lists for split, count in spec.counts.items()}


def recipe_names() -> list[str]:
    """The recipes that come with avkit, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Load a recipe.

    Args:
        name_or_path: The name of a recipe of avkit, or the path of a TOML file. A text with a slash or the suffix .toml
            is a path.

    Raises:
        ConfigError: The recipe does not exist or is not valid; the message names the file and the line.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(".toml"):
        return _read_recipe(Path(name_or_path))
    if text not in recipe_names():
        raise ConfigError(
            f"{unknown_name('recipe', text, recipe_names())}. Give a recipe of your own as a path that ends in .toml."
        )
    return _packaged_recipe(text)


def canonical_label(recipe: Recipe, spelling: str) -> str:
    """The canonical name of a label in any known spelling.

    If the recipe has no labels, the spelling is returned. Raises ConfigError for an unknown label.
    """
    if not recipe.labels:
        return spelling
    label = recipe.spellings.get(fold_label(spelling))
    if label is None:
        raise ConfigError(f"recipe {recipe.name}: label {spelling!r}, {unknown_label(spelling, recipe.labels)}")
    return label


@cache
def _packaged_recipe(name: str) -> Recipe:
    return _read_recipe(RECIPES / f"{name}.toml")


def _read_recipe(path: Path) -> Recipe:
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable recipe ({error})") from error
    return _recipe_from(_Source(path, text), parse_toml(text, path, ConfigError))


@dataclass(frozen=True, slots=True)
class _Source:
    """The file that a value was read from, for error messages."""

    path: Path
    text: str

    def at(self, key: str) -> str:
        """`path:line` of the first line that sets the key or opens its table; only the path if there is none."""
        setting = re.compile(rf"""\s*(?:\[+\s*(?:[\w.-]+\.)?)?["']?{re.escape(key)}["']?\s*(?:=|\])""")
        for number, line in enumerate(self.text.splitlines(), start=1):
            if setting.match(line):
                return f"{self.path}:{number}"
        return str(self.path)


def _recipe_from(source: _Source, data: dict[str, Any]) -> Recipe:
    parent = data.pop("labels_from", None)
    if "spellings" in data:
        raise ConfigError(f"{source.at('spellings')}: unknown key 'spellings'; write them under [aliases]")
    lists = data.pop("lists", [])
    if not isinstance(lists, list) or not all(isinstance(entry, dict) for entry in lists):
        raise ConfigError(f"{source.at('lists')}: lists must be tables, each opened by [[lists]]")
    values = _checked(source, "recipe", Recipe, data, extra=("labels_from", "lists"))
    if parent is not None:
        values |= _inherited_labels(source, parent, values)
    values["lists"] = tuple(_list_spec(source, entry) for entry in lists)
    try:
        values["spellings"] = spelling_table(
            values.get("labels", ()), values.get("aliases", {}), values.get("optional_prefixes", ())
        )
    except ConfigError as error:
        raise ConfigError(f"{source.at('labels')}: {error}") from error
    recipe = Recipe(**values)
    _check_recipe(source, recipe)
    return recipe


def _inherited_labels(source: _Source, parent: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    if twice := {"labels", "aliases", "optional_prefixes"} & values.keys():
        raise ConfigError(f"{source.at('labels_from')}: labels_from already sets {sorted(twice)}. Remove one of them.")
    if parent not in recipe_names() or parent == source.path.stem:
        raise ConfigError(f"{source.at('labels_from')}: {unknown_name('recipe', str(parent), recipe_names())}")
    base = _packaged_recipe(parent)
    return {
        "labels": base.labels,
        "aliases": base.aliases,
        "optional_prefixes": base.optional_prefixes,
    }


def _list_spec(source: _Source, entry: dict[str, Any]) -> ListSpec:
    options = entry.pop("options", {})
    if not isinstance(options, dict):
        raise ConfigError(f"{source.at('options')}: options must be a table")
    values = _checked(source, "list", ListSpec, entry, extra=("options",))
    values["options"] = TableOptions(**_checked(source, "table options", TableOptions, options))
    spec = ListSpec(**values)
    if spec.format not in LIST_FORMATS:
        raise ConfigError(
            f"{source.at('format')}: {unknown_name('list format', spec.format, LIST_FORMATS)}. "
            'A list with one clip per line needs format = "pattern" or "columns": see docs/adding-a-dataset.md.'
        )
    _check_form(source, spec)
    if spec.sha256 and not _SHA256.fullmatch(spec.sha256):
        raise ConfigError(f"{source.at('sha256')}: sha256 {spec.sha256!r} is not 64 hexadecimal digits")
    if spec.file != Path(spec.file).name:
        raise ConfigError(f"{source.at('file')}: file {spec.file!r} must be a name without a folder")
    if spec.clip_seconds is not None and spec.clip_seconds <= 0:
        raise ConfigError(f"{source.at('clip_seconds')}: clip_seconds must be above 0")
    unknown_fields = set(_TEMPLATE_FIELD.findall(spec.masks)) - set(_MASK_FIELDS)
    if unknown_fields or set("{}") & set(_TEMPLATE_FIELD.sub("", spec.masks)):
        allowed = ", ".join(f"{{{name}}}" for name in _MASK_FIELDS)
        raise ConfigError(f"{source.at('masks')}: masks {spec.masks!r} may contain only the fields {allowed}")
    for split in (*spec.splits, *spec.counts):
        _check_split(source, split)
    if unknown := sorted(spec.counts.keys() - set(spec.splits)):
        raise ConfigError(
            f"{source.at('counts')}: counts has {unknown}, which are not splits of the list: {list(spec.splits)}"
        )
    return spec


def _check_form(source: _Source, spec: ListSpec) -> None:
    """Raise ConfigError for a pattern or columns that cannot yield clips."""
    if spec.unit not in get_args(TimeUnit):
        raise ConfigError(f"{source.at('unit')}: unknown unit {spec.unit!r}; known: {', '.join(get_args(TimeUnit))}")
    for kind in spec.annotations.values():
        if kind not in ANNOTATION_KINDS:
            raise ConfigError(
                f"{source.at('annotations')}: unknown kind {kind!r} of an annotation; "
                f"known: {', '.join(ANNOTATION_KINDS)}"
            )
    if spec.format == "pattern":
        try:
            names = list(re.compile(spec.pattern).groupindex)
        except re.error as error:
            raise ConfigError(
                f"{source.at('pattern')}: pattern {spec.pattern!r} is not a regular expression: {error}"
            ) from error
        key = "pattern"
    elif spec.format == "columns":
        names, key = [name for name in spec.columns if name != "_"], "columns"
        if len(spec.delimiter) != 1 or spec.delimiter in '"\r\n':
            raise ConfigError(f"{source.at('delimiter')}: delimiter {spec.delimiter!r} must be one character")
    else:
        return
    allowed = (*ROLES, *spec.annotations)
    if unknown := [name for name in names if name not in allowed]:
        raise ConfigError(
            f"{source.at(key)}: {key} names {unknown[0]!r}; known: {', '.join(allowed)}. "
            "List it under annotations to store it with the clip, or remove the name to ignore it."
        )
    if missing := [name for name in spec.annotations if name not in names]:
        raise ConfigError(f"{source.at('annotations')}: {key} has no {missing[0]!r}; it has {', '.join(names)}")
    if not {"video_id", "clip", "path"} & set(names) or {"clip", "video_id"} <= set(names):
        raise ConfigError(
            f"{source.at(key)}: {key} must have one of video_id (an id), clip (the name of a clip) and path "
            f"(a file), not {', '.join(names) or 'nothing'}"
        )


def _check_split(source: _Source, split: str) -> None:
    if not SPLIT_PATTERN.fullmatch(split):
        raise ConfigError(
            f"{source.at('splits')}: split {split!r} must be lower-case letters, digits and _, beginning with a letter"
        )


def _check_recipe(source: _Source, recipe: Recipe) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", recipe.name):
        raise ConfigError(f"{source.at('name')}: name {recipe.name!r} must be lower-case letters, digits and -")
    template_fields = _TEMPLATE_FIELD.findall(recipe.key)
    if not _TEMPLATE.fullmatch(recipe.key) or not {"video_id", "slug"} & set(template_fields):
        raise ConfigError(
            f"{source.at('key')}: key {recipe.key!r} must contain {{video_id}} or {{slug}}, and beside it only "
            "letters, digits, -, _, {start} (whole seconds, six digits) and {start_ms}"
        )
    if recipe.key.startswith(("{video_id}", "_", "-")):
        raise ConfigError(
            f"{source.at('key')}: key {recipe.key!r} must begin with a letter, a digit or {{slug}}: "
            "an id may begin with _ or -, and readers ignore such files"
        )
    if not re.fullmatch(r"|\d{4}(?:-\d{2}-\d{2})?", recipe.published):
        raise ConfigError(f"{source.at('published')}: published {recipe.published!r} must be a year or YYYY-MM-DD")
    if recipe.clip_seconds is not None and recipe.clip_seconds <= 0:
        raise ConfigError(f"{source.at('clip_seconds')}: clip_seconds must be above 0")
    if recipe.splits and (unknown := sorted(set(recipe.default_splits) - set(recipe.splits))):
        raise ConfigError(
            f"{source.at('default_splits')}: no list has the splits {unknown}; known: {list(recipe.splits)}"
        )
    for alias, members in recipe.split_aliases.items():
        _check_split(source, alias)
        if alias in recipe.splits:
            raise ConfigError(f"{source.at('split_aliases')}: alias {alias!r} is also a split of a list. Rename it.")
        if not members or (recipe.splits and set(members) - set(recipe.splits)):
            raise ConfigError(
                f"{source.at('split_aliases')}: alias {alias!r} must name one or more of {list(recipe.splits)}, "
                f"not {list(members)}"
            )
        for member in members:
            _check_split(source, member)
    if not recipe.lists:
        raise ConfigError(f"{source.path}: a recipe needs at least one [[lists]]")


def _checked(
    source: _Source, what: str, kind: type[Any], data: dict[str, Any], extra: Sequence[str] = ()
) -> dict[str, Any]:
    """The values of a dataclass with their declared types. Raises ConfigError for unknown, missing and wrong values."""
    by_name = {entry.name: entry for entry in fields(kind) if entry.name not in ("spellings", *extra)}
    for key in data:
        if key not in by_name:
            names = unknown_name("key", key, [*by_name, *extra], owner=f" of a {what}")
            raise ConfigError(f"{source.at(key)}: {names}")
    for entry in by_name.values():
        required = entry.default is MISSING and entry.default_factory is MISSING
        if required and entry.name not in data:
            raise ConfigError(f"{source.path}: a {what} needs the key {entry.name!r}")
    kinds = get_type_hints(kind)
    return {key: _typed(source, key, value, kinds[key]) for key, value in data.items()}


def _typed(source: _Source, key: str, value: Any, kind: Any) -> Any:
    def is_text(item: Any) -> bool:
        return isinstance(item, str)

    def is_number(item: Any) -> bool:
        return isinstance(item, int | float) and not isinstance(item, bool) and abs(item) <= _LARGEST

    expected = "text"
    if kind in (str, str | None, TimeUnit) and is_text(value):
        return value
    if kind is bool:
        expected = "true or false"
        if isinstance(value, bool):
            return value
    if kind is int:
        expected = "a whole number, 0 or more"
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    if kind == float | None:
        expected = "a number"
        if is_number(value):
            return float(value)
    if kind == tuple[str, ...]:
        expected = "a list of texts, none twice"
        named = [item for item in value if item != "_"] if isinstance(value, list) else []
        if isinstance(value, list) and all(map(is_text, value)) and len(set(named)) == len(named):
            return tuple(value)
    if kind == tuple[float, ...]:
        expected = "a list of numbers, 0 or more"
        if isinstance(value, list) and all(is_number(item) and item >= 0 for item in value):
            return tuple(map(float, value))
    if kind == Mapping[str, str]:
        expected = "a table of texts"
        if isinstance(value, dict) and all(map(is_text, value.values())):
            return dict(value)
    if kind == Mapping[str, tuple[str, ...]]:
        expected = "a table of lists of texts, none twice in a list"
        if isinstance(value, dict) and all(are_names(names) for names in value.values()):
            return {name: tuple(names) for name, names in value.items()}
    if kind == Mapping[str, int]:
        expected = "a table of whole numbers"
        if isinstance(value, dict) and all(type(item) is int and item >= 0 for item in value.values()):
            return dict(value)
    raise ConfigError(f"{source.at(key)}: {key} must be {expected}, not {value!r}")
