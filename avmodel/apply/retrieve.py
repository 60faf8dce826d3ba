"""The clips of a gallery that are nearest to a video's windows."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from avdata.windows import Window, WindowConfig
from avmanifest.errors import ConfigError
from avmodel.apply.inputs import WindowInputs, pretrained_inputs, span_windows, vectors_of, window_mode
from avmodel.apply.output import whole
from avmodel.apply.refusals import require_gallery
from avmodel.configs.apply import NEIGHBORS_TABLE, RETRIEVE_FILES, RetrieveConfig
from avmodel.evaluate.config import MODES
from avmodel.evaluate.embed.config import EMBEDDINGS
from avmodel.evaluate.loaded import LoadedModel
from avmodel.evaluate.store import read_note, read_parts

COLUMNS = ("start_s", "end_s", "query", "target", "rank", "key", "cosine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Vectors of clips at length 1, on the device."""

    keys: list[str]
    values: dict[str, Float[Tensor, "n _"]]  # by stream
    mode: str  # the modalities they were encoded with


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRetriever:
    """Writes neighbors.csv: of each window and pair of streams the nearest clips by cosine."""

    loaded: LoadedModel
    gallery: Gallery
    pairs: tuple[tuple[str, str], ...]  # streams of the window and of the clips
    top: int
    inputs: WindowInputs
    window_config: WindowConfig
    files: tuple[str, ...] = RETRIEVE_FILES

    def __call__(self, windows: Iterable[Window]) -> Iterator[tuple[Window, str, str, list[tuple[str, float]]]]:
        """Window, its stream, the clips' stream, and the nearest clips with their cosines.

        Windows are encoded as the gallery's clips were: with both modalities, or, if those were encoded with one, with
        the query's alone. A stream that a video of one modality lacks has no neighbors. Raises DecodeError for a
        video without the only modality that is needed.
        """
        for window in windows:
            found: dict[str, dict[str, Float[np.ndarray, " _"]]] = {}
            for query, target in self.pairs:
                mode = self.mode_for(query)
                if mode not in found:
                    found[mode] = vectors_of(self.loaded, self.inputs, window, window_mode(window, mode))
                if query in found[mode]:
                    yield window, query, target, self.nearest(torch.from_numpy(found[mode][query]), target)

    def mode_for(self, query: str) -> str:
        """The modalities that a window is encoded with, for queries by that stream."""
        return query if self.gallery.mode != MODES[0] and query in MODES else self.gallery.mode

    def nearest(self, vector: Float[Tensor, " d"], target: str) -> list[tuple[str, float]]:
        """The clips nearest to a vector, with their cosines."""
        clips = self.gallery.values[target]
        found = (clips @ F.normalize(vector.to(clips), dim=0)).topk(min(self.top, len(clips)))
        pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return [(self.gallery.keys[row], cosine) for row, cosine in pairs]

    def write(self, windows: Iterable[Window], out: Path) -> dict[str, Any]:
        """Write the file. Returns a summary as plain data."""
        spans: set[int] = set()
        with whole(out / NEIGHBORS_TABLE) as path, path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            for window, query, target, found in self(windows):
                spans.add(window.number)
                for rank, (key, cosine) in enumerate(found, 1):
                    span = f"{window.start_s:.3f}", f"{window.end_s:.3f}"
                    table.writerow((*span, query, target, rank, key, f"{cosine:.6f}"))
        streams = [f"{query} to {target}" for query, target in self.pairs]
        return {"windows": len(spans), "gallery": len(self.gallery.keys), "streams": streams}


def load(checkpoint: Path, config: RetrieveConfig) -> VideoRetriever:
    """Raises ConfigError for a gallery that isn't one, is another checkpoint's, or lacks a stream that is asked for."""
    require_gallery(config)
    assert config.gallery is not None
    loaded, inputs = pretrained_inputs(checkpoint, config)
    gallery = open_gallery(config.gallery, loaded, inputs)
    return VideoRetriever(
        loaded=loaded,
        gallery=gallery,
        pairs=stream_pairs(config, gallery),
        top=config.top,
        inputs=inputs,
        window_config=span_windows(inputs, config),
    )


def open_gallery(folder: Path, loaded: LoadedModel, inputs: WindowInputs) -> Gallery:
    """The clips that `avkit evaluate embed` wrote there. Raises ConfigError for those of another checkpoint."""
    parts = sorted((folder / EMBEDDINGS if (folder / EMBEDDINGS).is_dir() else folder).glob("part-*.parquet"))
    if not parts:
        raise ConfigError(
            f"{folder}: no embeddings there. avkit evaluate embed {loaded.origin['path']} --data DATASET --out "
            f"{folder} writes them."
        )
    notes = [read_note(part)["of"] for part in parts]
    mode = str(notes[0].get("mode"))
    for part, of in zip(parts, notes, strict=True):
        checkpoint, view = str(of.get("checkpoint")), of.get("view", {})
        if checkpoint != loaded.origin["sha256"]:
            raise ConfigError(
                f"{part}: embeddings by the checkpoint {checkpoint[:12]}, not by {loaded.origin['path']} "
                f"({loaded.origin['sha256'][:12]}): their vectors can't be compared. Embed the gallery with this one."
            )
        if (view.get("profile"), of.get("mode")) != (inputs.view.profile, mode) or mode not in MODES:
            raise ConfigError(
                f"{part}: of {view.get('profile')!r} spectrograms and mode {of.get('mode')!r}; expected "
                f"{inputs.view.profile!r} and one mode in all parts, of {', '.join(MODES)}"
            )
        if view.get("fit", "crop") != inputs.view.fit:
            raise ConfigError(
                f"{part}: of frames with fit={view.get('fit')!r}, the video's have {inputs.view.fit!r}. Give "
                f"--fit {view.get('fit')}, or embed the gallery again."
            )
    keys, values = read_parts(parts)
    device = inputs.device
    return Gallery(keys=keys, values={name: F.normalize(x.to(device), dim=1) for name, x in values.items()}, mode=mode)


def stream_pairs(config: RetrieveConfig, gallery: Gallery) -> tuple[tuple[str, str], ...]:
    """Which streams of the windows are compared with which of the gallery's."""
    pairs = [(name, name) for name in gallery.values]
    if config.query is not None:
        pairs = [(config.query, config.target or config.query)]
    known = {"audio", "image", *gallery.values}
    for query, target in pairs:
        if target not in gallery.values or query not in known:
            raise ConfigError(
                f"--query {query!r}, --target {target!r}: {config.gallery} has the streams {', '.join(gallery.values)} "
                f"(of {gallery.mode})"
            )
    return tuple(pairs)
