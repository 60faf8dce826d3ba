"""A window of a video to what a model takes, as evaluation hands it samples."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from avdata.load import EvalView
from avdata.load.crops import Crop, crop_into
from avdata.profiles import num_frames, profile
from avdata.windows import SAMPLE_RATE, Window, WindowConfig, window_log_mel
from avmanifest.errors import ConfigError, DecodeError
from avmanifest.wording import counted
from avmodel.configs.apply import OverlayConfig, SpanConfig
from avmodel.distributed import choose_device
from avmodel.evaluate.config import MODES, EvalDataConfig
from avmodel.evaluate.data import one_view
from avmodel.evaluate.loaded import LoadedModel
from avmodel.evaluate.loading import load_pretrained
from avmodel.inputs import normalize_images


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowInputs:
    """Makes the inputs of a model from windows: its view of a clip and its device."""

    view: EvalView
    device: torch.device

    @property
    def window_s(self) -> float:
        """Seconds of a window."""
        return self.view.window_samples / SAMPLE_RATE

    def images(self, window: Window) -> Float[Tensor, "f 3 h w"] | None:
        """The window's frames, normalized; None for a file without pictures."""
        return None if window.frames is None else normalize_images(self.squares(window))

    def squares(self, window: Window, crop: Crop | None = None) -> UInt8[Tensor, "f 3 h w"]:
        """Each of the window's frames, cut as the view has it, or that part of it made square."""
        assert window.frames is not None
        side = self.view.image_size
        crop = crop or self.view.choose_crop(window.frames.shape[1], window.frames.shape[2], ())
        squares = np.empty((len(window.frames), side, side, 3), np.uint8)
        for frame, square in zip(window.frames, squares, strict=True):
            crop_into(frame, crop, square)
        return rearrange(torch.from_numpy(squares).to(self.device), "f h w c -> f c h w")

    def log_mel(self, window: Window) -> Float[Tensor, "1 1 mel t"] | None:
        """The window's spectrogram, computed and rounded as `avkit prepare` does; None for a video without sound."""
        columns = window_log_mel(window, self.view.mel, self.view.num_columns)
        if columns is None:
            return None
        return rearrange(torch.from_numpy(columns).to(self.device).float(), "mel t -> 1 1 mel t")


def window_inputs(loaded: LoadedModel, window_s: float | None, *, fit: str | None = None) -> WindowInputs:
    """The view that the model was trained with; `fit` says how a frame becomes square, one of FITS; None: as trained.

    Raises ConfigError for a window of no length, or one longer than the model's audio input.
    """
    if window_s is not None and not 0 < window_s < math.inf:
        raise ConfigError(f"--window {window_s}: must be above 0")
    whole = bool(profile(loaded.profile or "paper").pad_columns)
    view = one_view(EvalDataConfig(window_s=None if whole else window_s, fit=fit), loaded)
    patch = loaded.model.config.patch_size
    heard = view.window_columns
    if whole:  # each window of the video is a clip by itself
        own_s = view.window_samples / SAMPLE_RATE
        view = replace(view, window_s=None, around_frame=False, waveform_s=window_s or own_s)
        heard = num_frames(view.window_samples, replace(view.mel, pad_columns=0))
    if heard >= view.num_columns + patch:
        raise ConfigError(
            f"--window {view.window_samples / SAMPLE_RATE:g}: {counted(heard, 'column')} of {view.profile!r} "
            f"spectrograms, and the model takes {view.num_columns} at once. Take a shorter window; they may overlap "
            "(hop_s)."
        )
    return WindowInputs(view=view, device=next(loaded.model.parameters()).device)


def pretrained_inputs(checkpoint: Path, config: SpanConfig | OverlayConfig) -> tuple[LoadedModel, WindowInputs]:
    """A pretrained model and its inputs. Raises as `load_pretrained` and `window_inputs`."""
    loaded = load_pretrained(checkpoint, choose_device(config.device), weights=config.weights)
    fit = config.fit if isinstance(config, SpanConfig) else "squash"
    return loaded, window_inputs(loaded, config.window_s, fit=fit)


def span_windows(inputs: WindowInputs, config: SpanConfig) -> WindowConfig:
    """The windows of a video with pictures, sound or both, each of which gets a result."""
    return WindowConfig(
        window_s=inputs.window_s, hop_s=config.hop_s, fps=config.fps, short_side=config.short_side, needs_video=False
    )


def overlay_windows(inputs: WindowInputs, config: OverlayConfig) -> WindowConfig:
    """The windows of a video whose frames are written with an overlay."""
    return WindowConfig(window_s=inputs.window_s, fps=config.fps, short_side=config.short_side)


def window_mode(window: Window, wanted: str = MODES[0]) -> str:
    """The mode `wanted`, or the one of its modalities that the window has. Raises DecodeError if it has none."""
    has = {"audio": window.waveform is not None, "image": window.frames is not None}
    found = [modality for modality in MODES[1:] if has[modality] and wanted in (MODES[0], modality)]
    if not found:
        status = "media_no_audio" if wanted == "audio" else "media_no_video"
        raise DecodeError(status, f"the video has no {'sound' if wanted == 'audio' else 'pictures'}: nothing to go by")
    return wanted if len(found) == len(MODES[1:]) else found[0]


def vectors_of(
    loaded: LoadedModel, inputs: WindowInputs, window: Window, mode: str
) -> dict[str, Float[np.ndarray, " _"]]:
    """The vector of each stream, the mean over the window's frames, float32; `mode` may leave one modality out.

    Raises DecodeError if what is left is not what the model has learned from.
    """
    learned = loaded.model.modalities
    if mode not in (MODES[0], *learned):
        status, missing = ("media_no_video", "pictures") if mode == "audio" else ("media_no_audio", "sound")
        raise DecodeError(
            status,
            f"the video has no {missing}, and this model has learned from {' and '.join(learned)} alone. Give a video "
            "that has it.",
        )
    with torch.no_grad():
        streams = loaded.model.encode(
            None if mode == "audio" else inputs.images(window), None if mode == "image" else inputs.log_mel(window)
        )
    return {name: stream.vector.mean(dim=0).cpu().numpy() for name, stream in streams.items()}


def require_both(window: Window) -> None:
    """Raise DecodeError for a video without sound or without pictures."""
    if window.waveform is None or window.frames is None:
        missing = "sound" if window.waveform is None else "pictures"
        status = "media_no_audio" if window.waveform is None else "media_no_video"
        raise DecodeError(status, f"the video has no {missing}, and this takes both pictures and sound")


def both(inputs: WindowInputs, window: Window) -> tuple[Float[Tensor, "f 3 h w"], Float[Tensor, "1 1 mel t"]]:
    """The window's images and spectrogram. Raises as `require_both`."""
    require_both(window)
    images, heard = inputs.images(window), inputs.log_mel(window)
    assert images is not None
    assert heard is not None
    return images, heard
