"""The families of models, by the name that commands and checkpoints use."""

from avmodel.models.deepavfusion import DeepAVFusion

Family = DeepAVFusion

FAMILIES: dict[str, type[Family]] = {"deepavfusion": DeepAVFusion}
