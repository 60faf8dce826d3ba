"""A loaded model with its origin; the same with random weights, or with other settings."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from avmanifest.errors import ConfigError
from avmodel.models import build_model
from avmodel.models.family import Family


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model under evaluation. `origin` is plain data that a result keeps."""

    model: Family
    origin: Mapping[str, Any]  # path, sha256, family, step, config, license, and data: the parts trained on
    folder: Path  # of the run, or of the file: results go below it
    profile: str | None = None  # of the spectrograms it was trained on; None: not recorded
    window_s: float | None = None  # seconds of its training windows; None: not recorded
    around_frame: bool = False  # whether its windows were around chosen frames
    fit: str | None = None  # how frames became square in its training, one of FITS; None: not recorded


def require_modalities(model: Family, mode: str) -> None:
    """Raise ConfigError for a mode, one of MODES, with a modality that the model has not learned from."""
    if mode not in model.modalities and len(model.modalities) == 1:
        own = model.modalities[0]
        raise ConfigError(
            f"data.mode={mode}: this {type(model).__name__} has learned from {own} alone. Set data.mode={own}; tasks "
            "on both modalities need another model."
        )


def untrained(loaded: LoadedModel, seed: int) -> LoadedModel:
    """The same model with weights drawn from the seed, in evaluation mode, on the same device: a baseline."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(loaded.model.config)
    device = next(loaded.model.parameters()).device
    origin = {"path": None, "sha256": f"random-{seed}", "family": loaded.origin["family"]}
    return replace(loaded, model=model.to(device).eval(), origin=origin)


def with_settings(loaded: LoadedModel, **changes: Any) -> LoadedModel:
    """The same weights in a model of its own, whose config differs in those fields that this family has (such as
    drop_path)."""
    config = loaded.model.config
    known = {field.name for field in fields(config)}
    device = next(loaded.model.parameters()).device
    changed = replace(config, **{name: value for name, value in changes.items() if name in known})
    model = build_model(changed)
    model.load_state_dict(loaded.model.state_dict())
    return replace(loaded, model=model.to(device))
