"""The families of models, by the name that commands and checkpoints use."""

from avmodel.models.avsiam import AVSiam, AVSiamConfig
from avmodel.models.cavmae import CAVMAE, CAVMAEConfig
from avmodel.models.crossmae import CrossMAE, CrossMAEConfig
from avmodel.models.deepavfusion import DeepAVFusion, DeepAVFusionConfig
from avmodel.models.family import Family

FAMILIES: dict[str, type[Family]] = {
    "avsiam": AVSiam,
    "cavmae": CAVMAE,
    "crossmae": CrossMAE,
    "deepavfusion": DeepAVFusion,
}

ModelConfig = AVSiamConfig | CAVMAEConfig | CrossMAEConfig | DeepAVFusionConfig
DefaultConfig = DeepAVFusionConfig


def family_of(config: ModelConfig) -> str:
    """The name under which the config's model is known."""
    return next(name for name, model in FAMILIES.items() if model.config_type is type(config))
