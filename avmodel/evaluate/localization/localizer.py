"""Localization of the sound source in an image: how similar the sound, or each token of it, is to each image patch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from avmanifest.errors import ConfigError
from avmanifest.names import unknown_name
from avmodel.checkpoint import load_model, of_weights_file, read_weights, save_checkpoint
from avmodel.configs.choices import ENCODINGS
from avmodel.configs.dense import DenseConfig
from avmodel.evaluate.dense import audio_on_grid, image_on_grid, require_heads, similarity_maps, similarity_volume
from avmodel.evaluate.finetune.classifier import blank
from avmodel.evaluate.training import freeze_all_but_used
from avmodel.inputs import normalize_images
from avmodel.models.family import Family, Stream, for_each_image
from avmodel.rundir import CHECKPOINTS, checkpoints_of

KIND = "localizer"


class Localizer(nn.Module):
    """Similarities of the sound with the image tokens, in the space of the streams.

    They are cosines of the sound's vector or, with `dense`, of its tokens, as `avmodel.evaluate.dense` compares them.

    The contrastive losses of AVSiam, CAV-MAE and CrossMAE compare means of these tokens, without a further projection
    (CrossMAE with pool=cls compares class tokens instead). A family with a token for the whole sound, such as CAV-MAE
    Sync, has that as the sound's vector. `together`: an early-fusion model gets both modalities at once, as in
    training; `alone`: each without the other. The families without fusion encode each alone in either case.
    """

    def __init__(self, model: Family, encoding: str, dense: DenseConfig | None = None) -> None:
        super().__init__()
        if encoding not in ENCODINGS:
            raise ConfigError(unknown_name("encoding", encoding, ENCODINGS))
        if dense is not None:
            require_heads(model, dense)
        self.model, self.encoding, self.dense = model, encoding, dense

    def forward(self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "a 1 mel t"]) -> Float[Tensor, "b r c"]:
        """A value for each patch: a cosine, from -1 to 1, unless `dense` compares by inner product."""
        if self.dense is not None:
            return similarity_maps(self.volume(image, log_mel), self.dense)
        seen, heard = self.encode(image, log_mel)
        audio = for_each_image(heard.vector, seen.tokens)
        cosines = F.cosine_similarity(seen.tokens.float(), audio[:, None], dim=2)
        return image_on_grid(self.model, cosines.unsqueeze(2)).squeeze(3)

    def volume(
        self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "a 1 mel t"]
    ) -> Float[Tensor, "b k f n r c"]:
        """The similarities that `dense` pools: of each head, by the sound's frequency and time and by the patch."""
        assert self.dense is not None
        seen, heard = self.encode(image, log_mel)
        audio = audio_on_grid(self.model, for_each_image(heard.tokens, seen.tokens))
        return similarity_volume(audio, image_on_grid(self.model, seen.tokens), self.dense)

    def encode(self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "a 1 mel t"]) -> tuple[Stream, Stream]:
        """The streams of image and audio, encoded as `encoding` says."""
        if self.encoding == "together":
            streams = self.model.encode(image, log_mel)
            return streams["image"], streams["audio"]
        return self.model.encode(image, None)["image"], self.model.encode(None, log_mel)["audio"]

    def freeze_unused(self) -> None:
        """Freeze the parameters that no map depends on, such as the decoders of a masked autoencoder."""
        freeze_all_but_used(self, lambda: self(*blank(self.model)))


def grid_maps(
    localizer: Localizer, images: UInt8[Tensor, "b 3 h w"], log_mel: Float[Tensor, "a mel t"]
) -> Float[Tensor, "b r c"]:
    """A value for each patch, for images as the loader returns them and log-mels as stored."""
    with torch.inference_mode():
        found: Tensor = localizer(normalize_images(images), log_mel.float().unsqueeze(1))
        return found


def in_size_of(images: UInt8[Tensor, "b 3 h w"], maps: Float[Tensor, "b r c"]) -> Float[Tensor, "b h w"]:
    """The maps in the images' size, bilinear between the centers of their cells."""
    return F.interpolate(maps.unsqueeze(1), images.shape[-2:], mode="bilinear", align_corners=False).squeeze(1)


def localize(
    localizer: Localizer, images: UInt8[Tensor, "b 3 h w"], log_mel: Float[Tensor, "a mel t"]
) -> Float[Tensor, "b h w"]:
    """`grid_maps` in the images' size."""
    return in_size_of(images, grid_maps(localizer, images, log_mel))


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
