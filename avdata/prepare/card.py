"""What other tools read beside the shards: the dataset card, Croissant, Megatron-Energon's metadata.

Readers that guess a schema from the first samples guess wrong; the card spells it out.
"""

import html
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from avdata.prepare.commit import read_stats, storage_errors
from avdata.prepare.pipeline import SampleConfig
from avdata.profiles import profile
from avdata.waveform import SAMPLE_RATE
from avmanifest.files import replace_text, sha256_of_file
from avmanifest.layout import Layout, ShardName
from avmanifest.recipe import Recipe
from avmanifest.schema import CLIP_SCHEMA, STATUSES
from avmanifest.table import read_batches

JSON_FEATURES: Final[dict[str, Any]] = {
    "annotations": "string",
    "audio_video_offset_s": "float64",
    "duration_s": "float64",
    "end_s": "float64",
    "fps": "float64",
    "frame_times_s": {"list": "float64"},
    "height": "int64",
    "key": "string",
    "labels": {"list": "string"},
    "rms_dbfs": "float64",
    "short": "bool",
    "silent": "bool",
    "split": "string",
    "start_s": "float64",
    "still": "bool",
    "video_id": "string",
    "width": "int64",
}
"""The sample's json, by field, in Hugging Face's names of types."""

_ENERGON_DATASET: Final = {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}
_ENERGON_VERSION: Final = "7.0.0"  # of the metadata's form, not of a package that must be there


def write_catalog(layout: Layout, recipe: Recipe, config: SampleConfig, coverage: Mapping[str, Any]) -> None:
    """Write README.md, croissant.json and .nv-meta for the shards and manifests that are there."""
    shards = {split: layout.shards(split) for split in coverage}
    tars = {split: [f"{shard}.tar" for shard in names] for split, names in shards.items()}
    counts = {f"{shard}.tar": read_stats(layout, shard)["successes"] for names in shards.values() for shard in names}
    with storage_errors(layout.root):
        layout.energon.mkdir(exist_ok=True)
        replace_text(
            layout.card, _front_matter(layout, tars, coverage) + _card(layout, recipe, config, coverage), durable=True
        )
        replace_text(layout.croissant, _json(_croissant(layout, recipe, counts)), durable=True)
        replace_text(layout.energon / "dataset.yaml", _yaml(_ENERGON_DATASET), durable=True)
        replace_text(layout.energon / "split.yaml", _yaml({"exclude": [], "split_parts": tars}), durable=True)
        info = {"energon_version": _ENERGON_VERSION, "shard_counts": counts}
        replace_text(layout.energon / ".info.json", _json(info), durable=True)


def catalog_files(layout: Layout) -> list[Path]:
    """What write_catalog writes."""
    energon = (layout.energon / name for name in ("dataset.yaml", "split.yaml", ".info.json"))
    return [layout.card, layout.croissant, *energon]


def _yaml(content: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def member_names(layout: Layout) -> list[str]:
    """Names of all members that samples of the dataset have."""
    names: set[str] = set()
    for split in layout.splits():
        for batch in read_batches(layout.manifest(split), CLIP_SCHEMA, ["members"]):
            names.update(pc.unique(pc.struct_field(batch.column("members").flatten(), "name")).to_pylist())
    return sorted(names)


def _features(layout: Layout) -> list[dict[str, Any]]:
    """Hugging Face features of the samples."""
    features: list[dict[str, Any]] = [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]
    for name in member_names(layout):
        match name.rsplit(".", 1)[-1]:
            case "json":
                struct = [{"name": n, **(t if isinstance(t, dict) else {"dtype": t})} for n, t in JSON_FEATURES.items()]
                features.append({"name": name, "struct": struct})
            case "npy":
                features.append({"name": name, "list": {"list": "float16"}})
            case "jpg" | "png":
                features.append({"name": name, "dtype": "image"})
            case "flac":
                features.append({"name": name, "dtype": {"audio": {"sampling_rate": SAMPLE_RATE}}})
    return features


def _front_matter(layout: Layout, tars: Mapping[str, list[str]], coverage: Mapping[str, Any]) -> str:
    filled = [split for split in coverage if coverage[split]["ok"]]
    content = {
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": tars[split]} for split in filled],
            }
        ],
        "dataset_info": {
            "config_name": "default",
            "features": _features(layout),
            # Without all three the number of examples is not checked against what was read.
            "splits": [
                {"name": split, "num_bytes": _tar_bytes(layout, split), "num_examples": coverage[split]["ok"]}
                for split in filled
            ],
        },
    }
    return f"---\n{_yaml(content)}---\n\n"


def _tar_bytes(layout: Layout, split: str) -> int:
    return sum(int(read_stats(layout, shard)["files"]["tar"]["bytes"]) for shard in layout.shards(split))


def _card(layout: Layout, recipe: Recipe, config: SampleConfig, coverage: Mapping[str, Any]) -> str:
    span = "whole clips" if config.clip_seconds is None else f"spans of {config.clip_seconds:g} s"
    profiles = ", ".join(f"`{name}` ({profile(name).n_mels} mel)" for name in config.mel)
    parts = [
        f"# {recipe.title}",
        f"Prepared by avkit from <{recipe.homepage}>." if recipe.homepage else "Prepared by avkit.",
        f"{span[0].upper()}{span[1:]}; log-mel profiles: {profiles}; {config.num_frames} frames a clip, short side "
        f"{config.short_side}, JPEG quality {config.jpeg_quality}; "
        + ("16 kHz mono FLAC." if config.keep_audio else "no audio members."),
        recipe.note,
        "## Coverage",
        _table(
            ("split", "official list", "requested", "samples", "of requested"),
            [
                (
                    split,
                    _count(recipe.counts.get(split)),
                    _count(found["requested"]),
                    _count(found["ok"]),
                    f"{found['ok'] / max(found['requested'], 1):.1%}",
                )
                for split, found in coverage.items()
            ],
        ),
        _table(
            ("split", "status", "clips", "meaning"),
            [
                (split, f"`{status}`", _count(number), STATUSES[status].meaning)
                for split, found in coverage.items()
                for status, number in found["statuses"].items()
            ],
        ),
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
                (label, *(_share(found["classes"].get(label)) for found in coverage.values()))
                for label in dict.fromkeys(label for found in coverage.values() for label in found["classes"])
            ],
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _share(counts: Mapping[str, int] | None) -> str:
    return f"{counts['ok']:,} of {counts['requested']:,}" if counts else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose cells cannot break out of it."""
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


def _croissant(layout: Layout, recipe: Recipe, counts: Mapping[str, int]) -> dict[str, Any]:
    """The dataset in Croissant 1.0: the shards as a file set, the manifest as a record set."""
    shards: list[dict[str, Any]] = [
        {
            "@type": "cr:FileObject",
            "@id": tar,
            "contentUrl": tar,
            "encodingFormat": "application/x-tar",
            "sha256": read_stats(layout, ShardName(tar.split("/")[0], int(Path(tar).stem)))["files"]["tar"]["sha256"],
        }
        for tar in counts
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
        "description": f"{recipe.title}, prepared by avkit as WebDataset shards with log-mel spectrograms and frames.",
        "url": recipe.homepage,
        "license": recipe.licence,
        "citeAs": recipe.citation.strip(),
        "distribution": [*shards, *manifests],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": f"clips-{split}",
                "name": f"clips-{split}",
                "description": f"Every requested clip of {split}, failures included.",
                "key": {"@id": f"clips-{split}/key"},
                "field": [
                    _croissant_field(split, field) for field in CLIP_SCHEMA if str(field.type) in _CROISSANT_TYPES
                ],
            }
            for split in layout.splits()
        ],
    }


def _croissant_field(split: str, field: pa.Field) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"clips-{split}/{field.name}",
        "name": field.name,
        "description": field.metadata[b"meaning"].decode(),
        "dataType": _CROISSANT_TYPES[str(field.type)],
        "source": {"fileObject": {"@id": f"manifest/{split}.parquet"}, "extract": {"column": field.name}},
    }


_CROISSANT_TYPES: Final = {
    "string": "sc:Text",
    "double": "sc:Float",
    "int32": "sc:Integer",
    "int64": "sc:Integer",
    "bool": "sc:Boolean",
}

_CROISSANT_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "key": "cr:key",
    "recordSet": "cr:recordSet",
    "source": "cr:source",
}
