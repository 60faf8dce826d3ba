"""Write the files that other tools read beside the shards: dataset card, Croissant, metadata of Megatron-Energon.

The card states the schema of the samples, because readers that infer it from the first samples may get it wrong.
"""

import html
import itertools
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from avdata.prepare.commit import storage_errors
from avdata.prepare.config import SampleConfig
from avdata.prepare.description import extra_columns
from avdata.prepare.known import KnownShards
from avdata.prepare.reading import is_frame, reading_section
from avdata.profiles import profile
from avdata.shards import parse_npy
from avdata.waveform import SAMPLE_RATE
from avmanifest.columns import CLIP_COLUMNS, Column
from avmanifest.errors import ShardError
from avmanifest.files import open_file, read_file, replace_text, sha256_of_file
from avmanifest.layout import Layout, ShardName
from avmanifest.licences import hub_license
from avmanifest.parsing import metadata_of
from avmanifest.recipe import Recipe
from avmanifest.schema import CLIP_SCHEMA, FORMAT_VERSION, status_meaning
from avmanifest.table import read_batches

_ENERGON_CRUDE: Final = {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}
_ENERGON_SPLITS: Final[dict[str, list[str]]] = {"train": [], "val": [], "test": []}  # `energon lint` requires all three
_ENERGON_VERSION: Final = "7.0.0"  # of the metadata's format; the package is not needed


_TAGS: Final = ("audio", "video", "audio-visual", "webdataset", "croissant")


def write_catalog(
    layout: Layout,
    recipe: Recipe,
    config: SampleConfig,
    coverage: Mapping[str, Any],
    known: KnownShards | None = None,
) -> None:
    """Write README.md, croissant.json and .nv-meta for the existing shards and manifests.

    Args:
        layout: Paths of the dataset.
        recipe: Title, license, citation and labels.
        config: Settings of the samples, described in the card.
        coverage: Counts by split, as catalog.coverage.
        known: What is known of the shards as they are now; None: all markers are read.

    Raises:
        StorageError: The files cannot be written.
    """
    known = known or KnownShards(layout)
    columns = (*CLIP_COLUMNS, *extra_columns(layout))
    shards = {split: layout.shards(split) for split in coverage}
    facts = {split: {f"{shard}.tar": known.facts(shard) for shard in names} for split, names in shards.items()}
    tars = {split: list(own) for split, own in facts.items()}
    counts = {tar: found.successes for own in facts.values() for tar, found in own.items()}
    num_bytes = {split: sum(found.tar_bytes for found in own.values()) for split, own in facts.items()}
    names = member_names(layout)
    with storage_errors(layout.root):
        layout.energon.mkdir(exist_ok=True)
        text = _front_matter(layout, recipe, columns, tars, num_bytes, coverage, names)
        text += _card(layout, recipe, config, columns, coverage, tars, names)
        splits = {"exclude": [], "split_parts": _ENERGON_SPLITS | tars}
        replace_text(layout.card, text, durable=True)
        hashes = {tar: found.tar_sha256 for own in facts.values() for tar, found in own.items()}
        replace_text(layout.croissant, _json(_croissant(layout, recipe, columns, hashes)), durable=True)
        replace_text(layout.energon / "dataset.yaml", _yaml(_energon_dataset(layout, names)), durable=True)
        replace_text(layout.energon / "crude.yaml", _yaml(_ENERGON_CRUDE), durable=True)
        replace_text(layout.energon / "split.yaml", _yaml(splits), durable=True)
        info = {"energon_version": _ENERGON_VERSION, "shard_counts": counts}
        replace_text(layout.energon / ".info.json", _json(info), durable=True)


def catalog_files(layout: Layout) -> list[Path]:
    """The files that write_catalog writes."""
    energon = (layout.energon / name for name in ("dataset.yaml", "crude.yaml", "split.yaml", ".info.json"))
    return [layout.card, layout.croissant, *energon]


def _yaml(content: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _energon_dataset(layout: Layout, names: Sequence[str]) -> dict[str, Any]:
    """The content of Energon's dataset.yaml: the first frame and, if every sample has a label, the first label.

    Energon's sample types have no audio. crude.yaml therefore offers all members for a user's own cooker.
    """
    frame = next((name for name in names if is_frame(name)), None)
    if frame is None:
        kind, fields = "TextSample", {"text": "json[key]"}
    elif _is_labeled(layout):
        kind, fields = "ImageClassificationSample", {"image": frame, "label_name": "json[labels][0]"}
    else:
        kind, fields = "ImageSample", {"image": frame}
    return {"sample_type": {"__module__": "megatron.energon", "__class__": kind}, "field_map": fields}


def _is_labeled(layout: Layout) -> bool:
    """Whether every sample has a label."""
    for split in layout.splits():
        for batch in read_batches(layout.manifest(split), CLIP_SCHEMA, ["labels", "status"]):
            labels = batch.column("labels").filter(pc.equal(batch.column("status"), "ok"))
            if pc.any(pc.equal(pc.list_value_length(labels), 0)).as_py():
                return False
    return True


def member_names(layout: Layout) -> list[str]:
    """Names of all members of the dataset's samples, sorted."""
    names: set[str] = set()
    for split in layout.splits():
        for batch in read_batches(layout.manifest(split), CLIP_SCHEMA, ["members"]):
            names.update(pc.unique(pc.struct_field(batch.column("members").flatten(), "name")).to_pylist())
    return sorted(names)


def json_features(columns: Iterable[Column]) -> list[dict[str, Any]]:
    """The fields of the sample's json in the format of Hugging Face datasets, by name."""
    fields = sorted((column for column in columns if column.in_json), key=lambda column: column.name)
    return [{"name": column.name, **_feature(column.dtype)} for column in fields]


def _feature(dtype: pa.DataType) -> dict[str, Any]:
    """A type as the features of Hugging Face datasets have it. Numbers of JSON have 64 bits."""
    if pa.types.is_struct(dtype):
        return {"struct": [{"name": field.name, **_feature(field.type)} for field in dtype]}
    if pa.types.is_list(dtype):
        inner = _feature(dtype.value_type)
        return {"list": inner.get("dtype") or inner.get("struct") or inner}
    if pa.types.is_signed_integer(dtype):
        return {"dtype": "int64"}
    return {"dtype": "float64" if pa.types.is_floating(dtype) else str(dtype)}


def _features(layout: Layout, columns: Sequence[Column], names: Sequence[str]) -> list[dict[str, Any]]:
    """The samples' features in the format of Hugging Face datasets.

    Empty, so that they are inferred from the first samples, if a step writes a member whose type is not known.
    """
    features: list[dict[str, Any]] = [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]
    for name in names:
        match name.rsplit(".", 1)[-1]:
            case "json":
                features.append({"name": name, "struct": json_features(columns)})
            case "npy":
                if (feature := _array_feature(layout, name)) is None:
                    return []
                features.append({"name": name, **feature})
            case "txt":
                features.append({"name": name, "dtype": "string"})
            case "bin":
                features.append({"name": name, "dtype": "binary"})
            case "jpg" | "png":
                features.append({"name": name, "dtype": "image"})
            case "flac":
                features.append({"name": name, "dtype": {"audio": {"sampling_rate": SAMPLE_RATE}}})
            case _:
                return []
    return features


def _array_feature(layout: Layout, name: str) -> dict[str, Any] | None:
    """The feature of an array: of a log-mel, or of what a step writes, as the first sample has it. None: unknown."""
    if name.startswith("logmel"):
        return {"list": {"list": "float16"}}
    if (content := _first_member(layout, name)) is None:
        return None
    try:
        array = parse_npy(content, name)
    except ShardError:
        return None
    feature: Any = array.dtype.name
    for _ in range(array.ndim):
        feature = {"list": feature}
    return feature if array.ndim else {"dtype": feature}


def _first_member(layout: Layout, name: str) -> bytes | None:
    """The content of a member of the first sample that has it; None if no shard with one is on this machine."""
    for split in layout.splits():
        for batch in read_batches(layout.manifest(split), CLIP_SCHEMA, ["shard", "members"]):
            for row in batch.to_pylist():
                member = next((member for member in row["members"] if member["name"] == name), None)
                if member is not None:
                    tar = layout.tar(ShardName(split, row["shard"]))
                    if not tar.exists():
                        return None
                    with open_file(tar) as file:
                        file.seek(member["offset"])
                        return file.read(member["size"])
    return None


def _front_matter(
    layout: Layout,
    recipe: Recipe,
    columns: Sequence[Column],
    tars: Mapping[str, list[str]],
    num_bytes: Mapping[str, int],
    coverage: Mapping[str, Any],
    names: Sequence[str],
) -> str:
    """The card's YAML header, which the Hugging Face hub and `datasets` read."""
    filled = [split for split in coverage if coverage[split]["ok"]]
    content = {
        "pretty_name": recipe.title,
        **hub_license(recipe.licence),
        "task_categories": _tasks(recipe, labeled=any(counts["classes"] for counts in coverage.values())),
        "tags": [*_TAGS, *([] if recipe.name in _TAGS else [recipe.name])],
        "size_categories": [_size_category(sum(counts["ok"] for counts in coverage.values()))],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": tars[split]} for split in filled],
            }
        ],
        "dataset_info": {
            "config_name": "default",
            **({"features": features} if (features := _features(layout, columns, names)) else {}),
            # `datasets` checks the number of examples only if all three are given.
            "splits": [
                {"name": split, "num_bytes": num_bytes[split], "num_examples": coverage[split]["ok"]}
                for split in filled
            ],
        },
    }
    return f"---\n{_yaml(content)}---\n\n"


def _tasks(recipe: Recipe, *, labeled: bool) -> list[str]:
    tasks = [task for task in recipe.task_categories if labeled or not task.endswith("-classification")]
    return tasks or ["feature-extraction"]


def _size_category(number: int) -> str:
    """The hub's size category for a number of samples, such as `100K<n<1M`."""
    bounds = [(1_000, "1K"), (10_000, "10K"), (100_000, "100K"), (1_000_000, "1M"), (10_000_000, "10M")]
    below = "n"
    for bound, name in bounds:
        if number < bound:
            return f"{below}<{name}" if below == "n" else f"{below}<n<{name}"
        below = name
    return f"n>{below}"


def _card(
    layout: Layout,
    recipe: Recipe,
    config: SampleConfig,
    columns: Sequence[Column],
    coverage: Mapping[str, Any],
    tars: Mapping[str, list[str]],
    names: Sequence[str],
) -> str:
    span = "whole clips" if config.clip_seconds is None else f"spans of {config.clip_seconds:g} s"
    profiles = ", ".join(f"`{name}` ({profile(name).n_mels} mel)" for name in config.mel)
    parts = [
        f"# {recipe.title}",
        f"Prepared by avkit from <{recipe.homepage}>." if recipe.homepage else "Prepared by avkit.",
        f"{span[0].upper()}{span[1:]}; log-mel profiles: {profiles}; {config.num_frames} frames a clip, short side "
        f"{config.short_side}, JPEG quality {config.jpeg_quality}; "
        + ("16 kHz mono FLAC." if config.keep_audio else "no audio members.")
        + (" Pictures were decoded without the loop filter (`fast_decode`)." if config.fast_decode else ""),
        recipe.note,
        "## Coverage",
        _table(
            ("split", "official list", "requested", "samples", "of requested"),
            [
                (
                    split,
                    _count(recipe.counts.get(split)),
                    _count(counts["requested"]),
                    _count(counts["ok"]),
                    f"{counts['ok'] / max(counts['requested'], 1):.1%}",
                )
                for split, counts in coverage.items()
            ],
        ),
        _table(
            ("split", "status", "clips", "meaning"),
            [
                (split, f"`{status}`", _count(number), status_meaning(status))
                for split, counts in coverage.items()
                for status, number in counts["statuses"].items()
            ],
        ),
        *_own_columns([column for column in columns if column.flag or column.source]),
        *_reading(coverage, tars, names),
        "## Overlap",
        "Source videos that more than one split holds clips of:",
        _table(("splits", "videos shared"), _overlaps(layout, list(coverage))),
        "## Licence",
        recipe.licence or "Not stated by the recipe.",
        f"## Citation\n\n```bibtex\n{recipe.citation.strip()}\n```" if recipe.citation else "",
        "## Classes",
        _table(
            ("class", *(f"{split}: samples of requested" for split in coverage)),
            [
                (label, *(_share(counts["classes"].get(label)) for counts in coverage.values()))
                for label in dict.fromkeys(label for counts in coverage.values() for label in counts["classes"])
            ],
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _own_columns(columns: Sequence[Column]) -> Iterator[str]:
    """The flags, and the columns that this dataset has beside those of every dataset."""
    yield "## Flags and extra columns"
    rows = [(f"`{column.name}`", "flag" if column.flag else "", column.source, column.meaning) for column in columns]
    yield _table(("column", "", "from", "meaning"), rows)


def _reading(coverage: Mapping[str, Any], tars: Mapping[str, list[str]], names: Sequence[str]) -> Iterator[str]:
    """How to read the first split that has samples; nothing for a dataset without samples."""
    filled = [split for split in coverage if coverage[split]["ok"]]
    if filled:
        yield "## Reading"
        yield from reading_section(filled[0], tars[filled[0]], names)


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _share(counts: Mapping[str, int] | None) -> str:
    return f"{counts['ok']:,} of {counts['requested']:,}" if counts else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with escaped cells."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _overlaps(layout: Layout, splits: Sequence[str]) -> list[tuple[str, str]]:
    videos: dict[str, set[str]] = {split: set() for split in splits}
    for split in splits:
        for batch in read_batches(layout.manifest(split), CLIP_SCHEMA, ["video_id"]):
            videos[split].update(batch.column("video_id").to_pylist())
    return [(f"{a} and {b}", _count(len(videos[a] & videos[b]))) for a, b in itertools.combinations(splits, 2)]


def _croissant(layout: Layout, recipe: Recipe, columns: Sequence[Column], hashes: Mapping[str, str]) -> dict[str, Any]:
    """The dataset in Croissant 1.0: the shards, whose hashes are given, and the manifest as a record set."""
    shards: list[dict[str, Any]] = [
        {
            "@type": "cr:FileObject",
            "@id": tar,
            "contentUrl": tar,
            "encodingFormat": "application/x-tar",
            "sha256": sha256,
        }
        for tar, sha256 in hashes.items()
    ]
    manifests = [
        {
            "@type": "cr:FileObject",
            "@id": f"manifest/{split}.parquet",
            "contentUrl": f"manifest/{split}.parquet",
            "encodingFormat": "application/x-parquet",
            "sha256": sha256_of_file(layout.manifest(split)),
        }
        for split in layout.splits()
    ]
    return {
        "@context": _CROISSANT_CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": recipe.name,
        "version": f"{FORMAT_VERSION}.0.0",
        "datePublished": _date_published(layout, recipe),
        "description": f"{recipe.title}, prepared by avkit as WebDataset shards with log-mel spectrograms and frames.",
        "url": recipe.homepage,
        "license": recipe.licence,
        "citeAs": recipe.citation.strip() or f"{recipe.title}. Prepared by avkit.",
        "distribution": [*shards, *manifests],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": f"clips-{split}",
                "name": f"clips-{split}",
                "description": f"Every requested clip of {split}, failures included.",
                "key": {"@id": f"clips-{split}/key"},
                "field": [field for column in columns if (field := _croissant_field(split, column))],
            }
            for split in layout.splits()
        ],
    }


def _date_published(layout: Layout, recipe: Recipe) -> str:
    """The recipe's date; without one the day of the first catalog, or of SOURCE_DATE_EPOCH (for reproducible bytes)."""
    published = recipe.published
    if not published and layout.croissant.exists():
        published = metadata_of(read_file(layout.croissant)).get("datePublished", "")  # a damaged file is written again
    if isinstance(published, str) and published:
        return published
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return time.strftime("%Y-%m-%d", time.gmtime(int(epoch) if epoch.isdecimal() else time.time()))


def _croissant_field(split: str, column: Column) -> dict[str, Any] | None:
    """The field of a column; None for a type that Croissant has no words for, such as lists of lists."""
    name = f"clips-{split}/{column.name}"
    source = {"fileObject": {"@id": f"manifest/{split}.parquet"}, "extract": {"column": column.name}}
    about = {"@type": "cr:Field", "@id": name, "name": column.name, "description": column.meaning}
    repeated = pa.types.is_list(column.dtype)
    dtype = column.dtype.value_type if repeated else column.dtype
    if not pa.types.is_struct(dtype):
        kind = _croissant_type(column.dtype)
        return None if kind is None else {**about, **kind, "source": source}
    if not column.source:
        return None  # `members`: places in the tars, of no use to a reader of rows
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{name}/{field.name}",
            "name": f"{column.name}/{field.name}",
            "description": f"{field.name} of {column.name}",
            **kind,
            **({"repeated": True} if repeated else {}),
            "source": {**source, "transform": {"jsonPath": f"$[*].{field.name}" if repeated else f"$.{field.name}"}},
        }
        for field in dtype
        if _PLAIN_NAME.fullmatch(field.name) and (kind := _croissant_type(field.type)) is not None
    ]
    return {**about, "subField": fields} if fields else None


def _croissant_type(dtype: pa.DataType) -> dict[str, Any] | None:
    """The type of a field; None for structs and for lists of lists."""
    if pa.types.is_list(dtype):
        inner = _CROISSANT_TYPES.get(str(dtype.value_type))
        return None if inner is None else {"dataType": inner, "repeated": True}
    kind = _CROISSANT_TYPES.get(str(dtype))
    return None if kind is None else {"dataType": kind}


_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_CROISSANT_TYPES: Final = {
    "string": "sc:Text",
    "double": "sc:Float",
    "float": "sc:Float",
    "int32": "sc:Integer",
    "int64": "sc:Integer",
    "uint64": "sc:Integer",
    "bool": "sc:Boolean",
}

_CROISSANT_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The standard context of Croissant 1.0."""
