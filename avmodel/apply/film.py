"""The film of a localization. Its colors depend on all of the film, so frames wait on the disk until it is over."""

from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from avdata.draw.film import FilmDrawing, FilmScale, SoundPage
from avdata.draw.images import color_range
from avdata.ffmpeg import scratch_folder
from avdata.images import decode_jpeg, encode_jpeg
from avdata.melspec import log_mel
from avdata.profiles import MelProfile
from avdata.waveform import rms_dbfs
from avdata.windows import SAMPLE_RATE, Window
from avmodel.apply.overlay_video import OverlayVideo, is_missing
from avmodel.configs.apply import OVERLAY_FILE, LocalizeConfig
from avmodel.evaluate.config import Progress

PAGE_S: Final = 10.0  # seconds of spectrogram that are shown at once, at most
LEVEL_S: Final = 0.5  # seconds around a frame whose level decides whether it is silent
_QUALITY: Final = 95  # of the JPEG of a frame that waits


class Film:
    """The frames, maps and sound of a film, in files, until it is drawn. Made by `waiting_film`."""

    def __init__(self, folder: Path, stack: ExitStack, fps: float, grid: tuple[int, int]) -> None:
        self.num_frames, self.fps = 0, fps
        self._grid = grid
        self._paths = [folder / name for name in ("frames", "maps", "sound")]
        self._frames, self._maps, self._sound = (stack.enter_context(path.open("w+b")) for path in self._paths)
        self._ends = array("Q", [0])
        self._size = (0, 0)

    def missing_frames(self, window: Window) -> Iterator[tuple[int, float]]:
        """Places in the window, and times, of the frames that the film lacks."""
        for place, time_s in enumerate(window.times_s):
            if is_missing(time_s, self.fps, self.num_frames):
                yield place, time_s

    def append(self, frame: UInt8[np.ndarray, "h w 3"], scores: Float32[np.ndarray, "r c"]) -> None:
        """Append a frame, RGB, and its map."""
        self._size = frame.shape[0], frame.shape[1]
        content = encode_jpeg(frame, _QUALITY)
        self._frames.write(content)
        self._ends.append(self._ends[-1] + len(content))
        self._maps.write(scores.astype(np.float32).tobytes())
        self.num_frames += 1

    def append_sound(self, waveform: Float32[np.ndarray, " n"]) -> None:
        """Append mono samples at SAMPLE_RATE."""
        self._sound.write(waveform.astype(np.float32).tobytes())

    def draw(
        self, video: OverlayVideo, mel: MelProfile, config: LocalizeConfig, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Write all frames to the video. Returns scale and counts as plain data."""
        for file in (self._frames, self._maps, self._sound):
            file.flush()
        maps = np.memmap(self._paths[1], np.float32, "r").reshape(self.num_frames, *self._grid)
        sound = _mapped(self._paths[2])
        audible = self._audible(sound, config.silence_dbfs)
        scale = _scale(maps, audible, config)
        mel = replace(mel, pad_columns=0)
        pages = _Pages(sound, max(self.num_frames / self.fps, len(sound) / SAMPLE_RATE), mel)
        silence = f"silence: below {config.silence_dbfs:g} dBFS"
        of = f"{'cosine' if config.cosines else 'inner product'} of place and sound"
        drawing = FilmDrawing(self._size, scale, mel, of=of, silence_note=silence)
        place, page = -1, None
        self._frames.seek(0)
        for number in range(self.num_frames):
            time_s = number / self.fps
            wanted = min(int(time_s / pages.length_s + 1e-9), pages.count - 1)
            if wanted != place or page is None:
                place, page = wanted, pages.page(wanted)
            picture = decode_jpeg(self._frames.read(self._ends[number + 1] - self._ends[number]))
            scores = np.asarray(maps[number]) if audible[number] else None
            video.write_frame(drawing.draw(picture, scores, page, time_s))
            if progress is not None:
                progress("frames of the film", number + 1, self.num_frames)
        return {
            "scale": [round(scale.low, 4), round(scale.high, 4)],
            "colored_above": round(scale.colored_above, 4),
            "silent_frames": int((~audible).sum()),
        }

    def _audible(self, sound: Float32[np.ndarray, " n"], silence_dbfs: float) -> Bool[np.ndarray, " f"]:
        """Whether the sound around the middle of each frame's time on screen reaches the level."""
        found = np.zeros(self.num_frames, bool)
        for number in range(self.num_frames):
            middle_s = (number + 0.5) / self.fps
            first, end = (round((middle_s + side * LEVEL_S / 2) * SAMPLE_RATE) for side in (-1, 1))
            around = np.asarray(sound[max(first, 0) : end])
            found[number] = len(around) > 0 and around.any() and rms_dbfs(around) >= silence_dbfs
        return found


class _Pages:
    """Equal parts of a film's sound, each at most PAGE_S long, with one range of colors."""

    def __init__(self, sound: Float32[np.ndarray, " n"], duration_s: float, mel: MelProfile) -> None:
        self.count = max(1, ceil(duration_s / PAGE_S - 1e-6))
        self.length_s = duration_s / self.count
        self._sound, self._mel = sound, mel
        ranges = [color_range(self._log_mel(number)) for number in range(self.count)]
        self._range = min(low for low, _ in ranges), max(high for _, high in ranges)

    def page(self, number: int) -> SoundPage:
        return SoundPage(
            log_mel=self._log_mel(number),
            start_s=number * self.length_s,
            end_s=(number + 1) * self.length_s,
            color_range=self._range,
        )

    def _log_mel(self, number: int) -> Float32[np.ndarray, "mel t"]:
        """Of the page's sound, with silence where there is none. Column k is centered on sample k * hop_length."""
        mel = self._mel
        width = mel.win_length if mel.kaldi else mel.n_fft
        before = 0 if mel.centered else width // 2
        first, end = (round(n * self.length_s * SAMPLE_RATE) for n in (number, number + 1))
        waveform = np.zeros(max(end - first, width) + 2 * before, np.float32)
        begins = max(first - before, 0)
        heard = self._sound[begins : end + before]
        offset = begins - (first - before)
        waveform[offset : offset + len(heard)] = heard
        return log_mel(waveform, mel)


def _scale(maps: Float32[np.ndarray, "f r c"], audible: Bool[np.ndarray, " f"], config: LocalizeConfig) -> FilmScale:
    """The scale that the config sets, or that of the film's audible frames; of all frames if there are none."""
    if config.scale is not None:
        low, high = config.scale
    else:
        chosen = np.flatnonzero(audible) if audible.any() else np.arange(len(maps))
        low = min(float(maps[number].min()) for number in chosen)
        high = max(float(maps[number].max()) for number in chosen)
    return FilmScale(low=low, high=high, threshold=config.threshold)


def _mapped(path: Path) -> Float32[np.ndarray, " n"]:
    """A file of samples, read as it is used."""
    return np.memmap(path, np.float32, "r") if path.stat().st_size else np.zeros(0, np.float32)


@contextmanager
def waiting_film(out: Path, fps: float, grid: tuple[int, int]) -> Iterator[Film]:
    """A film whose frames wait in a temporary folder in `out`, about 0.1 MB each at 640 x 360."""
    with scratch_folder(out / OVERLAY_FILE) as folder, ExitStack() as stack:
        yield Film(folder, stack, fps, grid)
