"""Features on disk: Parquet parts, each written whole, so that an extraction can resume.

    part-00000.parquet      key, labels, and one fixed-size list of float32 for each stream
    part-00001.parquet      ...

The metadata of a part has, under `avkit`, a description of the features, and the first and last position of the part
in the dataset's order.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from avmanifest.errors import ConfigError, ManifestError, StorageError
from avmanifest.files import replacing, require_file
from avmanifest.parsing import parse_object
from avmodel.evaluate.vectors import ADVICE, read_vectors

PARTS = "part-*.parquet"
CONTENT = "content"  # of a description: a hash of what the features are of
_NOTE = b"avkit"


class FeatureStore:
    """A folder of parts with one description."""

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        """Raises ConfigError for a folder with other features, ManifestError for a file that is not a part."""
        self.folder = folder
        self.description = json.loads(json.dumps(description))
        self.position = 0
        self.parts: list[Path] = []
        while (path := self._path(len(self.parts))).exists():
            note = read_note(path)
            of, ours = note["of"], self.description
            if CONTENT not in of:  # written by a version that did not note it
                ours = {name: value for name, value in ours.items() if name != CONTENT}
            if changed := [name for name in {**of, **ours} if of.get(name) != ours.get(name)]:
                raise ConfigError(f"{path}: has other features ({', '.join(changed)} differ). Give another --out.")
            if note["from"] != self.position:
                break  # the parts after a deleted one are made again
            self.parts.append(path)
            self.position = note["position"]

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.parquet"

    def append(
        self,
        keys: list[str],
        labels: list[list[str]],
        values: Mapping[str, Float[Tensor, "n d"]],
        position: int,
    ) -> None:
        """Write a part that ends at a position of the order. Raises StorageError if it can't be written."""
        columns: dict[str, pa.Array] = {
            "key": pa.array(keys, pa.string()),
            "labels": pa.array(labels, pa.list_(pa.string())),
        }
        for name, rows in values.items():
            flat = pa.array(np.ascontiguousarray(rows.cpu().float().numpy()).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
        note = json.dumps({"of": self.description, "from": self.position, "position": position})
        table = pa.table(columns).replace_schema_metadata({_NOTE: note.encode()})
        path = self._path(len(self.parts))
        try:
            with replacing(path, durable=True) as unfinished:
                pq.write_table(table, unfinished, compression="zstd", write_page_checksum=True)
        except OSError as error:
            raise StorageError(
                f"{path}: not written ({error.strerror or error}). Free space and give the same command again; the "
                "other parts are kept."
            ) from error
        self.parts.append(path)
        self.position = position


def read_note(path: Path) -> dict[str, Any]:
    """A part's description and positions. Raises ManifestError for a file that is not a part."""
    try:
        require_file(path)
        text = (pq.read_schema(path).metadata or {}).get(_NOTE, b"")
    except (OSError, pa.ArrowException, ValueError) as error:
        raise ManifestError(f"{path}: not a part of features ({error}). {ADVICE}") from error
    note = parse_object(text, f"{path}: not a part of features", ManifestError, ADVICE, finite=False)
    if not isinstance(note.get("of"), dict) or not all(type(note.get(name)) is int for name in ("from", "position")):
        raise ManifestError(f"{path}: not a part of features: no of, from and position. {ADVICE}")
    return note


def read_parts(parts: list[Path]) -> tuple[list[str], dict[str, Float[Tensor, "n _"]]]:
    """The keys of all parts, in order, and the vectors of each stream. Raises ManifestError as `read_vectors`."""
    keys, values = read_vectors(parts)
    return keys, {name: torch.from_numpy(vectors) for name, vectors in values.items()}
