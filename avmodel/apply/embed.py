"""A video's vectors: one a window and stream."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from avdata.windows import Window, WindowConfig
from avmodel.apply.inputs import WindowInputs, pretrained_inputs, span_windows, vectors_of, window_mode
from avmodel.apply.output import parquet_rows
from avmodel.configs.apply import EMBED_FILES, EMBEDDINGS_FILE, SpanConfig
from avmodel.evaluate.loaded import LoadedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoEmbedder:
    """Writes embeddings.parquet: start_s, end_s, and a list of float32 for each stream."""

    loaded: LoadedModel
    inputs: WindowInputs
    window_config: WindowConfig
    files: tuple[str, ...] = EMBED_FILES

    def __call__(self, windows: Iterable[Window]) -> Iterator[tuple[Window, dict[str, Float[np.ndarray, " _"]]]]:
        """Each window's vectors by stream: mean tokens, from the modalities that the video has."""
        for window in windows:
            yield window, vectors_of(self.loaded, self.inputs, window, window_mode(window))

    def write(self, windows: Iterable[Window], out: Path) -> dict[str, Any]:
        """Write the file. Returns a summary as plain data."""
        note = {"of": {"checkpoint": self.loaded.origin["sha256"], "view": asdict(self.inputs.view)}}
        widths: dict[str, int] = {}
        with parquet_rows(out / EMBEDDINGS_FILE, note) as rows:
            for window, vectors in self(windows):
                rows.append(start_s=window.start_s, end_s=window.end_s, **vectors)
                widths = {name: len(x) for name, x in vectors.items()}
        return {"windows": rows.num_rows, "streams": widths}


def load(checkpoint: Path, config: SpanConfig) -> VideoEmbedder:
    """Raises as `load_pretrained`."""
    loaded, inputs = pretrained_inputs(checkpoint, config)
    return VideoEmbedder(loaded=loaded, inputs=inputs, window_config=span_windows(inputs, config))
