"""Pictures of what a model makes of samples: their reconstruction, and what it attends to."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avdata.draw.figures import draw_grid, save_figure
from avdata.profiles import MelProfile
from avmodel.evaluate.localization.scores import unit_range
from avmodel.inputs import Inputs, image_statistics
from avmodel.models.family import Family
from avmodel.objectives import patchify, unpatchify
from avmodel.sharding import is_sharded

HIDDEN = 0.35  # gray of removed image patches
MOST_SAMPLES = 4


def save_picture(
    path: Path | None,
    model: Family,
    inputs: Inputs,
    masks: Any,
    keys: tuple[str, ...],
    profile: MelProfile,
) -> None:
    """Draw the first samples of a batch into a PNG, a row each: input, visible patches and reconstruction.

    Where targets are normalized, predicted patches get the true mean and deviation. The model keeps its mode (training
    or evaluation). For a model that predicts no patches nothing is drawn. Without a path everything is computed and
    nothing is written. Raises StorageError if the file can't be written.
    """
    was_training = model.training
    model.eval()
    with torch.no_grad():
        # A call would compile a whole model again for this batch; a sharded one gathers its weights in a call.
        output = (model if is_sharded(model) else model.forward)(*inputs, masks)
        pictures = model.pictures(*inputs, output)
    model.train(was_training)
    if pictures is None or path is None:
        return
    patch = model.config.patch_size
    images, mels = (picture[:MOST_SAMPLES] for picture in pictures)
    image, log_mel = inputs.image[:MOST_SAMPLES], inputs.log_mel[:MOST_SAMPLES, :, : mels.shape[2], : mels.shape[3]]
    image = image[..., : images.shape[2], : images.shape[3]]
    seen = visible(image, output.image_mask[:MOST_SAMPLES], patch)
    heard = visible(model.audio_input(inputs.log_mel)[:MOST_SAMPLES], output.audio_mask[:MOST_SAMPLES], patch)
    heard = heard.transpose(-1, -2) if model.time_first else heard
    columns = [
        ("frame", to_rgb(image)),
        ("visible", to_rgb(image, seen)),
        ("reconstruction", to_rgb(images)),
        ("log-mel", to_mel(log_mel)),
        ("visible", np.where(to_numpy(heard)[:, 0], to_mel(log_mel), np.nan)),
        ("reconstruction", to_mel(mels)),
    ]
    save_figure(draw_grid(columns, keys, profile), path, "Free space, then resume.")


def save_attention(
    path: Path | None, model: Family, inputs: Inputs, keys: tuple[str, ...], profile: MelProfile
) -> None:
    """Draw the model's attention maps of the first samples of a batch into a PNG, a row each; brighter is more.

    For a model without such maps nothing is drawn. Without a path everything is computed and nothing is written.
    Raises StorageError if the file can't be written.
    """
    was_training = model.training
    model.eval()
    image, log_mel = inputs.image[:MOST_SAMPLES], inputs.log_mel[:MOST_SAMPLES]
    with torch.no_grad():
        maps = model.attention(image, log_mel)
    model.train(was_training)
    if not maps or path is None:
        return
    patch = model.config.patch_size
    seen, heard = model.image_input(image), model.audio_input(log_mel)
    frames, spectrograms = to_rgb(seen), to_mel(model.audio_output(heard))
    columns: list[tuple[str, np.ndarray]] = [("frame", frames)]
    for one in maps:
        if one.image is not None:
            share = to_numpy(unit_range(spread_out(one.image, seen, patch)[:, 0]))[..., None]
            columns.append((one.title, HIDDEN * frames * (1 - share) + frames * share))
    columns.append(("log-mel", spectrograms))
    for one in maps:
        if one.audio is not None:
            weights = spread_out(one.audio, heard, patch)[:, 0]
            share = to_numpy(unit_range(weights.transpose(-1, -2) if model.time_first else weights))
            low = spectrograms.min(axis=(1, 2), keepdims=True)
            columns.append((one.title, low + (spectrograms - low) * share))
    save_figure(draw_grid(columns, keys[:MOST_SAMPLES], profile), path, "Free space, then resume.")


def spread_out(values: Float[Tensor, "b n"], x: Float[Tensor, "b c h w"], patch_size: int) -> Float[Tensor, "b 1 h w"]:
    """The value of each patch of `x` at all of its pixels."""
    grid = (x.shape[2] // patch_size, x.shape[3] // patch_size)
    return unpatchify(values.float().unsqueeze(-1).expand(-1, -1, patch_size**2), patch_size, grid)


def visible(x: Float[Tensor, "b c h w"], mask: Float[Tensor, "b n"], patch_size: int) -> Float[Tensor, "b c h w"]:
    """1 in visible patches, 0 in those where `mask` is 1."""
    patches = torch.ones_like(patchify(x, patch_size))
    grid = (x.shape[2] // patch_size, x.shape[3] // patch_size)
    return unpatchify(patches * (1 - mask.unsqueeze(-1)), patch_size, grid)


def to_rgb(image: Float[Tensor, "b 3 h w"], shown: Float[Tensor, "b 3 h w"] | None = None) -> np.ndarray:
    """Normalized images as RGB from 0 to 1, [b, h, w, 3]; gray where `shown` is 0."""
    mean, std = image_statistics(image.device)
    rgb = (image * std + mean).clamp(0, 1)
    if shown is not None:
        rgb = torch.where(shown > 0, rgb, HIDDEN)
    return to_numpy(rgb.movedim(1, -1))


def to_mel(log_mel: Float[Tensor, "b 1 mel t"]) -> np.ndarray:
    """Spectrograms as [b, mel, t]."""
    return to_numpy(log_mel[:, 0])


def to_numpy(x: Float[Tensor, "..."]) -> np.ndarray:
    """A float32 array on the CPU."""
    return np.asarray(x.detach().float().cpu().numpy())
