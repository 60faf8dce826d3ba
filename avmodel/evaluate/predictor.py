"""A pretrained model with a decoder that predicts maps of one modality given both, and its checkpoints."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avmanifest.errors import ConfigError
from avmanifest.parsing import parse_object
from avmodel.checkpoint import (
    config_from_values,
    fill_own,
    of_weights_file,
    read_config,
    read_weights,
    save_checkpoint,
)
from avmodel.evaluate.decoder import Decoder, DecoderConfig, tap_layers
from avmodel.evaluate.finetune.classifier import blank
from avmodel.evaluate.training import freeze_all_but_used
from avmodel.models import build_model
from avmodel.models.family import Family
from avmodel.rundir import CHECKPOINTS, checkpoints_of

MODALITIES = ("audio", "image")


class Predictor(nn.Module):
    """Logits of each cell of the log-mel (modality audio) or of the image, from both inputs."""

    def __init__(self, model: Family, modality: str, config: DecoderConfig) -> None:
        super().__init__()
        self.model, self.modality, self.config = model, modality, config
        grid = model.audio_grid if modality == "audio" else model.image_grid
        size = model.config.audio_size if modality == "audio" else model.config.image_size
        self.taps = tap_layers(model.depth, len(config.divisors))
        self.decoder = Decoder(config, model.config.vit.embed_dim, grid, config.size or size)

    def forward(
        self, image: Float[Tensor, "b 3 h w"], log_mel: Float[Tensor, "a 1 mel t"]
    ) -> Float[Tensor, "b c h2 w2"]:
        layers = self.model.get_intermediate_layers(image, log_mel, self.taps)
        logits: Tensor
        if self.modality == "audio":
            logits = self.decoder([x.audio for x in layers], layers[-1].image)
        else:
            logits = self.decoder([x.image for x in layers], layers[-1].audio)
        return logits

    def freeze_unused(self) -> None:
        """Freeze the parameters that no logit depends on, such as the decoders of a masked autoencoder."""
        freeze_all_but_used(self, lambda: self(*blank(self.model)))


def save_predictor(
    folder: Path, predictor: Predictor, step: int, trainer_state: Mapping[str, Any], notes: Mapping[str, str]
) -> None:
    """Save a checkpoint that `load_predictor` reads in a seed's folder: weights, config and notes in one file."""
    described = {"sense": predictor.modality, "decoder": json.dumps(asdict(predictor.config))}
    state = {"step": step, **trainer_state}
    save_checkpoint(
        folder / CHECKPOINTS,
        step,
        predictor.state_dict(),
        predictor.model.config,
        state,
        keep=1,
        notes={**notes, **described},
    )


def load_predictor(path: Path | str, device: torch.device | str = "cpu") -> tuple[Predictor, dict[str, str]]:
    """Load a trained predictor, in evaluation mode, and its notes.

    `path`: a seed's folder, a checkpoint, or its .safetensors file. Raises CheckpointError for a damaged file,
    ConfigError for one without a decoder.
    """
    return of_weights_file(checkpoints_of(path), lambda file: _load_predictor(file, device))[1]


def _load_predictor(file: Path, device: torch.device | str) -> tuple[Predictor, dict[str, str]]:
    weights, notes = read_weights(file, device)
    config = read_config(notes, file)
    if not {"sense", "decoder"} <= notes.keys() or notes["sense"] not in MODALITIES:
        raise ConfigError(f"{file}: a pretrained model without a decoder. avkit evaluate trains one.")
    try:
        decoder = config_from_values(DecoderConfig, parse_object(notes["decoder"], f"{file}: its decoder", ConfigError))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}: its decoder's config cannot be used: {error}") from error
    with torch.device("meta"):
        predictor = Predictor(build_model(config), notes["sense"], decoder)
    fill_own(predictor, weights, file)
    return predictor.to(device).eval(), notes
