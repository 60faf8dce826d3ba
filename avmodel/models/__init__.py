"""The families of models, by the name that commands and checkpoints use. Importing this room doesn't import torch."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from avmodel.configs.model import ModelConfig

if TYPE_CHECKING:
    from avmodel.models.family import Family


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyEntry:
    """Where the parts of a family are, each as "module:name". A module is imported when its part is asked for."""

    config: str  # a ModelConfig
    model: str  # a Family
    presets: str | None = None  # a dict of named runs, name -> function that returns a RunConfig; none: one of defaults
    importer: str | None = None  # an avmodel.weights.published.Importer of published checkpoints; none: there are none

    @property
    def config_type(self) -> type[ModelConfig]:
        """The class of its configs."""
        return cast(type[ModelConfig], part(self.config))

    @property
    def model_type(self) -> "type[Family]":
        """The class of its models. Imports torch."""
        return cast("type[Family]", part(self.model))


def house(name: str, model: str, *, released: bool) -> FamilyEntry:
    """The entry of a family whose parts stand in their rooms: `configs`, `models`, `presets` and `weights`."""
    return FamilyEntry(
        config=f"avmodel.configs.{name}:{model}Config",
        model=f"avmodel.models.{name}:{model}",
        presets=f"avmodel.presets.{name}:PRESETS",
        importer=f"avmodel.weights.{name}:IMPORTER" if released else None,
    )


FAMILIES: dict[str, FamilyEntry] = {
    "deepavfusion": house("deepavfusion", "DeepAVFusion", released=True),
    "avsiam": house("avsiam", "AVSiam", released=True),
    "cavmae": house("cavmae", "CAVMAE", released=True),
    "crossmae": house("crossmae", "CrossMAE", released=False),
    "mae": house("mae", "MAE", released=False),
    "cavmae_sync": house("cavmae_sync", "CAVMAESync", released=True),
}


def imported_families() -> list[str]:
    """The families of which published checkpoints are imported."""
    return [name for name, family in FAMILIES.items() if family.importer is not None]


def part(place: str) -> Any:
    """What `place`, such as avmodel.models.cavmae:CAVMAE, names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def family_of(config: ModelConfig) -> str:
    """The name under which the config's model is known."""
    return next(name for name, family in FAMILIES.items() if family.config_type is type(config))


def build_model(config: ModelConfig) -> "Family":
    """The model of that config, with its initial weights."""
    return FAMILIES[family_of(config)].model_type(config)
