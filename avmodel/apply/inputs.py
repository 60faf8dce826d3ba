"""A window of a video to what a model takes, as evaluation hands it samples."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from avdata.load import EvalView
from avdata.load.fill import crop_into
from avdata.load.views import Crop, choose_crop
from avdata.melspec import log_mel, num_frames
from avdata.windows import SAMPLE_RATE, WatchConfig, Window
from avmanifest.errors import ConfigError, DecodeError
from avmodel.evaluate.data import MODES, EvalDataConfig, one_view
from avmodel.evaluate.subject import Subject
from avmodel.inputs import normalize_images

FILM_FPS, FILM_SIDE = 10.0, 360  # of films, unless asked for otherwise: frames a second, pixels of the short side


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyConfig:
    """Common to all tasks."""

    window_s: float | None = None  # seconds heard at once; none: as many as the checkpoint was trained on
    fps: float | None = None  # frames a second that are looked at; none: as the task has it
    short_side: int | None = None  # pixels of the frames; none: likewise
    batch_size: int = 16  # frames that a device takes at once
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size}: must be 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanConfig(ApplyConfig):
    """Common to the tasks that say something of each window."""

    hop_s: float | None = None  # seconds from a window's start to the next one's; none: a window


@dataclass(frozen=True, slots=True, kw_only=True)
class Senses:
    """How a model sees and hears windows."""

    view: EvalView
    device: torch.device

    @property
    def window_s(self) -> float:
        """Seconds of a window."""
        return self.view.window_samples / SAMPLE_RATE

    def images(self, window: Window) -> Float[Tensor, "f 3 h w"] | None:
        """The window's frames, normalized; None for a file without pictures."""
        if window.frames is None:
            return None
        return self.cut(window, choose_crop(self.view, window.frames.shape[1], window.frames.shape[2], ()))

    def cut(self, window: Window, crop: Crop) -> Float[Tensor, "f 3 h w"]:
        """That part of each of the window's frames, made square and normalized."""
        assert window.frames is not None
        squares = np.empty((len(window.frames), self.view.image_size, self.view.image_size, 3), np.uint8)
        for frame, square in zip(window.frames, squares, strict=True):
            crop_into(frame, crop, square)
        return normalize_images(rearrange(torch.from_numpy(squares).to(self.device), "f h w c -> f c h w"))

    def log_mel(self, window: Window) -> Float[Tensor, "1 1 mel t"] | None:
        """The window's spectrogram, rounded as shards store it; None for a video without sound."""
        if window.waveform is None:
            return None
        mel = self.view.mel
        waveform = torch.from_numpy(window.waveform)
        if mel.pad_columns:  # what is filled up there is columns of 0, not silence
            waveform = waveform[: max(window.num_samples, mel.win_length)]
        columns = log_mel(waveform.to(self.device), mel)[:, : self.view.num_columns]
        return rearrange(columns.half().float(), "mel t -> 1 1 mel t")


def senses_of(subject: Subject, config: ApplyConfig, fit: str = "crop") -> Senses:
    """The senses that the subject was trained with; `fit` says which part of a frame it sees, as in a View.

    Raises ConfigError for a window of which the model would hear only a part.
    """
    view = replace(one_view(EvalDataConfig(window_s=config.window_s), subject), fit=fit)
    patch = subject.model.config.patch_size
    if view.mel.pad_columns:
        view = replace(view, waveform_s=config.window_s or view.waveform_s)
        heard = num_frames(view.window_samples, replace(view.mel, pad_columns=0))
    else:
        heard = view.window_columns
    if heard >= view.num_columns + patch:
        raise ConfigError(
            f"window_s={view.window_samples / SAMPLE_RATE:g}: {heard} columns of {view.profile!r} spectrograms, and "
            f"the model hears {view.num_columns} at once. Take a shorter window; windows may follow each other closely."
        )
    device = next(subject.model.parameters()).device
    return Senses(view=view, device=device)


def span_watching(senses: Senses, config: SpanConfig) -> WatchConfig:
    """How a video is watched to say something of each window: by the frame of its middle, or `fps` frames a second."""
    return WatchConfig(
        window_s=senses.window_s,
        hop_s=config.hop_s,
        fps=config.fps,
        needs_video=False,
        **({} if config.short_side is None else {"short_side": config.short_side}),
    )


def film_watching(senses: Senses, config: ApplyConfig) -> WatchConfig:
    """How a video is watched of which a film is made."""
    return WatchConfig(window_s=senses.window_s, fps=config.fps or FILM_FPS, short_side=config.short_side or FILM_SIDE)


def sense_mode(window: Window, wanted: str = MODES[0]) -> str:
    """`wanted`, or the one sense that the window has of it. Raises DecodeError for a window with neither."""
    has = {"audio": window.waveform is not None, "image": window.frames is not None}
    found = [sense for sense in MODES[1:] if has[sense] and wanted in (MODES[0], sense)]
    if not found:
        status = "media_no_audio" if wanted == "audio" else "media_no_video"
        raise DecodeError(status, f"the video has no {'sound' if wanted == 'audio' else 'pictures'}: nothing to go by")
    return wanted if len(found) == len(MODES[1:]) else found[0]


def vectors_of(subject: Subject, senses: Senses, window: Window, mode: str) -> dict[str, Float[np.ndarray, " _"]]:
    """The mean token of each stream over the window's frames, float32; `mode` may leave one sense out."""
    with torch.no_grad():
        streams = subject.model.streams(
            None if mode == "audio" else senses.images(window), None if mode == "image" else senses.log_mel(window)
        )
    return {name: x.float().mean(dim=(0, 1)).cpu().numpy() for name, x in streams.items()}


def both(senses: Senses, window: Window) -> tuple[Float[Tensor, "f 3 h w"], Float[Tensor, "1 1 mel t"]]:
    """The window's images and spectrogram, for tasks that need both. Raises DecodeError for a video without sound."""
    images, heard = senses.images(window), senses.log_mel(window)
    if images is None or heard is None:
        missing, status = ("pictures", "media_no_video") if images is None else ("sound", "media_no_audio")
        raise DecodeError(status, f"the video has no {missing}, and this takes both pictures and sound")
    return images, heard
