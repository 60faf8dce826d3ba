"""Published CAV-MAE Sync checkpoints as models of ours.

What the released forward pass never uses is left out: copies, spare norms.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avmanifest.errors import ConfigError
from avmodel.checkpoint import filled
from avmodel.configs.cavmae_sync import CAVMAESyncConfig
from avmodel.models.cavmae_sync import CAVMAESync
from avmodel.renaming import Rules, renamed
from avmodel.weights.avsiam import DECODER_NAMES
from avmodel.weights.cavmae import CAV_MAE_NAMES, sizes_in
from avmodel.weights.files import read_weights
from avmodel.weights.published import Importer, PublishedWeights
from avmodel.weights.shapes import said_of

CAV_MAE_SYNC = PublishedWeights(
    name="cav_mae_sync",
    source="https://github.com/edsonroteia/cav-mae-sync (cav_mae_sync.pth)",
    license="BSD-2-Clause (CAV-MAE Sync), trained from CC-BY-NC-4.0 (MAE) weights",
)

# Published name -> ours; the first row that fits counts.
SYNC_NAMES: Rules = (
    (r"cls_token_a", r"encoder.audio.global_token"),
    (r"cls_token_v", r"encoder.image.global_token"),
    (r"(image|audio)_registers", r"encoder.\1.register_tokens"),  # as `with_own_registers` names them
    *CAV_MAE_NAMES,
    *DECODER_NAMES,
)


def import_cav_mae_sync(path: Path, **settings: Any) -> tuple[CAVMAESync, PublishedWeights]:
    """The model in a pretrained file, and its license; errors and `settings` as in `model_from_released`."""
    return model_from_released(read_weights(path), path, **settings), CAV_MAE_SYNC


def model_from_released(released: Mapping[str, Tensor], path: Path, **settings: Any) -> CAVMAESync:
    """The model that a released state dict describes.

    `settings` are config fields. Raises ConfigError for a state dict of another model, and for one with the released
    code's contrastive heads, which its published model lacks.
    """
    if any(name.startswith("constrative_head") for name in released):
        raise ConfigError(f"{path}: has contrastive heads, blocks after the joint one, which avkit's model has not")
    with said_of(path, "a pretrained CAV-MAE Sync"):
        dim = released["cls_token_a"].shape[2]
        registers = len(released.get("register_tokens", torch.empty(0, dim)))
        if registers % 2:
            raise ValueError(f"{registers} register tokens are not two equal halves, the audio's and the image's")
        config = replace(CAVMAESyncConfig(**sizes_in(released), num_registers=registers // 2), **settings)
    return filled(CAVMAESync, config, renamed(with_own_registers(released), SYNC_NAMES), path)


def with_own_registers(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with each tower's registers by themselves: one table has those of the audio first."""
    weights = dict(released)
    table = weights.pop("register_tokens", None)
    if table is not None:
        weights["audio_registers"], weights["image_registers"] = table.unsqueeze(0).chunk(2, dim=1)
    return weights


IMPORTER = Importer(read=import_cav_mae_sync, profile="kaldi", window_s=None, around_frame=True, fit="short-side-crop")
