"""Settings of the masked autoencoders that DeepAVFusion is compared with."""

from dataclasses import dataclass
from typing import Annotated

from avmodel.configs.deepavfusion import MaskedViTsConfig

LEARNED = ("audio", "audio-visual", "image")


@dataclass(frozen=True, slots=True, kw_only=True)
class MAEConfig(MaskedViTsConfig):
    """A masked autoencoder of one modality, or one of each that never meet. Defaults: DeepAVFusion's branches.

    Raises ValueError for a value that no model can be built from.
    """

    modalities: Annotated[
        str, "What it learns from: image (MAE), audio (AudioMAE), or audio-visual, one beside the other.", LEARNED
    ] = "audio-visual"
