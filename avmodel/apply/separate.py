"""The sound of what a picture, or a part of it, shows, taken out of a video's sound."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from einops import rearrange
from jaxtyping import Float32

from avdata.load.crops import Crop
from avdata.windows import SAMPLE_RATE, Window, WindowConfig
from avmodel.apply.inputs import WindowInputs, require_both, window_inputs
from avmodel.apply.output import whole
from avmodel.configs.apply import Region, SeparateConfig
from avmodel.distributed import choose_device
from avmodel.evaluate.loading import load_trained, of_notes
from avmodel.evaluate.separation.overlap_add import overlap_add
from avmodel.evaluate.separation.separator import Separator, load_separator, separate
from avmodel.inputs import normalize_images


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSeparator:
    """Writes separated.wav and rest.wav, which add up to the video's sound; with several regions, -1, -2, ... each."""

    separator: Separator
    regions: tuple[Region, ...]
    inputs: WindowInputs
    window_config: WindowConfig
    files: tuple[str, ...]

    @property
    def sample_rate(self) -> int:
        """Of the files, in Hz."""
        return self.separator.masks.sample_rate

    def __call__(self, windows: Iterable[Window]) -> Iterator[tuple[Window, Float32[np.ndarray, "r n"]]]:
        """Each window and what each region sounds like in it, at `sample_rate`.

        The region is looked at in the middle of the window. Raises DecodeError for a video without sound or pictures.
        """
        for window in windows:
            require_both(window)
            assert window.frames is not None
            assert window.waveform is not None
            crops = [crop_of(region, window.frames.shape[1], window.frames.shape[2]) for region in self.regions]
            images = normalize_images(torch.cat([self.inputs.squares(window, crop)[:1] for crop in crops]))
            waveform = torch.from_numpy(window.waveform).to(images.device)
            yield window, separate(self.separator, images, waveform).float().cpu().numpy()

    def write(self, windows: Iterable[Window], out: Path) -> dict[str, Any]:
        """Write the files, in 32-bit floats. Returns a summary as plain data."""
        count = 0
        with ExitStack() as stack:
            tracks = [self._open(out / name, stack) for name in self.files]
            size = round(self.window_config.window_s * self.sample_rate)
            for stretch in overlap_add(self._pieces(windows), size):
                for track, samples in zip(tracks, stretch, strict=True):
                    track.write(samples)
                count += stretch.shape[1]
        return {"seconds": round(count / self.sample_rate, 3), "sample_rate": self.sample_rate}

    def _pieces(self, windows: Iterable[Window]) -> Iterator[tuple[int, Float32[np.ndarray, "c n"]]]:
        """First sample, and of each region its sound and the rest, of each window up to its true end."""
        for window, found in self(windows):
            assert window.waveform is not None
            mixture = window.waveform
            if self.sample_rate != SAMPLE_RATE:
                mixture = soxr.resample(mixture, SAMPLE_RATE, self.sample_rate, "HQ")
            length = min(found.shape[1], round((window.end_s - window.start_s) * self.sample_rate))
            wanted = found[:, :length]
            yield (
                round(window.start_s * self.sample_rate),
                rearrange([wanted, mixture[:length] - wanted], "what r n -> (r what) n"),
            )

    def _open(self, path: Path, stack: ExitStack) -> soundfile.SoundFile:
        unfinished = stack.enter_context(whole(path))
        track = soundfile.SoundFile(unfinished, "w", self.sample_rate, 1, subtype="FLOAT", format="WAV")
        return stack.enter_context(track)


def crop_of(region: Region, height: int, width: int) -> Crop:
    """The region in pixels, at least one each way."""
    left, top, right, bottom = region
    x, y = min(round(left * width), width - 1), min(round(top * height), height - 1)
    return Crop(y, x, max(round(bottom * height) - y, 1), max(round(right * width) - x, 1), False)


def load(checkpoint: Path, config: SeparateConfig) -> VideoSeparator:
    """Raises ConfigError, with the command that trains one, for a checkpoint that is no separator."""
    device = choose_device(config.device)
    folder, separator = load_trained(checkpoint, "separation", lambda path: load_separator(path, device))
    window_s = separator.num_samples / separator.profile.sample_rate
    notes = {"profile": separator.profile.name, "window_s": str(window_s)}
    loaded = of_notes(separator.predictor.model, folder, notes)
    hop_s = window_s / 2 if config.hop_s is None else config.hop_s
    window_config = WindowConfig(window_s=window_s, hop_s=hop_s, short_side=config.short_side)
    return VideoSeparator(
        separator=separator,
        regions=config.regions,
        inputs=window_inputs(loaded, window_s, fit="squash"),
        window_config=window_config,
        files=config.files,
    )
