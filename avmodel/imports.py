"""Published checkpoints of AVSiam-Base and CAV-MAE as models of ours: their names, their quirks, their licenses.

Nothing here runs code from a file. What their forward passes never use of it is left out: copies, spare norms, heads.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avmanifest.errors import ConfigError
from avmodel.checkpoint import fill_weights
from avmodel.configs.avsiam import AVSiamConfig
from avmodel.configs.cavmae import CAVMAEConfig
from avmodel.configs.model import ViTSize, size_name
from avmodel.convert import PublishedWeights, numbers_in, read_weights
from avmodel.models.avsiam import AVSiam
from avmodel.models.cavmae import CAVMAE

AVSIAM = PublishedWeights(
    name="avsiam_base",
    source="https://github.com/GenjiB/AVSiam (Base and Base+, pretrained)",
    license="MIT by its badge, without a license file (AVSiam); started from ImageNet-21k ViT weights (Apache-2.0)",
)
CAV_MAE = PublishedWeights(
    name="cav_mae",
    source="https://github.com/YuanGongND/cav-mae (pretrained)",
    license="BSD-2-Clause (CAV-MAE), trained from CC-BY-NC-4.0 (MAE) weights",
)

# Published name -> ours; the first pattern that fits counts.
LINEAR = r"(?:attn|mlp)\..+"
AVSIAM_NAMES = (
    (r"vit_base\.patch_embed\.(.+)", r"encoder.image.patch_embed.\1"),
    (r"vit_base\.patch_embed_a\.(.+)", r"encoder.audio.patch_embed.\1"),
    (r"vit_base\.pos_embed", r"encoder.image.positions"),
    (r"vit_base\.pos_embed_a", r"encoder.audio.positions"),
    (rf"vit_base\.blocks\.(\d+)\.({LINEAR})", r"encoder.blocks.\1.\2"),
    (r"vit_base\.blocks\.(\d+)\.(norm[12])_v\.(.+)", r"encoder.blocks.\1.\2.\3"),
    (r"vit_base\.blocks\.(\d+)\.(norm[12])_a\.(.+)", r"encoder.blocks.\1.\2_banks.audio.\3"),
    (r"vit_base\.norm\.(.+)", r"encoder.norm.\1"),
    (r"vit_base\.norm_a\.(.+)", r"encoder.audio_norm.\1"),
    (rf"ast_base\.blocks\.(\d+)\.({LINEAR})", r"reconstruction_blocks.\1.\2"),
    (r"ast_base\.blocks\.(\d+)\.(norm[12]\..+)", r"reconstruction_blocks.\1.\2"),
    (r"ast_base\.norm_a\.(.+)", r"reconstruction_norm.\1"),
    # They run with the audio norms.
    *((rf"mm_layer_{n + 1}\.({LINEAR})", rf"joint_layers.{n}.\1") for n in range(2)),
    *((rf"mm_layer_{n + 1}\.(norm[12])_a\.(.+)", rf"joint_layers.{n}.\1.\2") for n in range(2)),
)
CAV_MAE_NAMES = (
    *(
        pair
        for letter, sense in (("v", "image"), ("a", "audio"))
        for pair in (
            (rf"patch_embed_{letter}\.(.+)", rf"encoder.{sense}.patch_embed.\1"),
            (rf"pos_embed_{letter}", rf"encoder.{sense}.positions"),
            (rf"modality_{letter}", rf"encoder.{sense}.modality"),
            (rf"blocks_{letter}\.(\d+)\.((?:{LINEAR})|(?:norm[12]\..+))", rf"encoder.{sense}.blocks.\1.\2"),
            (rf"norm_{letter}\.(.+)", rf"encoder.{sense}.norm.\1"),
            (rf"blocks_u\.(\d+)\.(norm[12])_{letter}\.(.+)", rf"encoder.joint_blocks.\1.\2_banks.{sense}.\3"),
        )
    ),
    (rf"blocks_u\.(\d+)\.((?:{LINEAR})|(?:norm[12]\..+))", r"encoder.joint_blocks.\1.\2"),
    (r"norm\.(.+)", r"encoder.joint_norm.\1"),
)
DECODER_NAMES = (
    (r"decoder_embed\.(.+)", r"decoder.embed.\1"),
    (r"mask_token", r"decoder.mask_token"),
    (r"decoder_pos_embed_a", r"decoder.audio_positions"),
    (r"decoder_pos_embed_v", r"decoder.image_positions"),
    (r"decoder_modality_a", r"decoder.audio_vector"),
    (r"decoder_modality_v", r"decoder.image_vector"),
    (rf"decoder_blocks\.(\d+)\.((?:{LINEAR})|(?:norm[12]\..+))", r"decoder.blocks.\1.\2"),
    (r"decoder_norm\.(.+)", r"decoder.norm.\1"),
    (r"decoder_pred_a\.(.+)", r"decoder.audio_pred.\1"),
    (r"decoder_pred_v\.(.+)", r"decoder.image_pred.\1"),
)


def import_avsiam(path: Path, **settings: Any) -> tuple[AVSiam, PublishedWeights]:
    """The model in a pretrained AVSiam-Base file, with the flags of its code, and the file's license.

    `settings` are config fields. Raises ConfigError for a file that holds no such model.
    """
    released = read_weights(path)
    try:
        dim, _, patch, _ = released["vit_base.patch_embed.proj.weight"].shape
        depth = len(numbers_in(released, r"vit_base\.blocks\.(\d+)\."))
        config = AVSiamConfig(
            size=size_name(ViTSize(dim, depth, max(dim // 64, 1))),
            image_size=square(released["vit_base.pos_embed"].shape[1] - 1, patch),
            audio_size=eight_rows(released["vit_base.pos_embed_a"].shape[1], patch),
            patch_size=patch,
            decoder_embed_dim=released["decoder_embed.weight"].shape[0],
            decoder_depth=len(numbers_in(released, r"decoder_blocks\.(\d+)\.")),
            mask_ratios=(0.0, 0.2, 0.4, 0.6, 0.8),
            audio_scheme="tf",
            stop_gradient=False,
            separate_reconstruction=True,
            double_embed=True,
            norm_eps=1e-5,
        )
        config = replace(config, **settings)
    except KeyError as error:
        raise ConfigError(f"{path}: not an AVSiam state dict: {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    weights = renamed(released, (*AVSIAM_NAMES, *DECODER_NAMES))
    # The class token has a position, and is used nowhere.
    weights["encoder.image.positions"] = weights["encoder.image.positions"][:, 1:]
    with torch.device("meta"):
        model = AVSiam(config)
    fill_weights(model, weights, path)
    return model, AVSIAM


def import_cav_mae(path: Path, **settings: Any) -> tuple[CAVMAE, PublishedWeights]:
    """The model in a pretrained CAV-MAE file, and the file's license.

    `settings` are config fields, such as normalize_targets=False for the inpainting model. Raises ConfigError for a
    file that holds no such model; a fine-tuned one has no decoder and is refused.
    """
    released = read_weights(path)
    try:
        dim, _, patch, _ = released["patch_embed_v.proj.weight"].shape
        joint = len(numbers_in(released, r"blocks_u\.(\d+)\."))
        depth = len(numbers_in(released, r"blocks_v\.(\d+)\.")) + joint
        config = CAVMAEConfig(
            size=size_name(ViTSize(dim, depth, max(dim // 64, 1))),
            joint_depth=joint,
            image_size=square(released["pos_embed_v"].shape[1], patch),
            audio_size=eight_rows(released["pos_embed_a"].shape[1], patch),
            patch_size=patch,
            decoder_embed_dim=released["decoder_embed.weight"].shape[0],
            decoder_depth=len(numbers_in(released, r"decoder_blocks\.(\d+)\.")),
        )
        config = replace(config, **settings)
    except KeyError as error:
        raise ConfigError(f"{path}: not a pretrained CAV-MAE state dict: {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    with torch.device("meta"):
        model = CAVMAE(config)
    fill_weights(model, renamed(released, (*CAV_MAE_NAMES, *DECODER_NAMES)), path)
    return model, CAV_MAE


def renamed(released: Mapping[str, Tensor], names: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """The tensors under our names; those that no pattern fits are left out."""
    return {ours: tensor for name, tensor in released.items() if (ours := our_name(name, names)) is not None}


def our_name(name: str, names: tuple[tuple[str, str], ...]) -> str | None:
    """Our name of a published weight; None for one that our model doesn't have."""
    for pattern, ours in names:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return None


def square(num_patches: int, patch_size: int) -> tuple[int, int]:
    """Pixels of the square image of that many patches. Raises ValueError if there is none."""
    side = isqrt(num_patches)
    if side * side != num_patches:
        raise ValueError(f"{num_patches} image positions are no square")
    return side * patch_size, side * patch_size


def eight_rows(num_patches: int, patch_size: int) -> tuple[int, int]:
    """Mel bins and steps of the spectrogram of that many patches, eight of them high. ValueError if there is none."""
    if num_patches % 8:
        raise ValueError(f"{num_patches} audio positions are not eight rows")
    return 8 * patch_size, num_patches // 8 * patch_size
