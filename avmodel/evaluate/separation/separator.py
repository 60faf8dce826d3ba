"""A model that separates the sound of an image from a mixture: its training, its file and its use."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from avdata.load import Batch, TrainView
from avdata.profiles import PROFILES, MelProfile, num_frames
from avdata.torch_melspec import log_mel
from avmanifest.errors import ConfigError
from avmanifest.wording import counted
from avmodel.evaluate.data import Split, varied_view
from avmodel.evaluate.decoder import DecoderConfig
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.loaded import with_settings
from avmodel.evaluate.predictor import Predictor, load_predictor, save_predictor
from avmodel.evaluate.separation.config import TARGETS, SeparationConfig
from avmodel.evaluate.separation.masks import Masks, make_masks
from avmodel.evaluate.separation.mixtures import partners
from avmodel.evaluate.separation.overlap_add import overlap_add
from avmodel.evaluate.training import Training, step_sizes, tuned_optimizer
from avmodel.evaluate.training import train as train_module
from avmodel.inputs import normalize_images, require_mel
from avmodel.precision import autocast

# Settings that training doesn't read.
TEST_ONLY = ("mixtures", "num_mixtures", "mixture_seed", "oracles", "nmf", "rpca", "examples", "data.test_labels")


class Separator(nn.Module):
    """A predictor of masks, and the kind of its masks, for windows of `num_samples` samples at 16 kHz."""

    def __init__(self, predictor: Predictor, target: str, profile: MelProfile, num_samples: int) -> None:
        super().__init__()
        self.predictor, self.target, self.profile, self.num_samples = predictor, target, profile, num_samples
        self.masks = masks_of(target, profile, predictor.model.config.audio_size[1], num_samples)

    def forward(
        self, images: Float[Tensor, "b s 3 h w"], mixture: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b s rows columns"]:
        """Logits of the mask of each image's sound."""
        columns = self.predictor.model.config.audio_size[1]
        log_mels = log_mel(mixture, self.profile)[..., :columns].unsqueeze(1)
        logits: Tensor = self.predictor(rearrange(images, "b s c h w -> (b s) c h w"), log_mels)
        return rearrange(logits, "(b s) 1 h w -> b s h w", b=len(images))

    @torch.no_grad()
    def estimate(
        self, images: Float[Tensor, "b s 3 h w"], mixture: Float[Tensor, "b n"], *, precision: str = "float32"
    ) -> Float[Tensor, "b s m"]:
        """The sound of each image, at the masks' sample rate. `precision` applies to the model only."""
        with autocast(precision, mixture.device):
            logits = self(images, mixture)
        return self.masks.separate(logits.float().sigmoid(), mixture)


def masks_of(target: str, profile: MelProfile, columns: int, num_samples: int) -> Masks:
    """As `make_masks`. Raises ConfigError if a window of `num_samples` doesn't have `columns` columns."""
    found = num_frames(num_samples, profile)
    if found < columns:
        raise ConfigError(
            f"windows of {num_samples} samples have {counted(found, 'column')}; the model takes {columns}"
        )
    return make_masks(target, profile, columns, num_samples)


def separate(
    separator: Separator, image: Float[Tensor, "s 3 h w"], waveform: Float[Tensor, " n"]
) -> Float[Tensor, "s m"]:
    """Separate the sound of each normalized image from a 16 kHz mixture of one window or longer.

    Windows of a longer mixture overlap by half and fade into each other.

    Returns:
        A waveform of each image, at the sample rate of separator.masks: 16 kHz, or 11,025 Hz for the target sop.

    Raises:
        ConfigError: The mixture is shorter than a window.
    """
    size, masks = separator.num_samples, separator.masks
    if len(waveform) < size:
        raise ConfigError(f"a waveform of {len(waveform)} samples; the separator needs {size}. Pad it with silence.")
    hop = size // 2
    count = -(-(len(waveform) - size) // hop) + 1
    padded = F.pad(waveform, (0, (count - 1) * hop + size - len(waveform)))
    parts = [separator.estimate(image.unsqueeze(0), window.unsqueeze(0))[0] for window in padded.unfold(0, size, hop)]
    if count == 1:
        return parts[0]
    width = parts[0].shape[-1]
    pieces = ((round(place * width / 2), part.cpu().float().numpy()) for place, part in enumerate(parts))
    whole = torch.from_numpy(np.concatenate(list(overlap_add(pieces, width)), axis=1)).to(parts[0])
    return whole[:, : len(waveform) * masks.sample_rate // separator.profile.sample_rate]


def mixing_view(config: SeparationConfig, run: Evaluation) -> TrainView:
    """The view of a training clip that is mixed.

    Raises ConfigError if data.profile isn't the checkpoint's: all spectrograms are computed here, none is read.
    """
    known = run.loaded.profile
    if known is not None and config.data.profile not in (None, known):
        raise ConfigError(
            f"data.profile={config.data.profile}: the checkpoint was trained on {known!r} spectrograms. Leave it out."
        )
    view = varied_view(config, run.loaded)
    require_mel(view.mel.n_mels, run.loaded.model.config)
    return replace(view, waveform=True)


def new_separator(config: SeparationConfig, run: Evaluation, view: TrainView, masks: Masks) -> Separator:
    """The loaded model with a randomly initialized decoder."""
    loaded = with_settings(run.loaded, drop_path=config.drop_path)
    size = None if masks.size == tuple(loaded.model.config.audio_size) else masks.size
    predictor = Predictor(loaded.model, "audio", DecoderConfig(size=size, norm=config.decoder_norm))
    return Separator(predictor, config.target, view.mel, view.window_samples).to(run.world.device)


def mask_loss(
    masks: Masks, forward: nn.Module, batch: Batch, config: SeparationConfig, seed: int, device: torch.device
) -> Float[Tensor, ""]:
    """Binary cross-entropy of the masks of a batch, each sample of which is mixed with others of the batch.

    Raises ShardError for a batch with fewer samples than a mixture.
    """
    rows = torch.from_numpy(partners(batch, config.sources, seed))
    waveform = batch.gained_waveform()
    assert waveform is not None
    batch = batch.to(device, non_blocking=True)
    sources = rearrange(waveform.to(device)[rows.to(device)], "s b n -> b s n")
    with torch.no_grad():
        targets, weight = masks.targets(sources)
        mixture = masks.mix(sources)
    with autocast(config.precision, device):
        logits = forward(normalize_images(batch.images).unsqueeze(1), mixture)
    return F.binary_cross_entropy_with_logits(logits.float(), targets[:, :1], weight if config.weighted else None)


def trained_separator(config: SeparationConfig, run: Evaluation, train: Split, seed: int, folder: Path) -> Separator:
    """The separator after all epochs, in evaluation mode; see `avmodel.evaluate.training.train`.

    Raises ConfigError for fewer clips than a mixture has, DivergedError for a loss that isn't finite.
    """
    device = run.world.device
    _, size, _ = step_sizes(config, len(train.dataset), run.world.size)
    if size < config.sources:
        raise ConfigError(
            f"sources={config.sources}: a device mixes {size} of {len(train.dataset)} training clips at once. Set "
            "sources lower, device_batch_size higher, or give more clips."
        )
    view = mixing_view(config, run)
    masks = masks_of(config.target, view.mel, run.loaded.model.config.audio_size[1], view.window_samples)

    def build() -> Separator:
        separator = new_separator(config, run, view, masks)
        separator.predictor.freeze_unused()
        return separator

    training = Training(
        name="separation",
        view=view,
        build=build,
        optimizer=lambda separator: tuned_optimizer(
            separator.predictor.model, separator.predictor.decoder, config.optim
        ),
        loss=lambda forward, batch, moment: mask_loss(masks, forward, batch, config, moment.seed, device),
        save=lambda separator, done, state: save_separator(folder, separator, done, state),
        load=lambda separator, path: separator.predictor.load_state_dict(load_predictor(path, device)[0].state_dict()),
        test_only=TEST_ONLY,
        splits={"train": train},
    )
    return train_module(config, run, training, seed, folder)


def save_separator(folder: Path, separator: Separator, step: int, trainer_state: Mapping[str, Any]) -> None:
    """Save a checkpoint that `load_separator` reads and from which training resumes."""
    notes = {
        "target": separator.target,
        "profile": separator.profile.name,
        "num_samples": str(separator.num_samples),
    }
    save_predictor(folder, separator.predictor, step, trainer_state, notes)


def load_separator(path: Path | str, device: torch.device | str = "cpu") -> Separator:
    """Load a trained separator, in evaluation mode.

    Raises ConfigError for something else, CheckpointError for a damaged file.
    """
    predictor, notes = load_predictor(path, device)
    given = notes.get("target", ""), notes.get("profile", ""), notes.get("num_samples", "")
    if predictor.modality != "audio" or given[0] not in TARGETS or given[1] not in PROFILES or not given[2].isdecimal():
        raise ConfigError(f"{path}: not a separator: {given}. avkit evaluate separation trains one.")
    return Separator(predictor, given[0], PROFILES[given[1]], int(given[2])).to(device).eval()
