"""The golden files of DeepAVFusion (README.md in this folder), as models."""

import ast
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from torch import Tensor

from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.weights.deepavfusion import model_from_released

FILES = sorted(Path(__file__).parent.glob("deepavfusion_*.safetensors"))


class Golden(NamedTuple):
    model: DeepAVFusion
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def load(path: Path, **settings: object) -> Golden:
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    told = settings_of(metadata)
    return Golden(model_from_released(released_state(tensors), path, **told, **settings).eval(), tensors, metadata)


def released_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The released state dict among the tensors of a file."""
    return {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}


def settings_of(metadata: dict[str, str]) -> dict[str, Any]:
    """Settings of the model that its tensors do not tell."""
    fusion, image, audio = ast.literal_eval(metadata["fusion_tokens"])
    return {
        "size": f"{metadata['embed_dim']}x{metadata['depth']}x{metadata['heads']}",
        "decoder_num_heads": int(metadata["decoder_heads"]),
        "num_fusion_tokens": fusion,
        "num_aggr_image_tokens": image,
        "num_aggr_audio_tokens": audio,
    }
