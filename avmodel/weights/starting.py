"""Initial weights of one modality: from a published single-modality file or from an own run."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from avmanifest.errors import ConfigError
from avmodel.checkpoint import fill_weights
from avmodel.models.family import Family, Modality
from avmodel.registry.named import how_to_get, located, require_branch
from avmodel.weights.files import read_weights
from avmodel.weights.own_run import start_from_run
from avmodel.weights.published import PublishedWeights, identify
from avmodel.weights.vit import published_vit


def start_from_weights(model: Family, modality: Modality, path: Path | str) -> PublishedWeights:
    """Load initial weights of one modality from a published checkpoint or from an own run.

    Args:
        model: The model that gets the weights, in place.
        modality: image or audio.
        path: A file of published weights, the name of a published model, or the folder of a run, or of a checkpoint.

    Returns:
        What the weights are, with their license.

    Raises:
        ConfigError: For a family that starts from no such weights, a file that isn't there, or weights that are not of
            the model's size; for a folder as `start_from_run`, for a name as `located` and `require_branch`.
    """
    setting = f"{modality}_weights"
    require_branch(path, setting)
    path = located(path, setting)
    if path.is_dir():
        return start_from_run(model, modality, path)
    scratch = f"Or train from scratch: --set {modality}_weights=none."
    if modality not in model.published_starts:
        raise ConfigError(
            f"{modality}_weights={path}: {type(model).__name__} has no import of published {modality} weights. "
            f"Set {modality}_weights=none."
        )
    if not path.is_file():
        where = how_to_get(path) or model.published_starts[modality]
        raise ConfigError(f"{modality}_weights={path}: no such file. {where} {scratch}")
    vit = published_vit(read_weights(path), path)
    try:
        model.load_vit(modality, vit, partial(fill_modality, model, path))
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"{path}: {error} {scratch}") from error
    return identify(path)


def fill_modality(model: Family, path: Path, weights: Mapping[str, Tensor]) -> None:
    """Copy these weights into the model and leave its other weights unchanged.

    Raises ConfigError for a weight that the model doesn't have so, and for blocks of which the file has only some.
    """
    expected = model.state_dict()
    stacks = {found[1] for name in weights if (found := LINEAR.match(name))}
    kept = {
        name: tensor for name, tensor in expected.items() if not ((found := LINEAR.match(name)) and found[1] in stacks)
    }
    fill_weights(model, kept | dict(weights), path)


LINEAR = re.compile(r"(.*blocks)\.\d+\.(?:attn|mlp)\.")  # the weights of a stack of blocks that are never copies
