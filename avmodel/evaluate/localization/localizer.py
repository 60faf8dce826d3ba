"""Localization of the sound source in an image: the cosine of the sound's vector with each image patch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from avmanifest.errors import ConfigError
from avmanifest.names import unknown_name
from avmodel.checkpoint import load_model, of_weights_file, read_weights, save_checkpoint
from avmodel.configs.choices import ENCODINGS
from avmodel.evaluate.finetune.classifier import blank
from avmodel.evaluate.training import freeze_all_but_used
from avmodel.inputs import normalize_images
from avmodel.models.family import Family, for_each_image
from avmodel.rundir import CHECKPOINTS, checkpoints_of

KIND = "localizer"


class Localizer(nn.Module):
    """Cosines of the sound's vector with the image tokens, in the space of the streams.

    The contrastive losses of AVSiam, CAV-MAE and CrossMAE compare means of these tokens, without a further projection
    (CrossMAE with pool=cls compares class tokens instead). A family with a token for the whole sound, such as CAV-MAE
    Sync, has that as the sound's vector. `together`: an early-fusion model gets both modalities at once, as in
    training; `alone`: each without the other. The families without fusion encode each alone in either case.
    """

    def __init__(self, model: Family, encoding: str) -> None:
        super().__init__()
        if encoding not in ENCODINGS:
            raise ConfigError(unknown_name("encoding", encoding, ENCODINGS))
        self.model, self.encoding = model, encoding

    def forward(self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "a 1 mel t"]) -> Float[Tensor, "b r c"]:
        """A value from -1 to 1 for each patch."""
        if self.encoding == "together":
            streams = self.model.encode(image, log_mel)
            seen, heard = streams["image"], streams["audio"]
        else:
            seen, heard = self.model.encode(image, None)["image"], self.model.encode(None, log_mel)["audio"]
        image_tokens = seen.tokens
        audio = for_each_image(heard.vector, image_tokens)
        cosines = F.cosine_similarity(image_tokens.float(), audio[:, None], dim=2)
        return rearrange(cosines, "b (r c) -> b r c", r=self.model.image_grid[0])

    def freeze_unused(self) -> None:
        """Freeze the parameters that no map depends on, such as the decoders of a masked autoencoder."""
        freeze_all_but_used(self, lambda: self(*blank(self.model)))


def localize(
    localizer: Localizer, images: UInt8[Tensor, "b 3 h w"], log_mel: Float[Tensor, "a mel t"]
) -> Float[Tensor, "b h w"]:
    """Maps of the images' size, from -1 to 1, for images as the loader returns them and log-mels as stored."""
    with torch.inference_mode():
        maps = localizer(normalize_images(images), log_mel.float().unsqueeze(1))
        return F.interpolate(maps.unsqueeze(1), images.shape[-2:], mode="bilinear", align_corners=False).squeeze(1)


def save_localizer(
    folder: Path, localizer: Localizer, step: int, trainer_state: Mapping[str, Any], notes: Mapping[str, str]
) -> None:
    """Save a checkpoint that `load_localizer` reads in a seed's folder: weights, config and notes in one file."""
    save_checkpoint(
        folder / CHECKPOINTS,
        step,
        localizer.model,
        localizer.model.config,
        {"step": step, **trainer_state},
        keep=1,
        notes={**notes, "kind": KIND, "encoding": localizer.encoding},
    )


def load_localizer(path: Path | str, device: torch.device | str = "cpu") -> tuple[Localizer, dict[str, str]]:
    """Load a trained localizer, in evaluation mode, and its notes.

    `path`: a seed's folder, a checkpoint, or its .safetensors file. Raises CheckpointError for a damaged file,
    ConfigError for one of another kind.
    """
    return of_weights_file(checkpoints_of(path), lambda file: _load_localizer(file, device))[1]


def _load_localizer(file: Path, device: torch.device | str) -> tuple[Localizer, dict[str, str]]:
    notes = read_weights(file)[1]
    if notes.get("kind") != KIND:
        raise ConfigError(f"{file}: not a localizer. avkit evaluate localization --preset supervised trains one.")
    model, _ = load_model(file, device)
    return Localizer(model, notes.get("encoding", "")).to(device).eval(), notes
