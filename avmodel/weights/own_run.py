"""Weights of an own run as the initial weights of another model: all of them, or those of the image or the audio.

All of them go to a model of the same family. Those of one modality only DeepAVFusion and CrossMAE, which have a
separate ViT per modality, can give and take; the other families share blocks between the modalities. Audio weights are
adapted to the patch order and log-mel scale of the new model.
"""

from pathlib import Path

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from avmanifest.errors import ConfigError
from avmodel.checkpoint import fill_weights, load_model, of_weights_file
from avmodel.layers import ViT
from avmodel.models import family_of
from avmodel.models.family import Family, Modality
from avmodel.registry.named import located
from avmodel.rundir import CHECKPOINTS, checkpoints_of
from avmodel.weights.convert import read_published
from avmodel.weights.files import TORCH_SUFFIXES
from avmodel.weights.published import PublishedWeights

KERNEL, BIAS, POSITIONS = "patch_embed.proj.weight", "patch_embed.proj.bias", "positions"


def start_from_run(model: Family, modality: Modality, path: Path) -> PublishedWeights:
    """Load the weights of one modality from an own run.

    Positions are copied if the grids are equal, a class token if both models have one.

    Args:
        model: The model that gets the weights, in place.
        modality: image or audio.
        path: Folder of the run, or of one of its checkpoints.

    Returns:
        The family of the run and its folder.

    Raises:
        ConfigError: If a family has no separate ViT for this modality, the sizes differ, or there is no checkpoint.
        CheckpointError: If the checkpoint is damaged.
    """
    checkpoints = path / CHECKPOINTS
    source, config = load_model(checkpoints if checkpoints.is_dir() else path)
    given, own = vit_of(source, modality, path), vit_of(model, modality, path)
    weights, expected = given.state_dict(), own.state_dict()
    if modality == "audio":
        weights |= heard_alike(source, model, weights)
    grids = [(one.image_grid if modality == "image" else one.audio_grid) for one in (source, model)]
    if grids[0] != grids[1]:
        weights[POSITIONS] = expected[POSITIONS]
    weights = {name: x for name, x in weights.items() if name in expected or "token" not in name}
    fill_weights(own, {name: x for name, x in expected.items() if "token" in name} | weights, path)
    return PublishedWeights(name=f"{family_of(config)} of one's own", source=str(path), license="as its data's")


def start_from_model(model: Family, path: Path | str) -> None:
    """Give the model, in place, all weights of an own run or of a published model.

    `path`: a run's folder, a checkpoint, a weights file, a published file, the name of a published model, or
    hf:USER/NAME.

    Raises ConfigError for a model of another family or of other shapes, or if nothing is there; CheckpointError for
    damaged files.
    """
    file = located(path, "start")
    folder = checkpoints_of(file)
    if not folder.exists():
        raise ConfigError(f"start={path}: no such run. Give a run's folder, a checkpoint, or a weights file.")
    source = read_published(file)[0] if file.suffix in TORCH_SUFFIXES else of_weights_file(folder, load_model)[1][0]
    ours, theirs = family_of(model.config), family_of(source.config)
    if ours != theirs:
        raise ConfigError(
            f"start={path}: a model of {theirs}, this run trains one of {ours}. Between families, image_weights and "
            "audio_weights give the weights of one modality."
        )
    fill_weights(model, source.state_dict(), file)


def vit_of(model: Family, modality: Modality, path: Path) -> ViT:
    """The model's ViT for one modality. Raises ConfigError if it has none."""
    if (vit := model.modality_vit(modality)) is None:
        raise ConfigError(
            f"{modality}_weights={path}: {type(model).__name__} has no separate {modality} ViT. Runs of deepavfusion, "
            "crossmae and mae give and take them. To go on from a run of the same family, set start to it."
        )
    return vit


def heard_alike(source: Family, model: Family, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Kernel, bias and positions of the source's audio ViT, adapted to the model's patch order and log-mel scale."""
    kernel, bias, positions = weights[KERNEL], weights[BIAS], weights[POSITIONS]
    (scale, shift), (own_scale, own_shift) = source.mel_map, model.mel_map
    ratio = scale / own_scale
    bias = bias + kernel.sum(dim=(1, 2, 3)) * (shift - own_shift * ratio)
    kernel = kernel * ratio
    if source.time_first != model.time_first:
        kernel = kernel.transpose(-1, -2).contiguous()
        rows = source.audio_grid[1 if source.time_first else 0]
        positions = turned(positions, rows)
    return {KERNEL: kernel, BIAS: bias, POSITIONS: positions}


def turned(positions: Float[Tensor, "1 n d"], rows: int) -> Float[Tensor, "1 n d"]:
    """Positions of a grid, row by row, in the order of its columns."""
    return rearrange(positions, "1 (r c) d -> 1 (c r) d", r=rows)
