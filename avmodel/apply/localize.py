"""Where in the picture the sound comes from: heat maps over a video, without any training for it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from avdata.windows import SAMPLE_RATE, Window, WindowConfig
from avmodel.apply.film import waiting_film
from avmodel.apply.inputs import WindowInputs, both, overlay_windows, pretrained_inputs
from avmodel.apply.output import parquet_rows
from avmodel.apply.overlay_video import overlay_video
from avmodel.configs.apply import LOCALIZE_FILES, MAPS_FILE, LocalizeConfig
from avmodel.configs.dense import DENSE
from avmodel.evaluate.config import Progress
from avmodel.evaluate.dense import moment_maps
from avmodel.evaluate.loaded import LoadedModel
from avmodel.evaluate.localization.localizer import Localizer


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLocalizer:
    """Writes overlay.mp4, the film with a map over each frame beside its spectrogram, on one color scale; and
    maps.parquet: the time of each frame shown and its map, row by row of the grid that the file's metadata names."""

    loaded: LoadedModel
    localizer: Localizer
    inputs: WindowInputs
    config: LocalizeConfig
    window_config: WindowConfig
    files: tuple[str, ...] = LOCALIZE_FILES
    progress: Progress | None = None

    def followed_by(self, progress: Progress) -> "VideoLocalizer":
        """See `avmodel.apply.tasks.Followed`."""
        return replace(self, progress=progress)

    def __call__(self, windows: Iterable[Window]) -> Iterator[tuple[Window, Float32[np.ndarray, "f h w"]]]:
        """Each window and a map for each of its frames, over all of the picture: how similar each image token is to the
        pooled sound, or to its tokens. Raises DecodeError for a video without sound."""
        size = self.config.batch_size
        for window in windows:
            images, log_mel = both(self.inputs, window)
            times_s = [time_s - window.start_s for time_s in window.times_s]
            with torch.no_grad():
                parts = [
                    self.maps(images[first : first + size], log_mel, times_s[first : first + size]).cpu()
                    for first in range(0, len(images), size)
                ]
            yield window, torch.cat(parts).numpy()

    def maps(
        self, images: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "1 1 mel t"], times_s: Sequence[float]
    ) -> Float[Tensor, "b r c"]:
        """A map of each of some frames, whose times are in seconds from the window's start."""
        moment_s = self.config.moment_s
        if moment_s is None:
            found: Tensor = self.localizer(images, log_mel)
            return found
        columns = self.loaded.model.config.patch_size
        token_s = columns * self.inputs.view.mel.hop_length / SAMPLE_RATE
        return moment_maps(self.localizer.volume(images, log_mel), self.config.dense, times_s, moment_s, token_s)

    def write(self, windows: Iterable[Window], out: Path) -> dict[str, Any]:
        """Write both files. Returns a summary as plain data."""
        grid, fps = self.loaded.model.image_grid, self.window_config.fps
        assert fps is not None
        note = {"of": {"checkpoint": self.loaded.origin["sha256"]}, "grid": grid, "maps": self.config.maps}
        with (
            parquet_rows(out / MAPS_FILE, note) as rows,
            overlay_video(out, self.window_config) as video,
            waiting_film(out, fps, grid) as film,
        ):
            for window, maps in self(windows):
                assert window.frames is not None
                for place, time_s in film.missing_frames(window):
                    rows.append(time_s=time_s, map=maps[place].reshape(-1))
                    film.append(window.frames[place], maps[place])
                sound = video.write_audio(window)
                assert sound is not None
                film.append_sound(sound)
            drawn = film.draw(video, self.inputs.view.mel, self.config, self.progress)
        return {"frames": rows.num_rows, "fps": fps, "grid": list(grid), **drawn}


def load(checkpoint: Path, config: LocalizeConfig) -> VideoLocalizer:
    """Raises as `load_pretrained`."""
    loaded, inputs = pretrained_inputs(checkpoint, config)
    return VideoLocalizer(
        loaded=loaded,
        localizer=Localizer(loaded.model, config.encoding, config.dense if config.maps == DENSE else None).eval(),
        inputs=inputs,
        config=config,
        window_config=overlay_windows(inputs, config),
    )
