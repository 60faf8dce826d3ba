"""Published CAV-MAE checkpoints, pretrained and fine-tuned, as models of ours.

What the released forward pass never uses is left out: copies, spare norms.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from avmodel.checkpoint import filled
from avmodel.configs.cavmae import CAVMAEConfig
from avmodel.models.cavmae import CAVMAE
from avmodel.renaming import Rules, renamed
from avmodel.weights.avsiam import BLOCK, DECODER_NAMES, decoder_in
from avmodel.weights.files import read_weights
from avmodel.weights.published import Importer, PublishedHeads, PublishedWeights, head_names
from avmodel.weights.shapes import eight_rows, numbers_in, said_of, size_of, square

CAV_MAE = PublishedWeights(
    name="cav_mae",
    source="https://github.com/YuanGongND/cav-mae",
    license="BSD-2-Clause (CAV-MAE), trained from CC-BY-NC-4.0 (MAE) weights",
)

# Published name -> ours; the first row that fits counts.
CAV_MAE_NAMES: Rules = (
    *(
        pair
        for letter, modality in (("v", "image"), ("a", "audio"))
        for pair in (
            (rf"patch_embed_{letter}\.(.+)", rf"encoder.{modality}.patch_embed.\1"),
            (rf"pos_embed_{letter}", rf"encoder.{modality}.positions"),
            (rf"modality_{letter}", rf"encoder.{modality}.modality"),
            (rf"blocks_{letter}\.(\d+)\.({BLOCK})", rf"encoder.{modality}.blocks.\1.\2"),
            (rf"norm_{letter}\.(.+)", rf"encoder.{modality}.norm.\1"),
            (rf"blocks_u\.(\d+)\.(norm[12])_{letter}\.(.+)", rf"encoder.joint_blocks.\1.\2_banks.{modality}.\3"),
        )
    ),
    (rf"blocks_u\.(\d+)\.({BLOCK})", r"encoder.joint_blocks.\1.\2"),
    (r"norm\.(.+)", r"encoder.joint_norm.\1"),
)


def import_cav_mae(path: Path, **settings: Any) -> tuple[CAVMAE, PublishedWeights]:
    """The model in a CAV-MAE file, without heads, and its license; the rest is as in `model_from_released`."""
    return model_from_released(read_weights(path), path, **settings), CAV_MAE


def model_from_released(released: Mapping[str, Tensor], path: Path, **settings: Any) -> CAVMAE:
    """The model that a released state dict describes.

    `settings` are config fields, such as normalize_targets=False for the inpainting model. A fine-tuned model has no
    decoder. Raises ConfigError for a state dict of another model.
    """
    with said_of(path, "a pretrained CAV-MAE"):
        config = replace(CAVMAEConfig(**sizes_in(released)), **settings)
    return filled(CAVMAE, config, renamed(released, (*CAV_MAE_NAMES, *DECODER_NAMES)), path)


def sizes_in(released: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config fields that a released state dict's shapes tell. KeyError or ValueError for that of another model."""
    dim, _, patch, _ = released["patch_embed_v.proj.weight"].shape
    joint = len(numbers_in(released, r"blocks_u\.(\d+)\."))
    decoder = {"reconstruction_weight": 0.0} if "mlp_head.1.weight" in released else decoder_in(released)
    depth = len(numbers_in(released, r"blocks_v\.(\d+)\.")) + joint
    return {
        "size": size_of(dim, depth),
        "joint_depth": joint,
        "image_size": square(released["pos_embed_v"].shape[1], patch),
        "audio_size": eight_rows(released["pos_embed_a"].shape[1], patch),
        "patch_size": patch,
        **decoder,
    }


# One head, on the mean of what was there: joint tokens, or those of the one modality it was tuned with.
HEADS = PublishedHeads(kind="joint", mixed=False, names=head_names({"mlp_head": "joint"}))

IMPORTER = Importer(read=import_cav_mae, profile="kaldi", window_s=None, fit="short-side-crop", heads=HEADS)
