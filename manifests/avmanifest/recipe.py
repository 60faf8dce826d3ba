"""A dataset as data: its lists, splits, labels, key and licence, read from a TOML file.

A recipe is a file of `avmanifest/recipes/`, or any file of the same form that a user writes.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, get_args, get_type_hints

from avmanifest.clipnames import TimeUnit
from avmanifest.errors import ConfigError
from avmanifest.labels import fold_label, spelling_table, unknown_label
from avmanifest.layout import SPLIT_PATTERN

RECIPES: Final = Path(__file__).parent / "recipes"


@dataclass(frozen=True, slots=True)
class ListFormat:
    """A form of lists: who reads it, and what its files look like."""

    reader: str  # MODULE:FUNCTION below avmanifest.lists, imported when a list is read; empty: nothing is read
    looks: str


LIST_FORMATS: Final[Mapping[str, ListFormat]] = MappingProxyType(
    {
        "pattern": ListFormat("lines:read_pattern", "a clip per line, matched by the recipe's pattern"),
        "columns": ListFormat(
            "lines:read_columns", "values between the recipe's delimiter, in the order of its columns"
        ),
        "table": ListFormat(
            "tables:read_table_list", "csv, tsv, parquet or jsonl with a header; the options name columns"
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
        "music-mixtures": ListFormat("documents:read_music_mixtures", "audio paths of the sources mixed, four a line"),
        "avsbench-frames": ListFormat("documents:read_avsbench_frames", "name_N,label(s): a row per frame"),
        "avsbench": ListFormat("documents:read_avsbench", "header vid,uid,s_min,s_sec,a_obj,split,label"),
        "synth": ListFormat("", "no list: the dataset is drawn"),
    }
)
"""Every list format."""

ROLES: Final = ("video_id", "clip", "path", "start", "end", "label", "same_label", "split")
"""What a group of a pattern, or a column, may be: see `docs/adding-a-dataset.md`."""

ANNOTATION_KINDS: Final = ("text", "texts", "int", "float")
"""How the value of an annotation is kept; `texts` makes it a list, which joins those of merged rows."""

_TEMPLATE_FIELD: Final = re.compile(r"\{([^{}]*)\}")
_TEMPLATE: Final = re.compile(r"(?:[A-Za-z0-9_-]|\{(?:video_id|start|start_ms|slug)\})+")
_MASK_FIELDS: Final = ("split", "label", "subset", "video_id", "uid", "frame")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """Which column of a table is what. None: the column of the usual name, if the table has one."""

    id_column: Annotated[str | None, "Column of the video's id. none: id."] = None
    path_column: Annotated[
        str | None, "Column of the path below a source; the id is then the path without its suffix. none: path."
    ] = None
    start_column: Annotated[
        str | None, "Column of the start of the clip, in seconds. none: start, if there is one, else 0."
    ] = None
    end_column: Annotated[str | None, "Column of the end of the clip, in seconds. none: end, if there is one."] = None
    label_column: Annotated[str | None, "Column of the label or labels. none: label, if there is one."] = None
    split_column: Annotated[str | None, "Column of the split. none: split, if there is one, else train."] = None
    label_separator: Annotated[str | None, "Text between the labels of one cell. none: one label a cell."] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSpec:
    """One file that lists clips."""

    format: str  # one of LIST_FORMATS
    file: str = ""  # the official file's name; empty: any file will do
    url: str = ""
    sha256: str = ""  # of the official file, where it is known
    splits: tuple[str, ...] = ()  # one: all rows are of it; several or none: a column tells
    counts: Mapping[str, int] = field(default_factory=dict)  # split -> clips of the official list
    clip_seconds: float | None = None  # where the clips of this list are shorter than the recipe's
    pattern: str = ""  # of a line, for re2, with groups named after ROLES and annotations (format pattern)
    comment: str = ""  # how a line begins that is no clip (format pattern)
    delimiter: str = ","  # between the values of a line, one character (format columns)
    columns: tuple[str, ...] = ()  # each column's name in ROLES or annotations, or _ (format columns)
    header: str = ""  # the first line, as it must be (formats pattern and columns)
    skip_header: bool = False  # the first line is a header of any text (formats pattern and columns)
    expects: str = ""  # what a line looks like, for errors
    unit: TimeUnit = "auto"  # s or ms: what the numbers of clip names count, and (ms) start and end
    annotations: Mapping[str, str] = field(default_factory=dict)  # group or column to keep -> text, texts, int, float
    subset: str = ""  # the rows wanted of a list that several recipes share
    masks: str = ""  # where a frame's mask lies, from {split} {label} {subset} {video_id} {uid} {frame}
    masked_frames: int = 0  # how many frames from the first have a mask; 0: all
    merge: bool = False  # several rows of one clip are one clip with all their labels (pattern, columns, table)
    options: TableOptions = field(default_factory=TableOptions)
    unusable: str = ""  # why the published list cannot be used


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a dataset is."""

    name: str
    title: str
    homepage: str
    licence: str
    key: str  # template: letters, digits, - and _ around {video_id} {start} {start_ms} {slug}
    citation: str = ""
    published: str = ""  # when the dataset was published: a year, or YYYY-MM-DD; empty: when it is prepared
    task_categories: tuple[str, ...] = ("audio-classification", "video-classification")  # the Hugging Face hub's names
    note: str = ""  # what a user must know before using the dataset
    clip_seconds: float | None = None  # None: a clip is the whole file
    frame_times_s: tuple[float, ...] = ()  # exact times asked for, from the clip's start
    labels: tuple[str, ...] = ()  # in the order of the class indices; empty: whatever the list says
    aliases: Mapping[str, str] = field(default_factory=dict)
    optional_prefixes: tuple[str, ...] = ()  # what a spelling may leave out
    default_splits: tuple[str, ...] = ()  # empty: all there are
    lists: tuple[ListSpec, ...] = ()
    spellings: Mapping[str, str] = field(default_factory=dict, repr=False)  # folded -> canonical

    @property
    def splits(self) -> tuple[str, ...]:
        """Every split that a list names, in the order of the lists."""
        return tuple(dict.fromkeys(split for spec in self.lists for split in spec.splits))

    @property
    def counts(self) -> dict[str, int]:
        """Split -> clips of the official list, where that is known."""
        return {split: count for spec in self.lists for split, count in spec.counts.items()}


def recipe_names() -> list[str]:
    """The recipes that come with avkit, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """The recipe of that name, or of that file (anything with a slash or the suffix .toml).

    Raises ConfigError, naming the file, the line and what is known, for a recipe that cannot be used.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(".toml"):
        return _read_recipe(Path(name_or_path))
    if text not in recipe_names():
        raise ConfigError(
            f"unknown recipe {text!r}; known: {', '.join(recipe_names())}. "
            "A recipe of your own is given as a path ending in .toml."
        )
    return _packaged_recipe(text)


def canonical_label(recipe: Recipe, spelling: str) -> str:
    """The recipe's name for a label, however the list or the folder spells it.

    Raises ConfigError for an unknown one. A recipe without labels knows any, as it is spelled.
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
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable recipe ({error})") from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    return _recipe_from(_Source(path, text), data)


@dataclass(frozen=True, slots=True)
class _Source:
    """The file a value came from, for its errors."""

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
        raise ConfigError(
            f"{source.at('labels_from')}: labels_from brings {sorted(twice)} along; leave one of them out"
        )
    if parent not in recipe_names() or parent == source.path.stem:
        raise ConfigError(f"{source.at('labels_from')}: unknown recipe {parent!r}; known: {', '.join(recipe_names())}")
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
            f"{source.at('format')}: unknown list format {spec.format!r}; known: {', '.join(LIST_FORMATS)}. "
            'A list of a clip per line needs format = "pattern" or "columns": see docs/adding-a-dataset.md.'
        )
    _check_form(source, spec)
    if spec.sha256 and not _SHA256.fullmatch(spec.sha256):
        raise ConfigError(f"{source.at('sha256')}: sha256 {spec.sha256!r} is not 64 hexadecimal digits")
    if spec.file != Path(spec.file).name:
        raise ConfigError(f"{source.at('file')}: file {spec.file!r} must be a name without a folder")
    if spec.clip_seconds is not None and spec.clip_seconds <= 0:
        raise ConfigError(f"{source.at('clip_seconds')}: clip_seconds must be above 0")
    strange = set(_TEMPLATE_FIELD.findall(spec.masks)) - set(_MASK_FIELDS)
    if strange or set("{}") & set(_TEMPLATE_FIELD.sub("", spec.masks)):
        known = ", ".join(f"{{{name}}}" for name in _MASK_FIELDS)
        raise ConfigError(f"{source.at('masks')}: masks {spec.masks!r} may hold only the fields {known}")
    for split in (*spec.splits, *spec.counts):
        _check_split(source, split)
    if unknown := sorted(spec.counts.keys() - set(spec.splits)):
        raise ConfigError(f"{source.at('counts')}: counts of {unknown}, which are no splits of it: {list(spec.splits)}")
    return spec


def _check_form(source: _Source, spec: ListSpec) -> None:
    """Raise ConfigError for a pattern or columns that could not give clips."""
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
                f"{source.at('pattern')}: pattern {spec.pattern!r} is no regular expression: {error}"
            ) from error
        key = "pattern"
    elif spec.format == "columns":
        names, key = [name for name in spec.columns if name != "_"], "columns"
        if len(spec.delimiter) != 1 or spec.delimiter in '"\r\n':
            raise ConfigError(f"{source.at('delimiter')}: delimiter {spec.delimiter!r} must be one character")
    else:
        return
    known = (*ROLES, *spec.annotations)
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"{source.at(key)}: {key} names {unknown[0]!r}; known: {', '.join(known)}. "
            "Name under annotations what is to be kept with the clip; leave out the name of what is not."
        )
    if missing := [name for name in spec.annotations if name not in names]:
        raise ConfigError(f"{source.at('annotations')}: {key} has no {missing[0]!r}; it has {', '.join(names)}")
    if not {"video_id", "clip", "path"} & set(names) or {"clip", "video_id"} <= set(names):
        raise ConfigError(
            f"{source.at(key)}: {key} must name one of video_id (an id), clip (a name with its start) and path "
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
    found = _TEMPLATE_FIELD.findall(recipe.key)
    if not _TEMPLATE.fullmatch(recipe.key) or not {"video_id", "slug"} & set(found):
        raise ConfigError(
            f"{source.at('key')}: key {recipe.key!r} must hold {{video_id}} or {{slug}}, and around it only "
            "letters, digits, -, _, {start} (whole seconds, six digits) and {start_ms}"
        )
    if recipe.key.startswith(("{video_id}", "_", "-")):
        raise ConfigError(
            f"{source.at('key')}: key {recipe.key!r} must begin with a letter, a digit or {{slug}}: "
            "an id may begin with _ or -, which readers hide"
        )
    if not re.fullmatch(r"|\d{4}(?:-\d{2}-\d{2})?", recipe.published):
        raise ConfigError(f"{source.at('published')}: published {recipe.published!r} must be a year or YYYY-MM-DD")
    if recipe.clip_seconds is not None and recipe.clip_seconds <= 0:
        raise ConfigError(f"{source.at('clip_seconds')}: clip_seconds must be above 0")
    if recipe.splits and (unknown := sorted(set(recipe.default_splits) - set(recipe.splits))):
        raise ConfigError(
            f"{source.at('default_splits')}: no list has the splits {unknown}; known: {list(recipe.splits)}"
        )
    if not recipe.lists:
        raise ConfigError(f"{source.path}: a recipe needs at least one [[lists]]")


def _checked(
    source: _Source, what: str, kind: type[Any], data: dict[str, Any], extra: Sequence[str] = ()
) -> dict[str, Any]:
    """The values of a dataclass, each of its declared type; ConfigError for unknown, missing and wrong ones."""
    known = {entry.name: entry for entry in fields(kind) if entry.name not in ("spellings", *extra)}
    for key in data:
        if key not in known:
            names = ", ".join([*known, *extra])
            raise ConfigError(f"{source.at(key)}: unknown key {key!r} of a {what}; known: {names}")
    for entry in known.values():
        required = entry.default is MISSING and entry.default_factory is MISSING
        if required and entry.name not in data:
            raise ConfigError(f"{source.path}: a {what} needs the key {entry.name!r}")
    kinds = get_type_hints(kind)
    return {key: _typed(source, key, value, kinds[key]) for key, value in data.items()}


def _typed(source: _Source, key: str, value: Any, kind: Any) -> Any:
    def is_text(item: Any) -> bool:
        return isinstance(item, str)

    def is_number(item: Any) -> bool:
        return isinstance(item, int | float) and not isinstance(item, bool)

    wanted = "text"
    if kind in (str, str | None, TimeUnit) and is_text(value):
        return value
    if kind is bool:
        wanted = "true or false"
        if isinstance(value, bool):
            return value
    if kind is int:
        wanted = "a whole number, 0 or more"
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    if kind == float | None:
        wanted = "a number"
        if is_number(value):
            return float(value)
    if kind == tuple[str, ...]:
        wanted = "a list of texts, none twice"
        named = [item for item in value if item != "_"] if isinstance(value, list) else []
        if isinstance(value, list) and all(map(is_text, value)) and len(set(named)) == len(named):
            return tuple(value)
    if kind == tuple[float, ...]:
        wanted = "a list of numbers, 0 or more"
        if isinstance(value, list) and all(is_number(item) and item >= 0 for item in value):
            return tuple(map(float, value))
    if kind == Mapping[str, str]:
        wanted = "a table of texts"
        if isinstance(value, dict) and all(map(is_text, value.values())):
            return dict(value)
    if kind == Mapping[str, int]:
        wanted = "a table of whole numbers"
        if isinstance(value, dict) and all(type(item) is int and item >= 0 for item in value.values()):
            return dict(value)
    raise ConfigError(f"{source.at(key)}: {key} must be {wanted}, not {value!r}")
