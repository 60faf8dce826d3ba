"""A model that takes out of a mixture what a picture shows: its training by mixing, its file, its answers."""

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
from avmodel.distributed import autocast
from avmodel.evaluate.data import Split, train_view
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

# Settings that training doesn't know.
TEST_ONLY = ("mixtures", "num_mixtures", "mixture_seed", "oracles", "nmf", "rpca", "examples", "data.test_labels")


class Separator(nn.Module):
    """A predictor of masks, and what its masks mean for windows of `num_samples` samples at 16 kHz."""

    def __init__(self, predictor: Predictor, target: str, profile: MelProfile, num_samples: int) -> None:
        super().__init__()
        self.predictor, self.target, self.profile, self.num_samples = predictor, target, profile, num_samples
        self.masks = masks_of(target, profile, predictor.model.config.audio_size[1], num_samples)

    def forward(
        self, images: Float[Tensor, "b s 3 h w"], mixture: Float[Tensor, "b n"]
    ) -> Float[Tensor, "b s rows columns"]:
        """Logits of the mask of what each image shows."""
        columns = self.predictor.model.config.audio_size[1]
        heard = log_mel(mixture, self.profile)[..., :columns].unsqueeze(1)
        logits: Tensor = self.predictor(rearrange(images, "b s c h w -> (b s) c h w"), heard)
        return rearrange(logits, "(b s) 1 h w -> b s h w", b=len(images))

    @torch.no_grad()
    def answer(
        self, images: Float[Tensor, "b s 3 h w"], mixture: Float[Tensor, "b n"], *, precision: str = "float32"
    ) -> Float[Tensor, "b s m"]:
        """The waveform of what each image shows, at the masks' sample rate. `precision` is the model's alone."""
        with autocast(precision, mixture.device):
            logits = self(images, mixture)
        return self.masks.heard(logits.float().sigmoid(), mixture)


def masks_of(target: str, profile: MelProfile, columns: int, num_samples: int) -> Masks:
    """As `make_masks`. Raises ConfigError for a window without so many columns."""
    found = num_frames(num_samples, profile)
    if found < columns:
        raise ConfigError(f"windows of {num_samples} samples have {found} columns; the model takes {columns}")
    return make_masks(target, profile, columns, num_samples)


def separate(
    separator: Separator, image: Float[Tensor, "s 3 h w"], waveform: Float[Tensor, " n"]
) -> Float[Tensor, "s m"]:
    """What each normalized image shows of a 16 kHz waveform of one window or longer.

    At the sample rate of separator.masks: 16 kHz, but for the target sop. Windows of a longer waveform overlap by half
    and fade into one another. Raises ConfigError for a shorter one.
    """
    size, masks = separator.num_samples, separator.masks
    if len(waveform) < size:
        raise ConfigError(
            f"a waveform of {len(waveform)} samples; the separator hears {size}. Fill it up with silence."
        )
    hop = size // 2
    count = -(-(len(waveform) - size) // hop) + 1
    padded = F.pad(waveform, (0, (count - 1) * hop + size - len(waveform)))
    answers = [separator.answer(image.unsqueeze(0), window.unsqueeze(0))[0] for window in padded.unfold(0, size, hop)]
    if count == 1:
        return answers[0]
    width = answers[0].shape[-1]
    pieces = ((round(place * width / 2), answer.cpu().float().numpy()) for place, answer in enumerate(answers))
    whole = torch.from_numpy(np.concatenate(list(overlap_add(pieces, width)), axis=1)).to(answers[0])
    return whole[:, : len(waveform) * masks.sample_rate // separator.profile.sample_rate]


def mixing_view(config: SeparationConfig, run: Evaluation) -> TrainView:
    """How a clip is seen and heard while it is mixed in training.

    Raises ConfigError for spectrograms that aren't those of the checkpoint: all are computed here, none is stored.
    """
    known = run.loaded.profile
    if known is not None and config.data.profile not in (None, known):
        raise ConfigError(
            f"data.profile={config.data.profile}: the checkpoint was trained on {known!r} spectrograms. Leave it out."
        )
    view = train_view(config.data, run.loaded, max_gain_db=config.max_gain_db, min_area=config.min_area)
    require_mel(view.mel.n_mels, run.loaded.model.config)
    return replace(view, waveform=True)


def new_separator(config: SeparationConfig, run: Evaluation, view: TrainView, masks: Masks) -> Separator:
    """The loaded model with a decoder that has random weights."""
    loaded = with_settings(run.loaded, drop_path=config.drop_path)
    size = None if masks.size == tuple(loaded.model.config.audio_size) else masks.size
    predictor = Predictor(loaded.model, "audio", DecoderConfig(size=size))
    return Separator(predictor, config.target, view.mel, view.window_samples).to(run.world.device)


def mask_loss(
    masks: Masks, forward: nn.Module, batch: Batch, config: SeparationConfig, seed: int, device: torch.device
) -> Float[Tensor, ""]:
    """Binary cross-entropy of the masks of a batch, each sample mixed with others of it.

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
    """A checkpoint that `load_separator` reads, and from whose state its training goes on."""
    notes = {
        "target": separator.target,
        "profile": separator.profile.name,
        "num_samples": str(separator.num_samples),
    }
    save_predictor(folder, separator.predictor, step, trainer_state, notes)


def load_separator(path: Path | str, device: torch.device | str = "cpu") -> Separator:
    """A trained separator, in evaluation mode: of a seed's folder, a checkpoint, or its .safetensors file.

    Raises ConfigError for something else, CheckpointError for a damaged file.
    """
    predictor, notes = load_predictor(path, device)
    given = notes.get("target", ""), notes.get("profile", ""), notes.get("num_samples", "")
    if predictor.modality != "audio" or given[0] not in TARGETS or given[1] not in PROFILES or not given[2].isdecimal():
        raise ConfigError(f"{path}: no separator: {given}. avkit evaluate separation trains one.")
    return Separator(predictor, given[0], PROFILES[given[1]], int(given[2])).to(device).eval()
