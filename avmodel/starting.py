"""Published single-modality weights as the start of a family's branches, and which files to take.

ImageNet-21k ViTs (timm's names), MAE, AST and AudioMAE name a ViT's parts alike; AST puts `v.` before them and has
two class tokens.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from avmanifest.errors import ConfigError
from avmodel.branches import take_branch
from avmodel.checkpoint import fill_weights
from avmodel.convert import Branch, PublishedWeights, identify, load_branch, read_weights
from avmodel.embedding import kernel_from_rgb
from avmodel.models.avsiam import AVSiam
from avmodel.models.cavmae import CAVMAE
from avmodel.models.crossmae import CrossMAE
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.models.family import Family
from avmodel.positions import resize_positions

MAE = "MAE's ViT (CC-BY-NC-4.0) is at https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth."
AUDIOMAE = "AudioMAE's ViT (CC-BY-4.0) is linked from https://github.com/facebookresearch/AudioMAE."
IN21K = "ImageNet-21k ViTs (Apache-2.0) are timm's, such as vit_base_patch16_224.augreg_in21k."
AST = "AST (BSD-3-Clause) is linked from https://github.com/YuanGongND/ast."
WEIGHTS_FROM: dict[tuple[type[Family], str], str] = {
    (DeepAVFusion, "image"): MAE,
    (DeepAVFusion, "audio"): AUDIOMAE,
    (AVSiam, "image"): IN21K,
    (AVSiam, "audio"): AST,
    (CAVMAE, "image"): MAE,
    (CAVMAE, "audio"): MAE,
    (CrossMAE, "image"): MAE,
    (CrossMAE, "audio"): AUDIOMAE,
}
AST_STRIDE = (12, 101)  # its patches overlap: rows and columns of its 1024-step model


class PublishedViT(NamedTuple):
    """The parts of a published ViT under timm's names, its head left out."""

    kernel: Float[Tensor, "d c p p"]
    bias: Float[Tensor, " d"]
    positions: Float[Tensor, "1 n d"]  # of patches
    cls_token: Float[Tensor, "1 1 d"] | None
    body: dict[str, Tensor]  # blocks.N.* and norm.*
    decoder: dict[str, Tensor]  # MAE's decoder_*, mask_token


def start_branch(model: Family, branch: Branch, path: Path) -> PublishedWeights:
    """Start one branch of the model from a published checkpoint, or from a run of one's own; what it is.

    Raises ConfigError for a file that isn't there, or whose weights are not of the branch's size; for a folder as
    `take_branch`.
    """
    if path.is_dir():
        return take_branch(model, branch, path)
    if not path.is_file():
        raise ConfigError(
            f"{branch}_weights={path}: no such file. {WEIGHTS_FROM[type(model), branch]} Or train from scratch: "
            f"--set {branch}_weights=none."
        )
    if isinstance(model, DeepAVFusion):
        return load_branch(model, branch, path)
    vit = published_vit(read_weights(path), path)
    match model:
        case AVSiam():
            start_avsiam(model, branch, vit, path)
        case CAVMAE():
            fill_some(model, cavmae_start(model, branch, vit), path)
        case CrossMAE():
            fill_some(model, crossmae_start(model, branch, vit), path)
        case _:
            raise ConfigError(f"{branch}_weights: {type(model).__name__} starts from no published weights")
    return identify(path)


def fill_some(model: Family, weights: Mapping[str, Tensor], path: Path) -> None:
    """Give the model these weights beside its own. Raises ConfigError for one that it doesn't have so."""
    fill_weights(model, model.state_dict() | dict(weights), path)


def published_vit(weights: Mapping[str, Tensor], path: Path) -> PublishedViT:
    """The ViT in a published state dict. Raises ConfigError if a part that every ViT has is missing."""
    ours = {name.removeprefix("v."): tensor for name, tensor in weights.items()}
    try:
        positions, prefix = ours["pos_embed"], 1 + ("dist_token" in ours)
        return PublishedViT(
            ours["patch_embed.proj.weight"],
            ours["patch_embed.proj.bias"],
            positions[:, prefix:],
            ours.get("cls_token"),
            {name: tensor for name, tensor in ours.items() if name.startswith(("blocks.", "norm."))},
            {name: t for name, t in ours.items() if name.startswith("decoder_") or name == "mask_token"},
        )
    except KeyError as error:
        raise ConfigError(f"{path}: not a published ViT: {error} is missing") from error


def start_avsiam(model: AVSiam, branch: Branch, vit: PublishedViT, path: Path) -> None:
    """The backbone from an image's ViT, or from a spectrogram's (AST), and all that starts as its copy.

    A spectrogram's gives a third of its one-channel kernel to each color, and its positions, as pictures, to both
    grids; to two backbones (AVSep) it gives the audio's alone.
    """
    image, audio = model.encoder.image, model.encoder.audio
    embedding = {"patch_embed.proj.weight": vit.kernel, "patch_embed.proj.bias": vit.bias}
    if branch == "image":
        weights = {f"encoder.{name}": tensor for name, tensor in vit.body.items()}
        weights |= {f"encoder.image.{name}": t for name, t in (embedding | {"positions": vit.positions}).items()}
        fill_some(model, weights, path)
        model.start_copies()
        return
    grid = spectrogram_grid(vit.positions.shape[1], path)
    heard = embedding | {"positions": resize_positions(vit.positions, grid, audio.grid, "bicubic2d")}
    if model.encoder.audio_blocks is None:
        seen = embedding | {
            "patch_embed.proj.weight": vit.kernel.expand(-1, 3, -1, -1) / 3,
            "positions": resize_positions(vit.positions, grid, image.grid, "bicubic2d"),
        }
        weights = {f"encoder.{name}": tensor for name, tensor in vit.body.items()}
        fill_some(model, weights | {f"encoder.image.{name}": tensor for name, tensor in seen.items()}, path)
        model.start_copies()
    else:
        fill_some(model, {f"encoder.audio_{name}": tensor for name, tensor in vit.body.items()}, path)
    fill_some(model, {f"encoder.audio.{name}": tensor for name, tensor in heard.items()}, path)


def spectrogram_grid(num_patches: int, path: Path) -> tuple[int, int]:
    """Rows (frequency) and columns of a published spectrogram model's positions: AST's overlapping ones, or 8 rows."""
    if num_patches == math.prod(AST_STRIDE):
        return AST_STRIDE
    if num_patches % 8 == 0:
        return 8, num_patches // 8
    raise ConfigError(f"{path}: {num_patches} positions are no grid of a known spectrogram model (AST: 12 x 101)")


def cavmae_start(model: CAVMAE, branch: Branch, vit: PublishedViT) -> dict[str, Tensor]:
    """A tower from the first blocks, the joint blocks and all their norms from the last, the decoder from MAE's."""
    tower, config = {"image": model.encoder.image, "audio": model.encoder.audio}[branch], model.config
    tower_depth = config.vit.depth - config.joint_depth
    weights = {
        f"encoder.{branch}.patch_embed.proj.weight": own_channels(vit.kernel, branch, config.audio_kernel),
        f"encoder.{branch}.patch_embed.proj.bias": vit.bias,
        **{f"encoder.{branch}.norm.{part}": vit.body[f"norm.{part}"] for part in ("weight", "bias")},
        **{f"encoder.joint_norm.{part}": vit.body[f"norm.{part}"] for part in ("weight", "bias")},
        **{f"decoder.{ours}": tensor for name, tensor in vit.decoder.items() if (ours := mae_decoder_name(name))},
    }
    assert len(tower.blocks) == tower_depth
    for name, tensor in vit.body.items():
        if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
            layer, part = int(match[1]), match[2]
            if layer < tower_depth:
                weights[f"encoder.{branch}.blocks.{layer}.{part}"] = tensor
                continue
            block = f"encoder.joint_blocks.{layer - tower_depth}"
            weights[f"{block}.{part}"] = tensor
            if norm := re.fullmatch(r"(norm[12])\.(.+)", part):
                weights |= {f"{block}.{norm[1]}_banks.{bank}.{norm[2]}": tensor for bank in ("image", "audio")}
    return weights


def mae_decoder_name(name: str) -> str | None:
    """The joint decoder's name of a part of MAE's; None for its positions and, as audio has others, its predictions."""
    if name == "mask_token":
        return name
    if match := re.fullmatch(r"decoder_(embed|norm|blocks)\.(.+)", name):
        return f"{match[1]}.{match[2]}"
    if match := re.fullmatch(r"decoder_pred\.(.+)", name):
        return f"image_pred.{match[1]}"
    return None


def crossmae_start(model: CrossMAE, branch: Branch, vit: PublishedViT) -> dict[str, Tensor]:
    """A tower from MAE or AudioMAE, or the audio's from an image MAE; positions are the model's own."""
    weights = {f"encoder.{branch}.{name}": tensor for name, tensor in vit.body.items()}
    weights |= {
        f"encoder.{branch}.patch_embed.proj.weight": own_channels(vit.kernel, branch, model.config.audio_kernel),
        f"encoder.{branch}.patch_embed.proj.bias": vit.bias,
    }
    return weights if vit.cls_token is None else weights | {f"encoder.{branch}.cls_token": vit.cls_token}


def own_channels(kernel: Float[Tensor, "d c p p"], branch: Branch, reduce: str) -> Float[Tensor, "d c2 p p"]:
    """The kernel, made one-channel if an image's is for the audio branch."""
    return kernel_from_rgb(kernel, reduce) if branch == "audio" and kernel.shape[1] == 3 else kernel
